// SPDX-License-Identifier: Apache-2.0

// Package owned has the common properties of the objects that the operator creates for a node: their names, labels and owner.
package owned

import (
	"bytes"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
)

const (
	// ManagedByLabel is on every object that the operator creates.
	ManagedByLabel = "app.kubernetes.io/managed-by"
	// ManagedBy is the value of ManagedByLabel.
	ManagedBy = "nodebootstrap"
	// NodeNameAnnotation has the name of the node that an object is for. It is not a label, because the name can be too long for one.
	NodeNameAnnotation = "nodebootstrap.io/node-name"

	kubeconfigSecretPrefix = "bootstrap-kubeconfig-"
)

// KubeconfigSecretName is the name of the Secret with a node's bootstrap kubeconfig.
func KubeconfigSecretName(node string) string { return kubeconfigSecretPrefix + node }

// NodeOf is the node that a Secret is for, by its owner reference, by its annotation, or by the name of a kubeconfig Secret; empty if it
// is for none.
func NodeOf(o metav1.Object) string {
	if owner := metav1.GetControllerOfNoCopy(o); owner != nil && ofNodeBootstrap(owner) {
		return owner.Name
	}
	if node := o.GetAnnotations()[NodeNameAnnotation]; node != "" {
		return node
	}
	return NodeOfKubeconfigSecret(o.GetName())
}

// NodeOfKubeconfigSecret is the node whose kubeconfig Secret has this name; empty if it is not such a name.
func NodeOfKubeconfigSecret(name string) string {
	node, ok := strings.CutPrefix(name, kubeconfigSecretPrefix)
	if !ok {
		return ""
	}
	return node
}

// By reports whether this NodeBootstrap (by UID) owns an object.
func By(o metav1.Object, nb *v1alpha1.NodeBootstrap) bool {
	owner := metav1.GetControllerOf(o)
	return owner != nil && owner.UID == nb.UID
}

// Ours reports whether the operator created a Secret for a node, under this NodeBootstrap or an earlier one with its name.
func Ours(s *corev1.Secret, node string) bool {
	if owner := metav1.GetControllerOfNoCopy(s); owner != nil {
		return ofNodeBootstrap(owner) && owner.Name == node
	}
	// An orphan of "kubectl delete --cascade=orphan".
	return Labelled(s) && s.Annotations[NodeNameAnnotation] == node
}

func ofNodeBootstrap(owner *metav1.OwnerReference) bool {
	return owner.Kind == "NodeBootstrap" && strings.HasPrefix(owner.APIVersion, v1alpha1.GroupVersion.Group+"/")
}

// Meta is the metadata of an object that a NodeBootstrap owns. The owner reference does not block the owner's deletion: that would need a
// permission on the owner's finalizers.
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

// NotOurs is the problem of an existing Secret that the operator did not create.
func NotOurs(s *corev1.Secret) *problem.Problem {
	return problem.New(v1alpha1.ReasonObjectNotOurs,
		"the Secret %s/%s exists and does not belong to this NodeBootstrap: delete it. If it is still needed, copy it to another name first", s.Namespace, s.Name)
}

// Labelled reports whether an object has the operator's label.
func Labelled(o metav1.Object) bool { return o.GetLabels()[ManagedByLabel] == ManagedBy }

// Restored is a Secret with every field that the operator sets restored, or nil if nothing differs. Labels and annotations of others
// stay.
func Restored(have, want *corev1.Secret) *corev1.Secret {
	out := have.DeepCopy()
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	if out.Annotations == nil {
		out.Annotations = map[string]string{}
	}
	maps.Copy(out.Labels, want.Labels)
	maps.Copy(out.Annotations, want.Annotations)
	out.OwnerReferences = want.OwnerReferences
	if out.Data = have.Data; !maps.EqualFunc(have.Data, want.Data, bytes.Equal) { // DeepEqual would compare byte by byte
		out.Data = want.Data
	}
	if equality.Semantic.DeepEqual(have, out) {
		return nil
	}
	return out
}

// Immutable reports whether the data of a Secret cannot be changed.
func Immutable(s *corev1.Secret) bool { return s.Immutable != nil && *s.Immutable }
