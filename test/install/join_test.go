// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// The operator does its whole job under its policies, and is never refused: bindings, token, kubeconfig, status, verdict,
// revocation, and the same again for a reissue.
func TestNodeJoinsWithPoliciesInForce(t *testing.T) {
	const name = "caged-node"
	before, err := audit.Entries()
	env.Must(t, err)
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	kubelet, err := cluster.StartKubelet(t.Context(), localcluster.KubeletConfig{NodeName: name, BootstrapKubeconfig: kubeconfig})
	env.Must(t, err)
	t.Cleanup(func() {
		env.Check(t, kubelet.Stop())
		env.Check(t, cluster.Client.Delete(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	})
	cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonJoined)
	env.Check(t, cluster.NothingLeft(t.Context(), name))
	jane := as(t, owner) // may not reissue for a member, as the administrator may
	refused(t, limits, func() error {
		member := nb.DeepCopy()
		cluster.Get(t, "", name, member)
		reissue(member)
		return jane.Update(t.Context(), member)
	})
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) {
		nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "once"}
	})
	cluster.WaitAwaited(t, name)
	cluster.Delete(t, nb)
	env.Eventually(t, "the deletion of the credential", func() error { return cluster.NothingLeft(t.Context(), name) })
	after, err := audit.Entries()
	env.Must(t, err)
	for _, e := range after[len(before):] {
		if e.ResponseStatus.Code == http.StatusForbidden || e.ResponseStatus.Code == http.StatusUnprocessableEntity {
			t.Errorf("the operator was refused: %s", e)
		}
	}
}
