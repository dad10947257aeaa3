// SPDX-License-Identifier: Apache-2.0

package writes

import corev1 "k8s.io/api/core/v1"

// BindingName is what Limits and messages call a ClusterRoleBinding.
func BindingName(name string) string { return "ClusterRoleBinding " + name }

// SecretName is what messages call a Secret.
func SecretName(s *corev1.Secret) string { return "Secret " + s.Namespace + "/" + s.Name }

// DeletionOf is by what Limits knows the deletions of an object.
func DeletionOf(object string) string { return "deletion of the " + object }

// StatusOf is what Limits and messages call the status of a NodeBootstrap.
func StatusOf(name string) string { return "status of the NodeBootstrap " + name }
