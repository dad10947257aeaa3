// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"fmt"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// waitBindings waits until exactly these shared bindings exist.
func waitBindings(t *testing.T, names ...string) {
	t.Helper()
	env.Eventually(t, "the bindings", func() error {
		for _, name := range rbac.BindingNames {
			absent := cluster.Absent(t.Context(), "", name, &rbacv1.ClusterRoleBinding{})
			if wanted := contains(names, name); wanted != (absent != nil) {
				return fmt.Errorf("%s: wanted is %t, but %w", name, wanted, absent)
			}
		}
		return nil
	})
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

func binding(t *testing.T, name string) *rbacv1.ClusterRoleBinding {
	t.Helper()
	var b rbacv1.ClusterRoleBinding
	cluster.Get(t, "", name, &b)
	return &b
}

// Bindings are created with the first NodeBootstrap that needs them and deleted with the last.
func TestBindingsComeAndGo(t *testing.T) {
	waitBindings(t)
	plain, wide := cluster.NodeBootstrap("binds"), cluster.NodeBootstrap("binds-wide")
	wide.Spec.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide
	cluster.Create(t, plain)
	waitBindings(t, rbac.BindingCreateCSRs, rbac.BindingApproveRenewals)
	cluster.Create(t, wide)
	waitBindings(t, rbac.BindingNames...)

	var crd metav1.PartialObjectMetadata
	crd.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
	cluster.Get(t, "", rbac.CRDName, &crd)
	for _, name := range rbac.BindingNames {
		b := binding(t, name)
		if len(b.OwnerReferences) != 1 || b.OwnerReferences[0].UID != crd.UID {
			t.Errorf("%s has the owners %+v", name, b.OwnerReferences)
		}
	}
	env.Change(t, cluster, wide, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalNode })
	waitBindings(t, rbac.BindingCreateCSRs, rbac.BindingApproveRenewals)
	cluster.Delete(t, wide.DeepCopy())
	waitBindings(t, rbac.BindingCreateCSRs, rbac.BindingApproveRenewals)
	cluster.Delete(t, plain.DeepCopy())
	waitBindings(t)
}

func TestBindingsAreRestored(t *testing.T) {
	const name = rbac.BindingCreateCSRs
	cluster.Create(t, cluster.NodeBootstrap("binds-restored"))
	cluster.WaitAwaited(t, "binds-restored")
	want := binding(t, name)
	for what, change := range map[string]func(*rbacv1.ClusterRoleBinding){
		"subjects": func(b *rbacv1.ClusterRoleBinding) { b.Subjects[0].Name = "system:unauthenticated" },
		"label":    func(b *rbacv1.ClusterRoleBinding) { b.Labels = nil },
		"owner":    func(b *rbacv1.ClusterRoleBinding) { b.OwnerReferences = nil },
	} {
		t.Run(what, func(t *testing.T) {
			env.Change(t, cluster, binding(t, name), change)
			env.Eventually(t, "restoring", func() error { return sameBinding(binding(t, name), want) })
		})
	}
	t.Run("deleted", func(t *testing.T) {
		cluster.Delete(t, binding(t, name))
		env.Eventually(t, "restoring", func() error {
			var have rbacv1.ClusterRoleBinding
			if err := cluster.Client.Get(t.Context(), client.ObjectKey{Name: name}, &have); err != nil {
				return err
			}
			return sameBinding(&have, want)
		})
	})
	t.Run("role", func(t *testing.T) {
		cluster.Delete(t, binding(t, name))
		wrong := want.DeepCopy()
		wrong.ObjectMeta = metav1.ObjectMeta{Name: name, Labels: want.Labels}
		wrong.RoleRef.Name = "cluster-admin"
		env.Eventually(t, "a write before the operator's", func() error {
			if err := cluster.Client.Create(t.Context(), wrong.DeepCopy()); err == nil {
				return nil
			}
			_ = cluster.Client.Delete(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}})
			return fmt.Errorf("the operator was faster")
		})
		env.Eventually(t, "replacing", func() error {
			var have rbacv1.ClusterRoleBinding
			if err := cluster.Client.Get(t.Context(), client.ObjectKey{Name: name}, &have); err != nil {
				return err
			}
			return sameBinding(&have, want)
		})
	})
}

func sameBinding(have, want *rbacv1.ClusterRoleBinding) error {
	if !equality.Semantic.DeepEqual(have.Subjects, want.Subjects) || have.RoleRef != want.RoleRef ||
		!equality.Semantic.DeepEqual(have.Labels, want.Labels) || !equality.Semantic.DeepEqual(have.OwnerReferences, want.OwnerReferences) {
		return fmt.Errorf("%s is not as it was: %+v", have.Name, have)
	}
	return nil
}

func TestForeignBindingIsUntouched(t *testing.T) {
	waitBindings(t)
	foreign := rbac.Binding(rbac.BindingApproveRenewals)
	foreign.Labels = nil
	foreign.RoleRef.Name = "view"
	cluster.Create(t, foreign)
	cluster.Create(t, cluster.NodeBootstrap("binds-foreign"))
	nb := cluster.WaitReady(t, "binds-foreign", metav1.ConditionFalse, v1alpha1.ReasonObjectNotOurs)
	if !strings.Contains(env.ReadyMessage(nb), foreign.Name) {
		t.Errorf("the message does not name the binding: %s", env.ReadyMessage(nb))
	}
	if now := binding(t, foreign.Name); now.ResourceVersion != foreign.ResourceVersion {
		t.Error("the foreign binding was written")
	}
	if tokens, err := cluster.TokenSecrets(t.Context(), "binds-foreign"); err != nil || len(tokens) > 0 {
		t.Errorf("got %d tokens (%v)", len(tokens), err)
	}
	cluster.Delete(t, foreign.DeepCopy())
	cluster.WaitAwaited(t, "binds-foreign")
}
