// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// A kubelet with another node's kubeconfig gets no certificate; its CSR is denied and the alarm raised. The kubeconfig is
// worthless from then on, and a reissue lets the right machine join.
func TestStolenKubeconfig(t *testing.T) {
	t.Parallel()
	const name, thief = "victim", "impostor"
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	before, kubeconfig := cluster.WaitAwaited(t, name)
	startKubelet(t, thief, kubeconfig)
	env.Eventually(t, "the denial", func() error {
		for _, r := range sentWith(t, before.Status.Token.ID) {
			if slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
				return c.Type == certificatesv1.CertificateDenied && strings.Contains(c.Message, "system:node:"+thief)
			}) {
				return nil
			}
		}
		return errors.New("no request is denied")
	})
	alarmed := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonTokenMisused)
	if c := meta.FindStatusCondition(alarmed.Status.Conditions, v1alpha1.ConditionTokenMisused); c == nil || c.Reason != csr.ReasonWrongSubject {
		t.Errorf("the alarm is %+v", c)
	}
	if err := cluster.NothingLeft(t.Context(), name); err != nil {
		t.Error(err)
	}
	if err := cluster.Absent(t.Context(), "", thief, &corev1.Node{}); err != nil {
		t.Error(err)
	}

	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) {
		nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "after the theft"}
	})
	_, fresh := cluster.WaitAwaited(t, name)
	startKubelet(t, name, fresh)
	joined := waitJoined(t, name)
	if c := meta.FindStatusCondition(joined.Status.Conditions, v1alpha1.ConditionTokenMisused); c != nil {
		t.Errorf("the alarm stands after the reissue: %+v", c)
	}
	for _, r := range sentWith(t, before.Status.Token.ID) {
		if len(r.Status.Certificate) > 0 {
			t.Errorf("the request %s has a certificate", r.Name)
		}
	}
	if err := cluster.Absent(t.Context(), "", thief, &corev1.Node{}); err != nil {
		t.Error(err)
	}
}
