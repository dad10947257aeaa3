// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// The operator starts while the CA file is missing: NodeBootstraps that need it report that, the others go on, and the file is
// used as soon as it exists. Then the operator loses the permission to ask who else approves: the last answer is valid for less
// than two refreshes.
func TestOperatorGoesOnWithoutCAFileAndReviews(t *testing.T) {
	t.Parallel()
	e, err := env.Start(t.Context(), localcluster.Config{NoControllerManager: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
	})
	file := filepath.Join(t.TempDir(), "ca.crt")
	k := clocktesting.NewFakePassiveClock(time.Now())
	t.Cleanup(runUntil(t, e, k, controllers.Options{ClusterCAFile: file}))
	own, needs := e.NodeBootstrap("has-its-own-ca"), e.NodeBootstrap("needs-the-file")
	own.Spec.Cluster.CABundle = string(e.ServerCA())
	for _, nb := range []*v1alpha1.NodeBootstrap{own, needs} {
		if err := e.Client.Create(t.Context(), nb); err != nil {
			t.Fatal(err)
		}
	}
	e.WaitAwaited(t, own.Name)
	waits := func(reason, says string) {
		t.Helper()
		nb := e.WaitReady(t, needs.Name, metav1.ConditionFalse, reason)
		if m := env.ReadyMessage(nb); !strings.Contains(m, "--cluster-ca-file") || !strings.Contains(m, says) {
			t.Errorf("the condition says %q", m)
		}
	}
	waits(v1alpha1.ReasonCAInvalid, "cannot be read")
	for _, content := range []struct {
		file         []byte
		reason, says string
	}{
		{nil, v1alpha1.ReasonCAInvalid, "empty"},
		{[]byte("no PEM"), v1alpha1.ReasonCAInvalid, "PEM"},
		{ca(t, k.Now().Add(-time.Minute)), v1alpha1.ReasonCAExpired, "expire"},
	} {
		if err := os.WriteFile(file, content.file, 0o600); err != nil {
			t.Fatal(err)
		}
		env.Eventually(t, "the condition of "+content.says, func() error {
			var nb v1alpha1.NodeBootstrap
			e.Get(t, "", needs.Name, &nb)
			if m := env.ReadyMessage(&nb); !strings.Contains(m, content.says) {
				return fmt.Errorf("it is %q", m)
			}
			return nil
		})
		waits(content.reason, content.says)
	}
	if err := os.WriteFile(file, e.ServerCA(), 0o600); err != nil {
		t.Fatal(err)
	}
	e.WaitAwaited(t, needs.Name)

	enforced := func(status metav1.ConditionStatus, reason string) {
		t.Helper()
		env.Eventually(t, "ApprovalEnforced "+string(status), func() error {
			var nb v1alpha1.NodeBootstrap
			e.Get(t, "", own.Name, &nb)
			for _, c := range nb.Status.Conditions {
				if c.Type == v1alpha1.ConditionApprovalEnforced && c.Status == status && c.Reason == reason {
					return nil
				}
			}
			return fmt.Errorf("the conditions are %+v", nb.Status.Conditions)
		})
	}
	enforced(metav1.ConditionTrue, v1alpha1.ReasonNothingElseApproves)
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "nodebootstrap-manager"}}
	env.Change(t, e, role, func(r *rbacv1.ClusterRole) {
		r.Rules = slices.DeleteFunc(r.Rules, func(rule rbacv1.PolicyRule) bool { return slices.Contains(rule.Resources, "subjectaccessreviews") })
	})
	k.SetTime(time.Now().Add(10 * time.Minute))
	if err := e.Client.Create(t.Context(), &rbacv1.ClusterRoleBinding{ // triggers a review
		ObjectMeta: metav1.ObjectMeta{Name: "any"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
	}); err != nil {
		t.Fatal(err)
	}
	enforced(metav1.ConditionUnknown, v1alpha1.ReasonApproversUnknown)
}
