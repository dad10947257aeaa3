// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// Deleting the NodeBootstrap before the node has joined leaves nothing, and deleting the last one also deletes the bindings.
func TestDeletedBeforeJoining(t *testing.T) {
	const name = "never-joins"
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	cluster.Delete(t, nb)
	env.Eventually(t, "the deletion of everything", func() error { return cluster.NothingLeft(t.Context(), name) })
	env.Eventually(t, "the token being refused", func() error {
		if out, err := kubectlAs(t, kubeconfig, "auth", "whoami"); err == nil {
			return fmt.Errorf("kubectl says %s", out)
		}
		return nil
	})
	waitNoBindings(t)
}

func waitNoBindings(t *testing.T) {
	t.Helper()
	env.Eventually(t, "the deletion of the bindings", func() error {
		for _, binding := range rbac.BindingNames {
			if err := cluster.Absent(t.Context(), "", binding, &rbacv1.ClusterRoleBinding{}); err != nil {
				return err
			}
		}
		return nil
	})
}

// The next manager cleans up after NodeBootstraps that were deleted while no manager ran, including a pending CSR.
func TestDeletedWhileTheManagerIsDown(t *testing.T) {
	const name = "deleted-meanwhile"
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual
	cluster.Create(t, nb)
	awaited, kubeconfig := cluster.WaitAwaited(t, name)
	startKubelet(t, name, kubeconfig)
	cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonAwaitingApproval)
	if err := killManager(); err != nil {
		t.Fatal(err)
	}
	cluster.Delete(t, nb)
	if err := startManager(t.Context()); err != nil {
		t.Fatal(err)
	}
	env.Eventually(t, "the deletion of everything", func() error {
		if requests := sentWith(t, awaited.Status.Token.ID); len(requests) > 0 {
			return fmt.Errorf("%d requests are left", len(requests))
		}
		return cluster.NothingLeft(t.Context(), name)
	})
	waitNoBindings(t)
}
