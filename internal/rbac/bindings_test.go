// SPDX-License-Identifier: Apache-2.0

package rbac_test

import (
	"reflect"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
)

func TestBinding(t *testing.T) {
	tests := map[string]struct{ group, role string }{
		"nodebootstrap-create-csrs":          {"system:bootstrappers:nodebootstrap", "system:node-bootstrapper"},
		"nodebootstrap-approve-renewals":     {"system:nodes", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"},
		"nodebootstrap-approve-cluster-wide": {"system:bootstrappers:nodebootstrap:cluster-wide", "system:certificates.k8s.io:certificatesigningrequests:nodeclient"},
	}
	if len(tests) != len(rbac.BindingNames) {
		t.Errorf("the bindings are %v", rbac.BindingNames)
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			want := &rbacv1.ClusterRoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/managed-by": "nodebootstrap"}},
				Subjects:   []rbacv1.Subject{{APIGroup: "rbac.authorization.k8s.io", Kind: "Group", Name: tt.group}},
				RoleRef:    rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: tt.role},
			}
			if got := rbac.Binding(name); !reflect.DeepEqual(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
}

func TestBindingNeeded(t *testing.T) {
	nb := func(mode v1alpha1.Approval, deleted bool) v1alpha1.NodeBootstrap {
		out := *nodetest.NodeBootstrap()
		out.Spec.ClientCertificate.Approval = mode
		if deleted {
			out.DeletionTimestamp = new(nodetest.Ago(0))
		}
		return out
	}
	type all = []v1alpha1.NodeBootstrap
	tests := map[string]struct {
		all               all
		some, clusterWide bool
	}{
		"no NodeBootstrap":         {nil, false, false},
		"by default":               {all{nb("", false)}, true, false},
		"Node":                     {all{nb(v1alpha1.ApprovalNode, false)}, true, false},
		"Manual":                   {all{nb(v1alpha1.ApprovalManual, false)}, true, false},
		"ClusterWide":              {all{nb(v1alpha1.ApprovalClusterWide, false)}, true, true},
		"one of several":           {all{nb("", false), nb(v1alpha1.ApprovalClusterWide, false), nb("", false)}, true, true},
		"being deleted":            {all{nb(v1alpha1.ApprovalClusterWide, true)}, false, false},
		"one stays, one is on its": {all{nb("", false), nb(v1alpha1.ApprovalClusterWide, true)}, true, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for binding, want := range map[string]bool{rbac.BindingCreateCSRs: tt.some, rbac.BindingApproveRenewals: tt.some, rbac.BindingApproveClusterWide: tt.clusterWide} {
				if got := rbac.Needed(binding, tt.all); got != want {
					t.Errorf("%s: got %v", binding, got)
				}
			}
		})
	}
}

func crd() *metav1.ObjectMeta { return &metav1.ObjectMeta{Name: rbac.CRDName, UID: "crd-uid"} }

// ownedBinding is a shared binding as the operator creates it.
func ownedBinding(name string) *rbacv1.ClusterRoleBinding {
	b := rbac.Binding(name)
	b.OwnerReferences = []metav1.OwnerReference{rbac.Owner(crd())}
	return b
}

func TestBindingOwner(t *testing.T) {
	want := metav1.OwnerReference{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition", Name: "nodebootstraps.nodebootstrap.io", UID: "crd-uid"}
	if got := rbac.Owner(crd()); got != want {
		t.Errorf("got %v", got)
	}
}

func TestBindingOurs(t *testing.T) {
	tests := map[string]struct {
		edit func(*rbacv1.ClusterRoleBinding)
		want bool
	}{
		"unchanged":           {func(*rbacv1.ClusterRoleBinding) {}, true},
		"the label taken out": {func(b *rbacv1.ClusterRoleBinding) { b.Labels = nil }, true},
		"the owner taken out": {func(b *rbacv1.ClusterRoleBinding) { b.OwnerReferences = nil }, true},
		"neither":             {func(b *rbacv1.ClusterRoleBinding) { b.Labels, b.OwnerReferences = nil, nil }, false},
		"another's": {func(b *rbacv1.ClusterRoleBinding) {
			b.Labels, b.OwnerReferences[0].Name = map[string]string{owned.ManagedByLabel: "helm"}, "others.example.com"
		}, false},
		"of another kind": {func(b *rbacv1.ClusterRoleBinding) { b.Labels, b.OwnerReferences[0].Kind = nil, "Deployment" }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := ownedBinding(rbac.BindingCreateCSRs)
			tt.edit(b)
			if got := rbac.Ours(b); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestRestoredBinding(t *testing.T) {
	tests := map[string]struct {
		edit    func(*rbacv1.ClusterRoleBinding)
		differs bool
	}{
		"as it should be":      {func(*rbacv1.ClusterRoleBinding) {}, false},
		"another's label":      {func(b *rbacv1.ClusterRoleBinding) { b.Labels["team"] = "a" }, false},
		"another's annotation": {func(b *rbacv1.ClusterRoleBinding) { b.Annotations = map[string]string{"team": "a"} }, false},
		"no label":             {func(b *rbacv1.ClusterRoleBinding) { b.Labels = nil }, true},
		"no subject":           {func(b *rbacv1.ClusterRoleBinding) { b.Subjects = nil }, true},
		"another subject":      {func(b *rbacv1.ClusterRoleBinding) { b.Subjects[0].Name = "system:bootstrappers" }, true},
		"a second subject": {func(b *rbacv1.ClusterRoleBinding) {
			b.Subjects = append(b.Subjects, rbacv1.Subject{Kind: "User", Name: "eve"})
		}, true},
		"no owner":            {func(b *rbacv1.ClusterRoleBinding) { b.OwnerReferences = nil }, true},
		"a former CRD's":      {func(b *rbacv1.ClusterRoleBinding) { b.OwnerReferences[0].UID = "former" }, true},
		"the role, not fixed": {func(b *rbacv1.ClusterRoleBinding) { b.RoleRef.Name = "cluster-admin" }, false},
		"a second owner next to ours": {func(b *rbacv1.ClusterRoleBinding) {
			b.OwnerReferences = append(b.OwnerReferences, metav1.OwnerReference{UID: "x"})
		}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			have := ownedBinding(rbac.BindingCreateCSRs)
			tt.edit(have)
			before := have.DeepCopy()
			got := rbac.Restored(have, rbac.Owner(crd()))
			if (got != nil) != tt.differs {
				t.Fatalf("got %v", got)
			}
			if !reflect.DeepEqual(have, before) {
				t.Error("the input was changed, which may be in a cache")
			}
			if got != nil && !reflect.DeepEqual(got, ownedBinding(rbac.BindingCreateCSRs)) {
				t.Errorf("it is still not as it should be: %v", got)
			}
		})
	}
}

func TestRoleDiffers(t *testing.T) {
	b := ownedBinding(rbac.BindingCreateCSRs)
	if rbac.RoleDiffers(b) {
		t.Error("an unchanged binding differs")
	}
	b.RoleRef.Name = "cluster-admin"
	if !rbac.RoleDiffers(b) {
		t.Error("cluster-admin passes")
	}
	b = ownedBinding(rbac.BindingCreateCSRs)
	b.RoleRef.Kind = "Role"
	if !rbac.RoleDiffers(b) {
		t.Error("another kind passes")
	}
}

func TestBindingsProblemFor(t *testing.T) {
	type bindings = map[string]*rbacv1.ClusterRoleBinding
	foreign := func(name string) func(bindings) {
		return func(b bindings) { b[name].Labels, b[name].OwnerReferences = nil, nil }
	}
	absent := func(name string) func(bindings) { return func(b bindings) { b[name] = nil } }
	tests := map[string]struct {
		approval v1alpha1.Approval
		edit     func(bindings)
		reason   string
		named    string
	}{
		"all exist":                     {"", func(bindings) {}, "", ""},
		"all exist, ClusterWide":        {v1alpha1.ApprovalClusterWide, func(bindings) {}, "", ""},
		"none exists":                   {"", func(b bindings) { clear(b) }, v1alpha1.ReasonBindingsPending, ""},
		"one absent":                    {"", absent(rbac.BindingCreateCSRs), v1alpha1.ReasonBindingsPending, rbac.BindingCreateCSRs},
		"the other absent":              {"", absent(rbac.BindingApproveRenewals), v1alpha1.ReasonBindingsPending, rbac.BindingApproveRenewals},
		"cluster-wide absent":           {"", absent(rbac.BindingApproveClusterWide), "", ""},
		"cluster-wide absent, asked":    {v1alpha1.ApprovalClusterWide, absent(rbac.BindingApproveClusterWide), v1alpha1.ReasonBindingsPending, rbac.BindingApproveClusterWide},
		"another role":                  {"", func(b bindings) { b[rbac.BindingCreateCSRs].RoleRef.Name = "view" }, v1alpha1.ReasonBindingsPending, rbac.BindingCreateCSRs},
		"another subject":               {"", func(b bindings) { b[rbac.BindingCreateCSRs].Subjects[0].Name = "x" }, v1alpha1.ReasonBindingsPending, rbac.BindingCreateCSRs},
		"no label":                      {"", func(b bindings) { b[rbac.BindingCreateCSRs].Labels = nil }, "", ""},
		"another's":                     {"", foreign(rbac.BindingApproveRenewals), v1alpha1.ReasonObjectNotOurs, rbac.BindingApproveRenewals},
		"another's, and one is absent":  {"", func(b bindings) { absent(rbac.BindingCreateCSRs)(b); foreign(rbac.BindingApproveRenewals)(b) }, v1alpha1.ReasonObjectNotOurs, rbac.BindingApproveRenewals},
		"another's that is not needed":  {"", foreign(rbac.BindingApproveClusterWide), "", ""},
		"another's cluster-wide, asked": {v1alpha1.ApprovalClusterWide, foreign(rbac.BindingApproveClusterWide), v1alpha1.ReasonObjectNotOurs, rbac.BindingApproveClusterWide},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			have := bindings{}
			for _, b := range rbac.BindingNames {
				have[b] = ownedBinding(b)
			}
			tt.edit(have)
			nb := nodetest.NodeBootstrap()
			nb.Spec.ClientCertificate.Approval = tt.approval
			got := rbac.ProblemFor(nb, have)
			switch {
			case got == nil && tt.reason == "":
			case got == nil || got.Reason != tt.reason || !strings.Contains(got.Message, tt.named):
				t.Errorf("got %v, want %s about %s", got, tt.reason, tt.named)
			}
		})
	}
}
