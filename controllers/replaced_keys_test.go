// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// A kubelet that exits after it sent a CSR uses another key when it is started again. That is not theft: the condition Ready
// says what to do, and a reissue lets the machine join.
func TestRestartedKubeletIsNoTheft(t *testing.T) {
	const name = "restarted"
	before := alarms(t, csr.ReasonSecondKey)
	cluster.Create(t, cluster.NodeBootstrap(name))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	waitCondition(t, ask(t, kubeconfig, name, newKey(t)), certificatesv1.CertificateApproved)
	second := ask(t, kubeconfig, name, newKey(t))
	if c := waitCondition(t, second, certificatesv1.CertificateDenied); c.Reason != csr.ReasonKeyReplaced || !strings.Contains(c.Message, "kubectl annotate nodebootstrap "+name) {
		t.Errorf("the second key is denied with %s: %s", c.Reason, c.Message)
	}
	nb := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonKeyReplaced)
	if !meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionStalled) || !strings.Contains(env.ReadyMessage(nb), second.Name) {
		t.Errorf("the conditions are %+v", nb.Status.Conditions)
	}
	env.Eventually(t, "the event", func() error {
		if got := eventsOf(t, name); !slices.Contains(got, v1alpha1.ReasonKeyReplaced) || slices.Contains(got, v1alpha1.ReasonTokenMisused) {
			return fmt.Errorf("the events are %v", got)
		}
		return nil
	})
	for range 10 { // a crash loop: more CSRs than the operator decides on
		ask(t, kubeconfig, name, newKey(t))
	}
	env.Eventually(t, "reaching the bound", func() error {
		cluster.Get(t, "", name, nb)
		if last := nb.Status.Certificates[len(nb.Status.Certificates)-1]; last.Verdict != v1alpha1.VerdictIgnored || last.Reason != "TooManyKeys" {
			return fmt.Errorf("the last entry is %+v", last)
		}
		return nil
	})
	nb = cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonKeyReplaced)
	if c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionTokenMisused); c != nil || alarms(t, csr.ReasonSecondKey) != before {
		t.Errorf("an alarm is raised: %+v", c)
	}
	_, kubeconfig = reissue(t, name, "the machine is fixed")
	waitCondition(t, ask(t, kubeconfig, name, newKey(t)), certificatesv1.CertificateApproved)
	cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode)
}

// A thief sends the first CSR and gets the certificate, and the machine is denied. The alarm is raised when the thief joins: a
// restarted kubelet no longer has its first key.
func TestJoinWithTheFirstKeyRaisesTheAlarm(t *testing.T) {
	const name = "thief-first"
	before := alarms(t, csr.ReasonSecondKey)
	cluster.Create(t, cluster.NodeBootstrap(name))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	thief := ask(t, kubeconfig, name, newKey(t))
	waitCondition(t, thief, certificatesv1.CertificateApproved)
	issue(t, thief, time.Now().Add(time.Hour))
	machine := ask(t, kubeconfig, name, newKey(t))
	waitCondition(t, machine, certificatesv1.CertificateDenied)
	cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonKeyReplaced)
	registers(t, name)
	renews(t, name, time.Now())
	poke(t, name)
	nb := cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonJoined)
	alarm := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionTokenMisused)
	if alarm == nil || alarm.Status != metav1.ConditionTrue || alarm.Reason != csr.ReasonSecondKey || !strings.Contains(alarm.Message, machine.Name) {
		t.Errorf("the alarm is %+v", alarm)
	}
	conflict := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionKeyConflict)
	for _, r := range []*certificatesv1.CertificateSigningRequest{thief, machine} {
		key, err := csr.Fingerprint(r)
		if err != nil {
			t.Fatal(err)
		}
		if conflict == nil || !strings.Contains(conflict.Message, key) {
			t.Errorf("the key of %s is not in %+v", r.Name, conflict)
		}
	}
	env.Eventually(t, "the metric", func() error { // it is counted after the status is stored
		if got := alarms(t, csr.ReasonSecondKey) - before; got != 1 {
			return fmt.Errorf("%v alarms are counted, want 1", got)
		}
		return nil
	})
	env.Eventually(t, "the event", func() error {
		if got := eventsOf(t, name); !slices.Contains(got, v1alpha1.ReasonTokenMisused) {
			return fmt.Errorf("the events are %v", got)
		}
		return nil
	})
}

// With replacementKeys exactly that number of further keys is approved. The certificates of the replaced keys are reported.
func TestReplacementKeys(t *testing.T) {
	const name = "replacing"
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ClientCertificate.ReplacementKeys = 1
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	first := ask(t, kubeconfig, name, newKey(t))
	waitCondition(t, first, certificatesv1.CertificateApproved)
	issue(t, first, time.Now().Add(time.Hour))
	waitCondition(t, ask(t, kubeconfig, name, newKey(t)), certificatesv1.CertificateApproved)
	waitCond(t, name, v1alpha1.ConditionKeyConflict, metav1.ConditionTrue)
	if c := waitCond(t, name, v1alpha1.ConditionCertificateNotRevoked, metav1.ConditionTrue); c.Reason != v1alpha1.ReasonIssuedBeforeReplacement || !strings.Contains(c.Message, first.Name) {
		t.Errorf("it is %+v", c)
	}
	cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode)
	if c := waitCondition(t, ask(t, kubeconfig, name, newKey(t)), certificatesv1.CertificateDenied); c.Reason != csr.ReasonKeyReplaced {
		t.Errorf("the third key is denied with %s: %s", c.Reason, c.Message)
	}
	cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonKeyReplaced)
}

// With approval Manual a replacement key waits for a person instead of being denied.
func TestReplacementKeyWaitsForAPerson(t *testing.T) {
	const name = "replacing-manually"
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ClientCertificate.Approval, nb.Spec.ClientCertificate.ReplacementKeys = v1alpha1.ApprovalManual, 1
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	first := ask(t, kubeconfig, name, newKey(t))
	approve(t, first)
	second := ask(t, kubeconfig, name, newKey(t))
	waitCond(t, name, v1alpha1.ConditionKeyConflict, metav1.ConditionTrue)
	cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonAwaitingApproval)
	approve(t, second)
	cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode)
	waitCondition(t, ask(t, kubeconfig, name, newKey(t)), certificatesv1.CertificateDenied)
}
