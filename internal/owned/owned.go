// SPDX-License-Identifier: Apache-2.0

// Package owned knows what the objects that the operator creates for a node have in common: their names, labels and owner.
package owned

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
)

const (
	// ManagedByLabel is on everything that the operator makes.
	ManagedByLabel = "app.kubernetes.io/managed-by"
	// ManagedBy is the value of ManagedByLabel.
	ManagedBy = "nodebootstrap"
	// NodeNameAnnotation holds the name of the node that a child is for. It is no label: a name may be longer than one.
	NodeNameAnnotation = "nodebootstrap.io/node-name"

	kubeconfigSecretPrefix = "bootstrap-kubeconfig-"
)

// KubeconfigSecretName is the name of the Secret with a node's bootstrap kubeconfig.
func KubeconfigSecretName(node string) string { return kubeconfigSecretPrefix + node }

// NodeOf is the node that a Secret is for, by the NodeBootstrap that owns it, by its annotation, or by the name that a
// kubeconfig Secret would have; empty when it is for none.
func NodeOf(o metav1.Object) string {
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

// By reports whether an object is a child of this very NodeBootstrap.
func By(o metav1.Object, nb *v1alpha1.NodeBootstrap) bool {
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

// Meta is the metadata of a child of a NodeBootstrap. The owner reference does not block the owner's deletion: that
// would need a right on the owner's finalizers.
func Meta(nb *v1alpha1.NodeBootstrap, namespace, name string) metav1.ObjectMeta {
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

// NotOurs is the problem of a Secret in the way.
func NotOurs(s *corev1.Secret) *problem.Problem {
	return &problem.Problem{Reason: v1alpha1.ReasonObjectNotOurs, Message: fmt.Sprintf(
		"the Secret %s/%s exists and does not belong to this NodeBootstrap: delete it. If somebody needs it, copy it to another name first", s.Namespace, s.Name)}
}

// Labelled reports whether an object says that the operator made it.
func Labelled(o metav1.Object) bool { return o.GetLabels()[ManagedByLabel] == ManagedBy }
