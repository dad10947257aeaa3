// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// waitHealth waits until a NodeBootstrap has a status as Flux and Argo CD compute it, with the library that they use.
func waitHealth(t *testing.T, name string, want status.Status) {
	t.Helper()
	env.Eventually(t, fmt.Sprintf("%s being %s", name, want), func() error {
		nb := &unstructured.Unstructured{}
		nb.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("NodeBootstrap"))
		if err := cluster.Client.Get(t.Context(), client.ObjectKey{Name: name}, nb); err != nil {
			return err
		}
		got, err := status.Compute(nb)
		if err == nil && got.Status != want {
			err = fmt.Errorf("it is %s: %s", got.Status, got.Message)
		}
		return err
	})
}

// Pipelines see the kstatus values: Current when the one rule holds, Failed when action is required.
func TestKstatus(t *testing.T) {
	nb := cluster.NodeBootstrap("healthy")
	cluster.Create(t, nb)
	waitHealth(t, nb.Name, status.CurrentStatus)

	unknown := cluster.NodeBootstrap("unhealthy")
	unknown.Spec.Cluster.Server = ""
	cluster.Create(t, unknown)
	waitHealth(t, unknown.Name, status.FailedStatus)
	env.Change(t, cluster, unknown, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Cluster.Server = cluster.Server() })
	waitHealth(t, unknown.Name, status.CurrentStatus)

	_, kubeconfig := cluster.WaitAwaited(t, nb.Name)
	ask(t, kubeconfig, "another", newKey(t))
	waitHealth(t, nb.Name, status.FailedStatus)
	reissue(t, nb.Name, "once")
	waitHealth(t, nb.Name, status.CurrentStatus)
}
