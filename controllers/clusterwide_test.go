// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// runUntil runs a manager in a cluster with a clock until it is stopped.
func runUntil(t *testing.T, e *env.Env, k clock.PassiveClock, o controllers.Options) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	o.Clock, o.Registry = k, prometheus.NewRegistry()
	cfg, err := operator.Config(ctx, e.Cluster)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	mgr, err := newManagerWith(ctx, cfg, o)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// Anyone who may write NodeBootstraps could get a token that can impersonate any node. Such tokens require a flag of the
// manager; without the flag, existing ones are deleted.
func TestApprovalClusterWideTakesAFlag(t *testing.T) {
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
	const name = "wide"
	nb := e.NodeBootstrap(name)
	nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide
	nb.Spec.Cluster.CABundle = string(e.ServerCA())
	if err := e.Client.Create(t.Context(), nb); err != nil {
		t.Fatal(err)
	}

	k := clocktesting.NewFakePassiveClock(time.Now())
	stop := runUntil(t, e, k, controllers.Options{AllowClusterWide: true})
	_, kubeconfig := e.WaitAwaited(t, name)
	binding := &rbacv1.ClusterRoleBinding{}
	e.Get(t, "", rbac.BindingApproveClusterWide, binding)
	stop()

	stop = runUntil(t, e, k, controllers.Options{})
	nb = e.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonClusterWideNotAllowed)
	if m := env.ReadyMessage(nb); !strings.Contains(m, lifecycle.AllowClusterWideFlag) || !meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionStalled) {
		t.Errorf("the conditions do not say what to do: %+v", nb.Status.Conditions)
	}
	env.Eventually(t, "nothing is left of the credential", func() error {
		return errors.Join(e.NothingLeft(t.Context(), name), e.Absent(t.Context(), "", rbac.BindingApproveClusterWide, binding))
	})
	if nb.Status.Token != nil || nb.Status.KubeconfigSecretRef != nil || meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionApprovalEnforced) != nil {
		t.Errorf("the status names a token: %+v", nb.Status)
	}
	env.Eventually(t, "the end of the token", func() error {
		if _, err := whoIs(t.Context(), kubeconfig); err == nil {
			return errors.New("it is accepted")
		}
		return nil
	})
	env.Change(t, e, nb, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalNode })
	e.WaitAwaited(t, name)
	stop()
}
