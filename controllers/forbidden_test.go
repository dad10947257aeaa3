// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// withoutRole deletes a Role of the operator and returns a function that restores it.
func withoutRole(t *testing.T, namespace string) (restore func()) {
	t.Helper()
	var role rbacv1.Role
	cluster.Get(t, namespace, "nodebootstrap-manager", &role)
	cluster.Delete(t, role.DeepCopy())
	return func() {
		role.ResourceVersion, role.UID = "", ""
		if err := cluster.Client.Create(t.Context(), &role); err != nil {
			t.Fatal(err)
		}
	}
}

// A forbidden read is reported in the status until it is allowed again.
func TestForbiddenReadIsReported(t *testing.T) {
	const name = "forbidden"
	restore := withoutRole(t, corev1.NamespaceNodeLease)
	cluster.Create(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}) // so that its Lease is read
	cluster.Create(t, cluster.NodeBootstrap(name))
	nb := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonForbidden)
	if message := env.ReadyMessage(nb); !strings.Contains(message, "leases") || !strings.Contains(message, "RBAC") {
		t.Errorf("the message does not say what is missing: %s", message)
	}
	restore()
	cluster.WaitAwaited(t, name)
}

// A working credential stays Ready when a later read is forbidden, and the message reports it.
func TestForbiddenReadLeavesReadyAlone(t *testing.T) {
	const name = "forbidden-later"
	cluster.Create(t, cluster.NodeBootstrap(name))
	cluster.WaitAwaited(t, name)
	restore := withoutRole(t, corev1.NamespaceNodeLease)
	cluster.Create(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	wantReported := func(want bool) {
		env.Eventually(t, "the message", func() error {
			nb := cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode)
			if message := env.ReadyMessage(nb); strings.Contains(message, "leases") != want {
				return fmt.Errorf("it says: %s", message)
			}
			return nil
		})
	}
	wantReported(true)
	restore()
	wantReported(false)
}
