// SPDX-License-Identifier: Apache-2.0

// Package bootstrap decides what the cluster needs for one node to join, and says how it stands.
//
// It is pure: [Decide] turns [Facts] and a time into a [Plan], [Report] turns what came of the plan into a status.
// Nothing here reads or writes anything.
package bootstrap

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

const (
	// ManagedByLabel is on everything that the operator makes.
	ManagedByLabel = "app.kubernetes.io/managed-by"
	// ManagedBy is the value of ManagedByLabel.
	ManagedBy = "nodebootstrap"
	// NodeNameAnnotation holds the name of the node that a child is for. It is no label: a name may be longer than one.
	NodeNameAnnotation = "nodebootstrap.io/node-name"

	// TokenNamespace is where the API server looks for bootstrap tokens.
	TokenNamespace = metav1.NamespaceSystem
	// Group is the group of every token that the operator makes.
	Group = "system:bootstrappers:nodebootstrap"
	// ClusterWideGroup is the further group of tokens whose requests kube-controller-manager shall approve.
	ClusterWideGroup = "system:bootstrappers:nodebootstrap:cluster-wide"

	kubeconfigSecretPrefix = "bootstrap-kubeconfig-"
)

// KubeconfigSecretName is the name of the Secret with a node's bootstrap kubeconfig.
func KubeconfigSecretName(node string) string { return kubeconfigSecretPrefix + node }

// TokenSecretName is the name of the Secret of the token with an id.
func TokenSecretName(id string) string { return bootstraputil.BootstrapTokenSecretName(id) }

// NodeOfChild is the node that a Secret is for, by the NodeBootstrap that owns it, by its annotation, or by the name that a
// kubeconfig Secret would have; empty when it is for none.
func NodeOfChild(o metav1.Object) string {
	if owner := metav1.GetControllerOfNoCopy(o); owner != nil && ofNodeBootstrap(owner) {
		return owner.Name
	}
	if node := o.GetAnnotations()[NodeNameAnnotation]; node != "" {
		return node
	}
	return NodeOfKubeconfigSecret(o.GetName())
}

// NodeOfKubeconfigSecret is the node whose kubeconfig Secret would have a name; empty when it is no such name.
func NodeOfKubeconfigSecret(name string) string {
	node, ok := strings.CutPrefix(name, kubeconfigSecretPrefix)
	if !ok {
		return ""
	}
	return node
}

// TokenIDOfUser is the id of the bootstrap token that authenticates as a user; empty when it is no token's user.
func TokenIDOfUser(username string) string {
	id, ok := strings.CutPrefix(username, bootstrapapi.BootstrapUserPrefix)
	if !ok || !bootstraputil.IsValidBootstrapTokenID(id) {
		return ""
	}
	return id
}

// ownedBy reports whether an object is a child of this very NodeBootstrap.
func ownedBy(o metav1.Object, nb *v1alpha1.NodeBootstrap) bool {
	owner := metav1.GetControllerOf(o)
	return owner != nil && owner.UID == nb.UID
}

// Ours reports whether a Secret was made by the operator for a node, under this NodeBootstrap or a former one of its name.
func Ours(s *corev1.Secret, node string) bool {
	if owner := metav1.GetControllerOfNoCopy(s); owner != nil {
		return ofNodeBootstrap(owner) && owner.Name == node
	}
	// An orphan, left behind by "kubectl delete --cascade=orphan".
	return s.Labels[ManagedByLabel] == ManagedBy && s.Annotations[NodeNameAnnotation] == node
}

func ofNodeBootstrap(owner *metav1.OwnerReference) bool {
	return owner.Kind == "NodeBootstrap" && strings.HasPrefix(owner.APIVersion, v1alpha1.GroupVersion.Group+"/")
}

// childMeta is the metadata of a child of a NodeBootstrap. The owner reference does not block the owner's deletion: that
// would need a right on the owner's finalizers.
func childMeta(nb *v1alpha1.NodeBootstrap, namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace:   namespace,
		Name:        name,
		Labels:      map[string]string{ManagedByLabel: ManagedBy},
		Annotations: map[string]string{NodeNameAnnotation: nb.Name},
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: v1alpha1.GroupVersion.String(),
			Kind:       "NodeBootstrap",
			Name:       nb.Name,
			UID:        nb.UID,
			Controller: new(true),
		}},
	}
}
