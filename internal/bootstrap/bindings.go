// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"maps"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

const (
	// CRDName is the CustomResourceDefinition that owns the shared bindings, so that an uninstall takes them along.
	CRDName = "nodebootstraps.nodebootstrap.io"

	// BindingCreateCSRs lets tokens send requests.
	BindingCreateCSRs = "nodebootstrap-create-csrs"
	// BindingApproveRenewals has kube-controller-manager approve what nodes ask for themselves.
	BindingApproveRenewals = "nodebootstrap-approve-renewals"
	// BindingApproveClusterWide has kube-controller-manager approve what tokens of ClusterWideGroup ask for.
	BindingApproveClusterWide = "nodebootstrap-approve-cluster-wide"
)

// BindingNames are the names of all shared bindings.
var BindingNames = []string{BindingCreateCSRs, BindingApproveRenewals, BindingApproveClusterWide}

// bindingSpecs say which group each binding gives which ClusterRole, all of them Kubernetes' own.
var bindingSpecs = map[string]struct{ group, role string }{
	BindingCreateCSRs:         {Group, "system:node-bootstrapper"},
	BindingApproveRenewals:    {"system:nodes", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"},
	BindingApproveClusterWide: {ClusterWideGroup, "system:certificates.k8s.io:certificatesigningrequests:nodeclient"},
}

// Binding is a shared binding as it should be, except for its owner.
func Binding(name string) *rbacv1.ClusterRoleBinding {
	spec := bindingSpecs[name]
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{ManagedByLabel: ManagedBy}},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: spec.group}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: spec.role},
	}
}

// BindingNeeded reports whether any of these NodeBootstraps needs a shared binding.
func BindingNeeded(name string, all []v1alpha1.NodeBootstrap) bool {
	return slices.ContainsFunc(all, func(nb v1alpha1.NodeBootstrap) bool {
		return nb.DeletionTimestamp == nil && NeedsBinding(&nb, name)
	})
}

// NeedsBinding reports whether a NodeBootstrap needs a shared binding.
func NeedsBinding(nb *v1alpha1.NodeBootstrap, name string) bool {
	return slices.Contains(bindingsFor(nb), name)
}

func bindingsFor(nb *v1alpha1.NodeBootstrap) []string {
	if nb.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide {
		return BindingNames
	}
	return []string{BindingCreateCSRs, BindingApproveRenewals}
}

// BindingOurs reports whether a binding was made by the operator.
func BindingOurs(b *rbacv1.ClusterRoleBinding) bool {
	return b.Labels[ManagedByLabel] == ManagedBy || bindingOwner(b) != nil
}

// OwnsBindings reports whether an owner is the one that the shared bindings have.
func OwnsBindings(o metav1.OwnerReference) bool {
	return o.Kind == "CustomResourceDefinition" && o.Name == CRDName
}

func bindingOwner(b *rbacv1.ClusterRoleBinding) *metav1.OwnerReference {
	i := slices.IndexFunc(b.OwnerReferences, OwnsBindings)
	if i < 0 {
		return nil
	}
	return &b.OwnerReferences[i]
}

// BindingOwner is the owner reference that a shared binding carries.
func BindingOwner(crd metav1.Object) metav1.OwnerReference {
	return metav1.OwnerReference{
		APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition", Name: CRDName, UID: crd.GetUID(),
	}
}

// RestoredBinding is a binding as it is with everything that the operator cares about as it should be, or nil when nothing
// differs. A different role is not fixed thereby: roleRef cannot be changed, see RoleDiffers.
func RestoredBinding(have *rbacv1.ClusterRoleBinding, owner metav1.OwnerReference) *rbacv1.ClusterRoleBinding {
	out := have.DeepCopy()
	want := Binding(have.Name)
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	maps.Copy(out.Labels, want.Labels)
	out.Subjects = want.Subjects
	out.OwnerReferences = []metav1.OwnerReference{owner}
	if equality.Semantic.DeepEqual(have, out) {
		return nil
	}
	return out
}

// RoleDiffers reports whether a binding gives another role than it should, so that it has to be created again.
func RoleDiffers(b *rbacv1.ClusterRoleBinding) bool { return b.RoleRef != Binding(b.Name).RoleRef }

// BindingsProblemFor is why the shared bindings do not serve a NodeBootstrap; nil when they do. Absent bindings are nil.
func BindingsProblemFor(nb *v1alpha1.NodeBootstrap, bindings map[string]*rbacv1.ClusterRoleBinding) *Problem {
	var pending *Problem
	for _, name := range bindingsFor(nb) {
		b := bindings[name]
		switch {
		case b != nil && !BindingOurs(b):
			return &Problem{v1alpha1.ReasonObjectNotOurs, fmt.Sprintf(
				"the ClusterRoleBinding %s exists and does not belong to this operator: delete it. If somebody needs it, copy it to another name first", name)}
		case b == nil || RoleDiffers(b) || !equality.Semantic.DeepEqual(b.Subjects, Binding(name).Subjects):
			pending = &Problem{v1alpha1.ReasonBindingsPending, fmt.Sprintf("the ClusterRoleBinding %s is being made", name)}
		}
	}
	return pending
}
