// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// If a textbook binding lets kube-controller-manager approve any name for any token, the operator cannot prevent that a thief
// gets another node's certificate. It warns before, raises the alarm after, revokes the token, and does not record that the CSR
// was denied. With the policies installed only the operator approves, and the thief gets nothing.
func TestBypassedApprovalIsRecorded(t *testing.T) {
	const name, thief = "bypassed", "other-name"
	cluster.Create(t, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "textbook"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "system:bootstrappers"}},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole",
			Name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient"},
	})
	cluster.Create(t, cluster.NodeBootstrap(name))
	nb, kubeconfig := cluster.WaitAwaited(t, name)
	env.Eventually(t, "the warning before", func() error {
		cluster.Get(t, "", name, nb)
		c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionApprovalEnforced)
		return conditionIs(c, metav1.ConditionFalse, v1alpha1.ReasonApprovedByOthers)
	})
	tokenID := nb.Status.Token.ID
	startKubelet(t, thief, kubeconfig)
	alarmed := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonTokenMisused)
	if err := conditionIs(meta.FindStatusCondition(alarmed.Status.Conditions, v1alpha1.ConditionTokenMisused), metav1.ConditionTrue, csr.ReasonWrongSubject); err != nil {
		t.Error(err)
	}
	if err := cluster.NothingLeft(t.Context(), name); err != nil {
		t.Error(err)
	}
	env.Eventually(t, "a record that is true", func() error {
		cluster.Get(t, "", name, nb)
		recorded := map[string]v1alpha1.Verdict{}
		for _, d := range nb.Status.Certificates {
			recorded[string(d.UID)] = d.Verdict
		}
		for _, r := range sentWith(t, tokenID) {
			if issued := len(r.Status.Certificate) > 0; issued != (recorded[string(r.UID)] == v1alpha1.VerdictApproved) {
				return fmt.Errorf("of %s, issued %t, the record says %q", r.Name, issued, recorded[string(r.UID)])
			}
			if policies && approvedFor(&r) != "" {
				t.Fatalf("%s is approved although the guard is installed: %+v", r.Name, r.Status.Conditions)
			}
		}
		return nil
	})
}

func conditionIs(c *metav1.Condition, status metav1.ConditionStatus, reason string) error {
	if c == nil || c.Status != status || c.Reason != reason {
		return fmt.Errorf("the condition is %+v, want %s %s", c, status, reason)
	}
	return nil
}
