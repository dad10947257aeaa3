// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// waitCond waits until a condition has a status, and returns it.
func waitCond(t *testing.T, name, conditionType string, want metav1.ConditionStatus) *metav1.Condition {
	t.Helper()
	var got *metav1.Condition
	env.Eventually(t, fmt.Sprintf("%s being %s on %s", conditionType, want, name), func() error {
		var nb v1alpha1.NodeBootstrap
		cluster.Get(t, "", name, &nb)
		if got = meta.FindStatusCondition(nb.Status.Conditions, conditionType); got == nil || got.Status != want {
			return fmt.Errorf("it is %+v", got)
		}
		return nil
	})
	return got
}

// eventsOf returns the reasons of the events about a NodeBootstrap, each as often as it was emitted.
func eventsOf(t *testing.T, name string) []string {
	t.Helper()
	var list eventsv1.EventList
	if err := cluster.Client.List(t.Context(), &list, client.InNamespace(metav1.NamespaceDefault)); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		if e.Regarding.Name == name {
			out = append(out, e.Reason)
		}
	}
	return out
}

// reissue requests a reissue and waits for the new credential.
func reissue(t *testing.T, name, value string) (*v1alpha1.NodeBootstrap, []byte) {
	t.Helper()
	env.Change(t, cluster, &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: name}}, func(nb *v1alpha1.NodeBootstrap) {
		nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: value}
	})
	env.Eventually(t, "the reissue", func() error {
		var nb v1alpha1.NodeBootstrap
		cluster.Get(t, "", name, &nb)
		if nb.Status.LastHandledReissueAt != value {
			return errors.New("it is not handled")
		}
		return nil
	})
	return cluster.WaitAwaited(t, name)
}

// Using a token for anything except its node raises an alarm and revokes the token.
func TestMisusedTokenIsRevoked(t *testing.T) {
	for name, spoil := range map[string]struct {
		reason string
		spec   func(node string) certificatesv1.CertificateSigningRequestSpec
	}{
		"misused-name": {csr.ReasonWrongSubject, func(string) certificatesv1.CertificateSigningRequestSpec { return kubeletSpec(t, "another", newKey(t)) }},
		"misused-signer": {csr.ReasonWrongSigner, func(node string) certificatesv1.CertificateSigningRequestSpec {
			spec := kubeletSpec(t, node, newKey(t))
			spec.SignerName = certificatesv1.KubeAPIServerClientSignerName
			return spec
		}},
	} {
		t.Run(name, func(t *testing.T) {
			before := alarms(t, spoil.reason)
			cluster.Create(t, cluster.NodeBootstrap(name))
			stolen, kubeconfig := cluster.WaitAwaited(t, name)
			thief := send(t, kubeconfig, spoil.spec(name))

			nb := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonTokenMisused)
			if err := cluster.NothingLeft(t.Context(), name); err != nil {
				t.Error(err)
			}
			alarm := waitCond(t, name, v1alpha1.ConditionTokenMisused, metav1.ConditionTrue)
			if alarm.Reason != spoil.reason || !strings.Contains(alarm.Message, thief.Name) {
				t.Errorf("the alarm is %+v", alarm)
			}
			if got := alarms(t, spoil.reason) - before; got != 1 {
				t.Errorf("%v alarms are counted, want 1", got)
			}
			if len(nb.Status.Certificates) != 1 || nb.Status.Certificates[0].Verdict != v1alpha1.VerdictDenied || nb.Status.Certificates[0].Reason != spoil.reason {
				t.Errorf("status.certificates is %+v", nb.Status.Certificates)
			}
			if _, err := whoIs(t.Context(), kubeconfig); err == nil {
				t.Log("the API server still has the authentication in its cache") // for ten seconds
			}
			env.Eventually(t, "the event", func() error {
				if got := eventsOf(t, name); !slices.Contains(got, v1alpha1.ReasonTokenMisused) {
					return fmt.Errorf("the events are %v", got)
				}
				return nil
			})

			fresh, kubeconfig := reissue(t, name, "after the theft")
			if fresh.Status.Token.ID == stolen.Status.Token.ID {
				t.Error("the reissued token has the stolen one's id")
			}
			if c := meta.FindStatusCondition(fresh.Status.Conditions, v1alpha1.ConditionTokenMisused); c != nil {
				t.Errorf("the alarm is still set after the reissue: %+v", c)
			}
			waitCondition(t, ask(t, kubeconfig, name, newKey(t)), certificatesv1.CertificateApproved)
		})
	}
}

// A denied CSR stays for people to see; one for a signer that the operator may not approve for is deleted.
func TestMisusedTokensRequest(t *testing.T) {
	const name = "misused-request"
	cluster.Create(t, cluster.NodeBootstrap(name))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	c := waitCondition(t, ask(t, kubeconfig, "another", newKey(t)), certificatesv1.CertificateDenied)
	if c.Reason != csr.ReasonWrongSubject || !strings.Contains(c.Message, "system:node:another") || !strings.Contains(c.Message, "--hostname-override="+name) {
		t.Errorf("another node's name is denied with %s: %s", c.Reason, c.Message)
	}
}

// A second key is evidence of theft after a machine has registered with the first one. That machine may be about to collect its
// certificate, so the token stays, bound to the first key.
func TestSecondKeyRaisesTheAlarm(t *testing.T) {
	const name = "second-key"
	cluster.Create(t, cluster.NodeBootstrap(name))
	before, kubeconfig := cluster.WaitAwaited(t, name)
	key := newKey(t)
	waitCondition(t, ask(t, kubeconfig, name, key), certificatesv1.CertificateApproved)
	registers(t, name)
	if c := waitCondition(t, ask(t, kubeconfig, name, newKey(t)), certificatesv1.CertificateDenied); c.Reason != csr.ReasonSecondKey {
		t.Errorf("it is denied with %s: %s", c.Reason, c.Message)
	}
	if c := waitCond(t, name, v1alpha1.ConditionTokenMisused, metav1.ConditionTrue); c.Reason != csr.ReasonSecondKey {
		t.Errorf("the alarm is %+v", c)
	}
	waitCondition(t, ask(t, kubeconfig, "another", newKey(t)), certificatesv1.CertificateDenied)
	waitCondition(t, ask(t, kubeconfig, name, key), certificatesv1.CertificateApproved)
	var nb v1alpha1.NodeBootstrap
	cluster.Get(t, "", name, &nb)
	if nb.Status.Token == nil || nb.Status.Token.ID != before.Status.Token.ID {
		t.Errorf("the token that a key was approved with was deleted: %+v", nb.Status.Token)
	}
}

// One token cannot cause unlimited writes: CSRs above the bound are left alone, and reported once.
func TestFloodOfOneToken(t *testing.T) {
	const name, sent = "flooding", 30
	before := alarms(t, decisions.ReasonTooManyRequests)
	cluster.Create(t, cluster.NodeBootstrap(name))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	key := newKey(t)
	waitCondition(t, ask(t, kubeconfig, name, key), certificatesv1.CertificateApproved)
	var requests []*certificatesv1.CertificateSigningRequest
	for range sent {
		requests = append(requests, ask(t, kubeconfig, name, key))
	}
	decided := func() (n int) {
		for _, r := range requests {
			cluster.Get(t, "", r.Name, r)
			n += len(r.Status.Conditions)
		}
		return n
	}
	env.Eventually(t, "reaching the bound", func() error {
		var nb v1alpha1.NodeBootstrap
		cluster.Get(t, "", name, &nb)
		if !slices.ContainsFunc(nb.Status.Certificates, func(d v1alpha1.CertificateDecision) bool { return d.Verdict == v1alpha1.VerdictIgnored }) {
			return fmt.Errorf("status.certificates is %+v", nb.Status.Certificates)
		}
		return nil
	})
	last := ask(t, kubeconfig, name, key) // one more does not change anything
	poke(t, name)
	cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode)
	if n := decided(); n >= 8 {
		t.Errorf("%d of the further %d CSRs are decided, want fewer than 8", n, sent)
	}
	cluster.Get(t, "", last.Name, last)
	if len(last.Status.Conditions) > 0 {
		t.Errorf("the last CSR is decided: %+v", last.Status.Conditions)
	}
	if got := alarms(t, decisions.ReasonTooManyRequests) - before; got != 1 {
		t.Errorf("%v alarms are counted, want 1", got)
	}
}
