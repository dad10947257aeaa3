// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// nodeclient returns a binding that lets kube-controller-manager approve any name for a subject.
func nodeclient(name string, subject rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	subject.APIGroup = rbacv1.GroupName
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Subjects:   []rbacv1.Subject{subject},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient"},
	}
}

// The usual bindings for bootstrap tokens defeat the operator's purpose. It reports them by name, until they are deleted.
func TestBypassIsDetected(t *testing.T) {
	const name = "bypassed"
	cluster.Create(t, cluster.NodeBootstrap(name))
	nb, _ := cluster.WaitAwaited(t, name)
	if c := waitCond(t, name, v1alpha1.ConditionApprovalEnforced, metav1.ConditionTrue); c.Reason != v1alpha1.ReasonNothingElseApproves {
		t.Errorf("without such a binding it is %+v", c)
	}
	for what, subject := range map[string]rbacv1.Subject{
		"all-bootstrappers": {Kind: rbacv1.GroupKind, Name: "system:bootstrappers"},
		"our-group":         {Kind: rbacv1.GroupKind, Name: "system:bootstrappers:nodebootstrap"},
		"everybody":         {Kind: rbacv1.GroupKind, Name: "system:authenticated"},
		"this-token":        {Kind: rbacv1.UserKind, Name: "system:bootstrap:" + nb.Status.Token.ID},
	} {
		t.Run(what, func(t *testing.T) {
			binding := nodeclient("textbook-"+what, subject)
			cluster.Create(t, binding)
			if what == "this-token" {
				poke(t, name) // a binding that names one token is checked when its node is reconciled
			}
			c := waitCond(t, name, v1alpha1.ConditionApprovalEnforced, metav1.ConditionFalse)
			if c.Reason != v1alpha1.ReasonApprovedByOthers || !strings.Contains(c.Message, binding.Name) {
				t.Errorf("it is %+v, want the name of the binding", c)
			}
			env.Eventually(t, "the event", func() error {
				if got := eventsOf(t, name); !slices.Contains(got, v1alpha1.ReasonApprovedByOthers) {
					return fmt.Errorf("the events are %v", got)
				}
				return nil
			})
			cluster.Delete(t, binding)
			if what == "this-token" {
				poke(t, name)
			}
			waitCond(t, name, v1alpha1.ConditionApprovalEnforced, metav1.ConditionTrue)
		})
	}
}

// If several such bindings exist for different groups, each is named.
func TestBypassNamesEachGroupsBinding(t *testing.T) {
	const name = "bypassed-twice"
	cluster.Create(t, cluster.NodeBootstrap(name))
	cluster.WaitAwaited(t, name)
	cluster.Create(t, nodeclient("textbook-one", rbacv1.Subject{Kind: rbacv1.GroupKind, Name: "system:bootstrappers"}))
	cluster.Create(t, nodeclient("textbook-two", rbacv1.Subject{Kind: rbacv1.GroupKind, Name: "system:bootstrappers:nodebootstrap"}))
	env.Eventually(t, "both names", func() error {
		c := waitCond(t, name, v1alpha1.ConditionApprovalEnforced, metav1.ConditionFalse)
		if !strings.Contains(c.Message, "textbook-one") || !strings.Contains(c.Message, "textbook-two") {
			return fmt.Errorf("it is %s", c.Message)
		}
		return nil
	})
}

// With approval ClusterWide the user has chosen that.
func TestApprovalClusterWideIsNotEnforced(t *testing.T) {
	const name = "wide-by-choice"
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide
	cluster.Create(t, nb)
	cluster.WaitAwaited(t, name)
	if c := waitCond(t, name, v1alpha1.ConditionApprovalEnforced, metav1.ConditionFalse); c.Reason != v1alpha1.ReasonApprovalClusterWide {
		t.Errorf("it is %+v", c)
	}
}
