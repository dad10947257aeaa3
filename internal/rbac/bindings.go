// SPDX-License-Identifier: Apache-2.0

// Package rbac has the three ClusterRoleBindings that all NodeBootstraps share.
package rbac

import (
	"maps"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

const (
	// CRDName is the CustomResourceDefinition that owns the shared bindings, so that an uninstall deletes them.
	CRDName = "nodebootstraps.nodebootstrap.io"

	// BindingCreateCSRs lets tokens send CSRs.
	BindingCreateCSRs = "nodebootstrap-create-csrs"
	// BindingApproveRenewals lets kube-controller-manager approve the CSRs that nodes send for themselves.
	BindingApproveRenewals = "nodebootstrap-approve-renewals"
	// BindingApproveClusterWide lets kube-controller-manager approve the CSRs of tokens in ClusterWideGroup.
	BindingApproveClusterWide = "nodebootstrap-approve-cluster-wide"
)

// BindingNames are the names of all shared bindings.
var BindingNames = []string{BindingCreateCSRs, BindingApproveRenewals, BindingApproveClusterWide}

// bindingSpecs have the group and the ClusterRole of each binding; Kubernetes defines all these roles.
var bindingSpecs = map[string]struct{ group, role string }{
	BindingCreateCSRs:         {token.Group, "system:node-bootstrapper"},
	BindingApproveRenewals:    {"system:nodes", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"},
	BindingApproveClusterWide: {token.ClusterWideGroup, "system:certificates.k8s.io:certificatesigningrequests:nodeclient"},
}

// Binding is a shared binding with the wanted content, without its owner.
func Binding(name string) *rbacv1.ClusterRoleBinding {
	spec := bindingSpecs[name]
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{owned.ManagedByLabel: owned.ManagedBy}},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: spec.group}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: spec.role},
	}
}

// Needed reports whether any of these NodeBootstraps needs a shared binding.
func Needed(name string, all []v1alpha1.NodeBootstrap) bool {
	return slices.ContainsFunc(all, func(nb v1alpha1.NodeBootstrap) bool {
		return nb.DeletionTimestamp == nil && Needs(&nb, name)
	})
}

// Needs reports whether a NodeBootstrap needs a shared binding.
func Needs(nb *v1alpha1.NodeBootstrap, name string) bool {
	return slices.Contains(bindingsFor(nb), name)
}

func bindingsFor(nb *v1alpha1.NodeBootstrap) []string {
	if nb.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide {
		return BindingNames
	}
	return []string{BindingCreateCSRs, BindingApproveRenewals}
}

// Ours reports whether the operator created a binding.
func Ours(b *rbacv1.ClusterRoleBinding) bool {
	return owned.Labelled(b) || slices.ContainsFunc(b.OwnerReferences, OwnsBindings)
}

// OwnsBindings reports whether an owner is the owner of the shared bindings.
func OwnsBindings(o metav1.OwnerReference) bool {
	return o.Kind == "CustomResourceDefinition" && o.Name == CRDName
}

// Owner is the owner reference of a shared binding.
func Owner(crd metav1.Object) metav1.OwnerReference {
	return metav1.OwnerReference{
		APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition", Name: CRDName, UID: crd.GetUID(),
	}
}

// Restored is a binding with every field that the operator sets restored, or nil if nothing differs. It does not fix a different role:
// roleRef cannot be changed, see RoleDiffers.
func Restored(have *rbacv1.ClusterRoleBinding, owner metav1.OwnerReference) *rbacv1.ClusterRoleBinding {
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

// RoleDiffers reports whether a binding gives another role than it should, so that it must be created again.
func RoleDiffers(b *rbacv1.ClusterRoleBinding) bool { return b.RoleRef != Binding(b.Name).RoleRef }

// ProblemFor is why the shared bindings do not work for a NodeBootstrap; nil if they do. Absent bindings are nil.
func ProblemFor(nb *v1alpha1.NodeBootstrap, bindings map[string]*rbacv1.ClusterRoleBinding) *problem.Problem {
	var pending *problem.Problem
	for _, name := range bindingsFor(nb) {
		b := bindings[name]
		switch {
		case b != nil && !Ours(b):
			return problem.New(v1alpha1.ReasonObjectNotOurs,
				"the ClusterRoleBinding %s exists and does not belong to this operator: delete it. If it is still needed, copy it to another name first", name)
		case b == nil || RoleDiffers(b) || !equality.Semantic.DeepEqual(b.Subjects, Binding(name).Subjects):
			pending = problem.New(v1alpha1.ReasonBindingsPending, "the ClusterRoleBinding %s is being created", name)
		}
	}
	return pending
}
