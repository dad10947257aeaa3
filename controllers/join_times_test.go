// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"fmt"
	"maps"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/steps"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// measuredSteps are how many of each step, and of whole joins, were measured.
func measuredSteps(t *testing.T) map[string]float64 {
	t.Helper()
	out := map[string]float64{"all": metric(t, "nodebootstrap_ready_duration_seconds")}
	for _, s := range steps.List(nil) {
		out[s.Name] = metric(t, "nodebootstrap_join_step_duration_seconds", "step="+s.Name)
	}
	return out
}

// waitMeasured waits until the measured steps have grown by some.
func waitMeasured(t *testing.T, before map[string]float64, more ...string) {
	t.Helper()
	want := maps.Clone(before)
	for _, s := range more {
		want[s]++
	}
	env.Eventually(t, "the measured steps", func() error {
		if got := measuredSteps(t); !maps.Equal(got, want) {
			return fmt.Errorf("they are %v, want %v", got, want)
		}
		return nil
	})
}

// reportsReady sets the condition Ready of a Node, as a kubelet does.
func reportsReady(t *testing.T, name string, ready corev1.ConditionStatus) *corev1.Node {
	t.Helper()
	node := &corev1.Node{}
	cluster.Get(t, "", name, node)
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, LastTransitionTime: metav1.Now()}}
	if err := cluster.Client.Status().Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	return node
}

// waitStatus waits until a NodeBootstrap's status is as wanted.
func waitStatus(t *testing.T, name, what string, wanted func(*v1alpha1.NodeBootstrapStatus) bool) *v1alpha1.NodeBootstrapStatus {
	t.Helper()
	var nb v1alpha1.NodeBootstrap
	env.Eventually(t, what, func() error {
		cluster.Get(t, "", name, &nb)
		if !wanted(&nb.Status) {
			return fmt.Errorf("the status is %+v, %+v, %+v", nb.Status.Join, nb.Status.ClientCertificate, nb.Status.Conditions)
		}
		return nil
	})
	return &nb.Status
}

// Each step of a join is measured once, also those after the join. Neither a Node's status nor its Lease is watched.
func TestStepsOfAJoinAreMeasured(t *testing.T) {
	const name = "measured-join"
	before := measuredSteps(t)
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ServingCertificate.Addresses = []string{name}
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	request := ask(t, kubeconfig, name, newKey(t))
	approved := waitCondition(t, request, certificatesv1.CertificateApproved).LastTransitionTime.Time
	waitMeasured(t, before, steps.Published)
	issue(t, request, time.Now().Add(24*time.Hour))

	registers(t, name)
	reportsReady(t, name, corev1.ConditionFalse)
	renews(t, name, approved)
	poke(t, name)
	joined := waitStatus(t, name, "the join", func(s *v1alpha1.NodeBootstrapStatus) bool { return s.Join != nil })
	for _, s := range steps.List(joined.Join) {
		if known := s.Name != steps.Ready && s.Name != steps.Serving; (s.Time != nil) != known {
			t.Errorf("%s was done at %v", s.Name, s.Time)
		}
	}
	waitMeasured(t, before, steps.Published, steps.Requested, steps.Approved, steps.Issued, steps.Registered)

	at(t, time.Minute) // the fake clock would be before the time of the condition
	node := reportsReady(t, name, corev1.ConditionTrue)
	poke(t, name)
	got := waitStatus(t, name, "the Node being Ready", func(s *v1alpha1.NodeBootstrapStatus) bool { return s.Join.ReadyTime != nil })
	if !got.Join.ReadyTime.Equal(&node.Status.Conditions[0].LastTransitionTime) {
		t.Errorf("Ready at %s, the Node says %s", got.Join.ReadyTime, node.Status.Conditions[0].LastTransitionTime)
	}
	waitCondition(t, askServing(t, name, name), certificatesv1.CertificateApproved)
	waitStatus(t, name, "the serving certificate", func(s *v1alpha1.NodeBootstrapStatus) bool { return s.Join.ServingTime != nil })
	all := []string{steps.Published, steps.Requested, steps.Approved, steps.Issued, steps.Registered, steps.Ready, steps.Serving, "all"}
	waitMeasured(t, before, all...)
	reportsReady(t, name, corev1.ConditionTrue)
	reconciled(t, name)
	waitMeasured(t, before, all...)
}

// A renewal is seen although the operator does not decide it. When the node no longer runs, and nobody has renewed its certificate, a
// condition and a metric say so, until it runs again.
func TestCertificateOfANodeThatDoesNotRun(t *testing.T) {
	const name = "powered-off"
	expiring := func() float64 { return metric(t, "nodebootstrap_client_certificates_expiring") }
	cluster.Create(t, cluster.NodeBootstrap(name))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	request := ask(t, kubeconfig, name, newKey(t))
	approved := waitCondition(t, request, certificatesv1.CertificateApproved).LastTransitionTime.Time
	first := time.Now().Add(4 * time.Hour).Truncate(time.Second)
	issueFrom(t, request, time.Now().Add(-20*time.Hour), first)
	registers(t, name)
	renews(t, name, approved)
	poke(t, name)
	expires := func(at time.Time) func(*v1alpha1.NodeBootstrapStatus) bool {
		return func(s *v1alpha1.NodeBootstrapStatus) bool {
			return s.ClientCertificate != nil && s.ClientCertificate.ExpirationTime.Time.Equal(at)
		}
	}
	waitStatus(t, name, "the certificate", expires(first))

	as, err := cluster.KubeconfigFor("system:node:"+name, "system:nodes")
	if err != nil {
		t.Fatal(err)
	}
	renewal := ask(t, as, name, newKey(t))
	approve(t, renewal)
	second := time.Now().Add(80 * time.Minute).Truncate(time.Second)
	issueFrom(t, renewal, time.Now().Add(-10*time.Hour), second)
	waitStatus(t, name, "the renewed certificate", expires(second))
	if n := expiring(); n != 0 {
		t.Errorf("%v certificates are about to expire while the node runs", n)
	}

	at(t, 2*time.Hour)
	poke(t, name)
	if c := waitCond(t, name, v1alpha1.ConditionClientCertificateExpiring, metav1.ConditionTrue); c.Reason != v1alpha1.ReasonNodeNotRunning {
		t.Errorf("the condition is %+v", c)
	}
	env.Eventually(t, "the metric", func() error {
		if n := expiring(); n != 1 {
			return fmt.Errorf("it is %v", n)
		}
		return nil
	})
	now.SetTime(time.Now().Add(30 * time.Minute)) // as if its Lease had been renewed half an hour ago
	poke(t, name)
	waitStatus(t, name, "the end of the condition", func(s *v1alpha1.NodeBootstrapStatus) bool {
		return meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionClientCertificateExpiring) == nil
	})
}
