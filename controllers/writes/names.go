// SPDX-License-Identifier: Apache-2.0

package writes

import corev1 "k8s.io/api/core/v1"

// BindingName is the name of a ClusterRoleBinding in Limits and messages.
func BindingName(name string) string { return "ClusterRoleBinding " + name }

// SecretName is the name of a Secret in messages.
func SecretName(s *corev1.Secret) string { return "Secret " + s.Namespace + "/" + s.Name }

// DeletionOf is the key in Limits of the deletions of an object.
func DeletionOf(object string) string { return "deletion of the " + object }

// StatusOf is the name of a NodeBootstrap's status in Limits and messages.
func StatusOf(name string) string { return "status of the NodeBootstrap " + name }
