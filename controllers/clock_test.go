// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/apiserver"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// An operator whose machine's clock is an hour behind created tokens with a ttl of half an hour, which were already expired.
func TestClockAnHourBehind(t *testing.T) {
	t.Parallel()
	behind := apiserver.NewClock(clocktesting.NewFakePassiveClock(time.Now().Add(-time.Hour)))
	e, stop, err := startOperator(t.Context(), localcluster.Config{NoControllerManager: true}, behind, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	const ttl = 30 * time.Minute
	nb := e.NodeBootstrap("behind")
	nb.Spec.Token.TTL = &metav1.Duration{Duration: ttl}
	if err := e.Client.Create(t.Context(), nb); err != nil {
		t.Fatal(err)
	}
	nb, kubeconfig := e.WaitAwaited(t, nb.Name)
	if _, err := whoIs(t.Context(), kubeconfig); err != nil {
		t.Errorf("the kubeconfig: %v", err)
	}
	if left := time.Until(nb.Status.Token.ExpirationTime.Time); (left - ttl).Abs() > time.Minute {
		t.Errorf("the token expires in %s, want about %s", left, ttl)
	}
}

// The time of a Lease renewal is that of the API server's clock: a node's clock that is an hour fast does not make it later.
func TestLeaseRenewedGoesByTheServersClock(t *testing.T) {
	const name = "fast-clock"
	inAnHour := metav1.NewMicroTime(time.Now().Add(time.Hour))
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name},
		Spec:       coordinationv1.LeaseSpec{RenewTime: &inAnHour},
	}
	cluster.Create(t, lease)
	first := lifecycle.LeaseRenewed(lease)
	if ago := time.Since(first); ago < -time.Second || ago > time.Minute {
		t.Fatalf("it was renewed %s ago", ago)
	}
	env.Eventually(t, "a later renewal", func() error {
		later := metav1.NewMicroTime(lease.Spec.RenewTime.Add(10 * time.Second))
		lease.Spec.RenewTime = &later
		if err := cluster.Client.Update(t.Context(), lease); err != nil {
			return err
		}
		switch again := lifecycle.LeaseRenewed(lease); {
		case !again.After(first):
			return fmt.Errorf("it was renewed at %s, as before", again)
		case time.Since(again) < -time.Second:
			t.Fatalf("it was renewed at %s, in the future", again)
		}
		return nil
	})
}

// A former member whose clock is an hour fast is reinstalled: its old Lease must not count as the new kubelet's, or the
// credential would be revoked before the new certificate is issued.
func TestReissueOfANodeWithAFastClock(t *testing.T) {
	const name = "fast-clock-again"
	inAnHour := metav1.NewMicroTime(time.Now().Add(time.Hour))
	cluster.Create(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	cluster.Create(t, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name},
		Spec:       coordinationv1.LeaseSpec{RenewTime: &inAnHour},
	})
	nb := cluster.NodeBootstrap(name)
	nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "reinstalled"}
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	request := ask(t, kubeconfig, name, newKey(t))
	waitCondition(t, request, certificatesv1.CertificateApproved)
	cluster.Get(t, "", request.Name, request)
	now.SetTime(time.Now().Add(time.Minute)) // the stored decision no longer waits for the join
	t.Cleanup(func() { now.SetTime(time.Now()) })
	request.Status.Certificate = cluster.ServerCA() // any certificate will do here
	if err := cluster.Client.Status().Update(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	env.Eventually(t, "the certificate is recorded", func() error {
		var nb v1alpha1.NodeBootstrap
		cluster.Get(t, "", name, &nb)
		if c := nb.Status.Certificates; len(c) != 1 || c[0].IssuedTime == nil {
			return fmt.Errorf("got %+v", c)
		}
		return env.HasReady(&nb, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode)
	})
	if _, err := whoIs(t.Context(), kubeconfig); err != nil {
		t.Errorf("the credential was deleted before the kubelet collected its certificate: %v", err)
	}
}
