// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
)

const (
	// maxTokenUsers is how many users of bootstrap tokens are kept of a binding. A binding that names more counts as naming
	// every token.
	maxTokenUsers = 100
	// EveryToken is the user that stands for more than maxTokenUsers users. everyTokenKind is its kind, which the API server
	// would reject.
	EveryToken, everyTokenKind = "(every token)", "(every token)"
	// maxSubjects bounds the subjects that are kept of the shared bindings, each of which should have one.
	maxSubjects = 4
)

// stripBinding keeps of the bindings of others only the name and the users of bootstrap tokens.
func stripBinding(o any) (any, error) {
	b, ok := o.(*rbacv1.ClusterRoleBinding)
	if !ok {
		return o, nil
	}
	if slices.Contains(rbac.BindingNames, b.Name) {
		stripSharedBinding(b)
		return o, nil
	}
	bareMetadata(&b.ObjectMeta, b.Size(), nil, nil)
	b.RoleRef, b.Subjects = rbacv1.RoleRef{}, tokenSubjects(b.Subjects)
	return o, nil
}

// tokenSubjects returns copies of the subjects that are users of bootstrap tokens.
func tokenSubjects(all []rbacv1.Subject) []rbacv1.Subject {
	var out []rbacv1.Subject
	for _, s := range all {
		if tokenUser(s) == "" {
			continue
		}
		if s.Kind == everyTokenKind || len(out) == maxTokenUsers {
			return []rbacv1.Subject{{Kind: everyTokenKind, Name: EveryToken}}
		}
		out = append(out, rbacv1.Subject{Kind: s.Kind, Name: s.Name})
	}
	return out
}

// stripSharedBinding keeps the fields of a shared binding that are compared. An edited binding still differs after it.
func stripSharedBinding(b *rbacv1.ClusterRoleBinding) {
	labels := only(b.Labels, maxWordBytes, owned.ManagedByLabel)
	owners, all := bareCRDOwners(b.OwnerReferences)
	b.OwnerReferences = nil
	left := bareMetadata(&b.ObjectMeta, b.Size(), labels, nil)
	b.OwnerReferences = owners
	if !all {
		left = max(left, something)
	}
	left.mark(&b.ObjectMeta)
	b.RoleRef = rbacv1.RoleRef{APIGroup: cut(b.RoleRef.APIGroup, maxWordBytes), Kind: cut(b.RoleRef.Kind, maxWordBytes), Name: cut(b.RoleRef.Name, maxWordBytes)}
	subjects := make([]rbacv1.Subject, 0, 1)
	for _, s := range b.Subjects[:min(len(b.Subjects), maxSubjects)] {
		subjects = append(subjects, rbacv1.Subject{
			APIGroup: cut(s.APIGroup, maxWordBytes), Kind: cut(s.Kind, maxWordBytes), Name: cut(s.Name, maxWordBytes), Namespace: cut(s.Namespace, maxWordBytes),
		})
	}
	b.Subjects = subjects
}

// bareCRDOwners returns the CustomResourceDefinition among owners, and one entry for all others. It reports whether no others
// exist.
func bareCRDOwners(owners []metav1.OwnerReference) (bare []metav1.OwnerReference, all bool) {
	for _, o := range owners {
		if rbac.OwnsBindings(o) && len(bare) == 0 && len(o.APIVersion) <= maxWordBytes && len(o.UID) <= maxWordBytes {
			bare = append(bare, o)
		}
	}
	if len(bare) < len(owners) {
		return append(bare, metav1.OwnerReference{Kind: otherEntry}), false
	}
	return bare, true
}
