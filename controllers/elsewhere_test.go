// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// deny denies a CSR as "kubectl certificate deny" does.
func deny(t *testing.T, request *certificatesv1.CertificateSigningRequest) {
	t.Helper()
	cluster.Get(t, "", request.Name, request)
	request.Status.Conditions = append(request.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue, Reason: "KubectlDeny", Message: "This CSR was denied by kubectl certificate deny.",
	})
	if err := cluster.Client.SubResource("approval").Update(t.Context(), request); err != nil {
		t.Fatal(err)
	}
}

// waitRecord waits until status.certificates has a decision on a CSR, and returns it.
func waitRecord(t *testing.T, node, request string, holds func(v1alpha1.CertificateDecision) bool) v1alpha1.CertificateDecision {
	t.Helper()
	var got v1alpha1.CertificateDecision
	env.Eventually(t, "the record of "+request, func() error {
		var nb v1alpha1.NodeBootstrap
		cluster.Get(t, "", node, &nb)
		for _, d := range nb.Status.Certificates {
			if d.Name == request && holds(d) {
				got = d
				return nil
			}
		}
		return fmt.Errorf("status.certificates is %+v", nb.Status.Certificates)
	})
	return got
}

// waitMessage waits until Ready is True and its message begins with a text.
func waitMessage(t *testing.T, node, text string) *v1alpha1.NodeBootstrap {
	t.Helper()
	var nb v1alpha1.NodeBootstrap
	env.Eventually(t, "Ready saying "+text, func() error {
		cluster.Get(t, "", node, &nb)
		if got := env.ReadyMessage(&nb); !strings.HasPrefix(got, text) {
			return fmt.Errorf("it says %q", got)
		}
		return nil
	})
	return &nb
}

func waitNote(t *testing.T, node, reason, text string) {
	t.Helper()
	env.Eventually(t, "the event "+reason, func() error {
		notes := notesOf(t, node, reason)
		for _, note := range notes {
			if strings.Contains(note, text) {
				return nil
			}
		}
		return fmt.Errorf("%q is not among the notes %q", text, notes)
	})
}

// A CSR that a person denied left no trace: no decision in the status, no event, and the message "give the node the
// kubeconfig".
func TestDenialOfAPersonIsReported(t *testing.T) {
	const name = "denied-elsewhere"
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	request := ask(t, kubeconfig, name, newKey(t))
	cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonAwaitingApproval)
	deny(t, request)
	d := waitRecord(t, name, request.Name, func(d v1alpha1.CertificateDecision) bool { return d.Verdict == v1alpha1.VerdictDenied })
	if d.Reason != "DeniedElsewhere" || d.Message != "This CSR was denied by kubectl certificate deny." || d.KeyFingerprint != fingerprintOf(t, request) {
		t.Errorf("status.certificates is %+v", d)
	}
	waitMessage(t, name, "last CSR "+request.Name+" was denied: DeniedElsewhere: This CSR was denied by kubectl certificate deny.")
	waitNote(t, name, v1alpha1.ReasonCertificateDenied, "CSR "+request.Name+" was denied by someone else")
}

// The event said that the operator approved a CSR that a person had approved.
func TestApprovalOfAPersonIsNotTheOperators(t *testing.T) {
	const name = "approved-elsewhere"
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	request := ask(t, kubeconfig, name, newKey(t))
	cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonAwaitingApproval)
	approve(t, request)
	issue(t, request, time.Now().Add(time.Hour))
	waitRecord(t, name, request.Name, func(d v1alpha1.CertificateDecision) bool {
		return d.Reason == "ApprovedElsewhere" && d.IssuedTime != nil
	})
	for _, note := range notesOf(t, name, v1alpha1.ReasonCertificateApproved) { // Normal events may be dropped when there are many
		if !strings.Contains(note, "was approved by someone else") {
			t.Errorf("an event says %q", note)
		}
	}
}

// The operator's own approval was reported as someone else's after the NodeBootstrap was recreated.
func TestOwnApprovalOutlivesTheNodeBootstrap(t *testing.T) {
	const name = "approved-before"
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	token := theToken(t, name)
	env.Change(t, cluster, token, func(s *corev1.Secret) { s.Finalizers = []string{aFinalizer} }) // so that the next NodeBootstrap still finds the token
	t.Cleanup(func() { cluster.DeleteAfter(t, token) })
	request := ask(t, kubeconfig, name, newKey(t))
	waitCondition(t, request, certificatesv1.CertificateApproved)
	issue(t, request, time.Now().Add(time.Hour))
	cluster.Delete(t, nb)
	cluster.Create(t, cluster.NodeBootstrap(name))
	d := waitRecord(t, name, request.Name, func(d v1alpha1.CertificateDecision) bool { return d.Verdict == v1alpha1.VerdictApproved })
	if d.Reason != csr.ReasonKubeletClient {
		t.Errorf("the operator's approval is recorded with the reason %s", d.Reason)
	}
}

// A denial's message was only in the CSR, which Kubernetes deletes.
func TestDenialsKeepTheirMessage(t *testing.T) {
	const name = "denied-here"
	cluster.Create(t, cluster.NodeBootstrap(name))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	spec := kubeletSpec(t, name, newKey(t))
	spec.Usages = append(spec.Usages, certificatesv1.UsageServerAuth)
	request := send(t, kubeconfig, spec)
	c := waitCondition(t, request, certificatesv1.CertificateDenied)
	d := waitRecord(t, name, request.Name, func(d v1alpha1.CertificateDecision) bool { return d.Verdict == v1alpha1.VerdictDenied })
	if d.Message == "" || !strings.HasPrefix(c.Message, strings.TrimSuffix(d.Message, "...")) {
		t.Errorf("the message is %q, and that of the CSR %q", d.Message, c.Message)
	}
	waitMessage(t, name, "last CSR "+request.Name+" was denied: "+c.Reason+": ")
	waitNote(t, name, v1alpha1.ReasonCertificateDenied, strings.TrimSuffix(d.Message, "..."))
}

// With registerNode: false, or a name that a kubelet cannot register, the status still said "give the node the kubeconfig".
func TestIssuedAndNoNode(t *testing.T) {
	const name = "never-registers"
	t.Cleanup(func() { now.SetTime(time.Now()) })
	now.SetTime(time.Now())
	cluster.Create(t, cluster.NodeBootstrap(name))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	signs(t, kubeconfig, name, newKey(t))
	at(t, 20*time.Second)
	poke(t, name)
	nb := waitMessage(t, name, "CSR ")
	d := nb.Status.Certificates[len(nb.Status.Certificates)-1]
	want := fmt.Sprintf("CSR %s was issued at %s, but no Node registered; see the kubelet's log", d.Name, d.IssuedTime.UTC().Format(time.RFC3339))
	if got := env.ReadyMessage(nb); !strings.HasPrefix(got, want) {
		t.Errorf("Ready says %q, want %q", got, want)
	}
	for _, later := range []time.Duration{time.Minute, time.Hour} { // time does not cause more writes
		at(t, later)
		again := reconciled(t, name)
		if got := env.ReadyMessage(again); got != env.ReadyMessage(nb) {
			t.Errorf("%s later it says %q", later, got)
		}
	}
}
