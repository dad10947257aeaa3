// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
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

// spkiFingerprint computes the fingerprint as the documentation says, not with the operator's code.
func spkiFingerprint(t *testing.T, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	return "SHA256:" + hex.EncodeToString(sum[:])
}

func pinnedTo(t *testing.T, name string, key crypto.Signer) *v1alpha1.NodeBootstrap {
	t.Helper()
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ClientCertificate.KeyFingerprint = spkiFingerprint(t, key)
	return nb
}

// pin changes the pinned key; nil for none.
func pin(t *testing.T, name string, key crypto.Signer) {
	t.Helper()
	env.Change(t, cluster, &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: name}}, func(nb *v1alpha1.NodeBootstrap) {
		nb.Spec.ClientCertificate.KeyFingerprint = ""
		if key != nil {
			nb.Spec.ClientCertificate.KeyFingerprint = spkiFingerprint(t, key)
		}
	})
}

// A thief with the kubeconfig sends a hundred CSRs in the node's name, under every order. None is approved, the machine's is, and the token
// stays for it.
func TestThiefLosesAgainstAPinnedKey(t *testing.T) {
	for name, thieves := range map[string][2]int{"pinned-thief-first": {100, 0}, "pinned-thief-last": {0, 20}, "pinned-thief-around": {10, 10}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := newKey(t)
			cluster.Create(t, pinnedTo(t, name, key))
			before, kubeconfig := cluster.WaitAwaited(t, name)
			var stolen []*certificatesv1.CertificateSigningRequest
			steal := func(n int) {
				for range n {
					stolen = append(stolen, ask(t, kubeconfig, name, newKey(t)))
				}
			}
			steal(thieves[0])
			machine := ask(t, kubeconfig, name, key)
			steal(thieves[1])
			if c := waitCondition(t, machine, certificatesv1.CertificateApproved); c.Reason != csr.ReasonKubeletClient {
				t.Errorf("it is approved with %s", c.Reason)
			}
			alarm := waitCond(t, name, v1alpha1.ConditionTokenMisused, metav1.ConditionTrue)
			if alarm.Reason != csr.ReasonKeyNotPinned {
				t.Errorf("the alarm is %+v", alarm)
			}
			waitCondition(t, ask(t, kubeconfig, name, key), certificatesv1.CertificateApproved) // it asks again, after the alarm
			denied := 0
			for _, r := range stolen {
				cluster.Get(t, "", r.Name, r)
				for _, c := range r.Status.Conditions {
					if c.Type != certificatesv1.CertificateDenied || c.Reason != csr.ReasonKeyNotPinned {
						t.Errorf("a thief's CSR is %+v", c)
					}
					denied++
				}
			}
			if denied == 0 {
				t.Error("no CSR of the thief is denied")
			}
			nb := cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode)
			if nb.Status.Token == nil || nb.Status.Token.ID != before.Status.Token.ID {
				t.Errorf("the token is %+v, and was %+v", nb.Status.Token, before.Status.Token)
			}
			if _, err := whoIs(t.Context(), kubeconfig); err != nil {
				t.Errorf("the token is not live: %v", err)
			}
		})
	}
}

// Nothing is recorded before the approval of a pinned key; the record follows, with the time of the approval.
func TestRecordFollowsThePinnedApproval(t *testing.T) {
	const name = "pinned-record"
	key := newKey(t)
	cluster.Create(t, pinnedTo(t, name, key))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	request := ask(t, kubeconfig, name, key)
	approved := waitCondition(t, request, certificatesv1.CertificateApproved).LastTransitionTime
	var nb v1alpha1.NodeBootstrap
	cluster.Get(t, "", name, &nb)
	if len(nb.Status.Certificates) > 0 || len(nb.Status.Tokens) > 0 && len(nb.Status.Tokens[0].CSRs) > 0 {
		t.Errorf("it is recorded already: %+v, %+v", nb.Status.Certificates, nb.Status.Tokens)
	}
	at(t, 20*time.Second)
	poke(t, name)
	d := waitRecord(t, name, request.Name, func(v1alpha1.CertificateDecision) bool { return true })
	if d.Verdict != v1alpha1.VerdictApproved || d.Reason != csr.ReasonKubeletClient || d.KeyFingerprint != spkiFingerprint(t, key) || !d.Time.Equal(&approved) || d.IssuedTime != nil {
		t.Errorf("the record is %+v", d)
	}
	issue(t, request, time.Now().Add(time.Hour))
	waitRecord(t, name, request.Name, func(d v1alpha1.CertificateDecision) bool { return d.IssuedTime != nil })
}

// A changed pin applies at once, also to a CSR that waits; without a pin the NodeBootstrap has the other rules again.
func TestPinTakesEffectImmediately(t *testing.T) {
	const name = "pinned-late"
	first, second := newKey(t), newKey(t)
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ClientCertificate.ApprovalDelay = &metav1.Duration{Duration: 10 * time.Minute}
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	waiting := []*certificatesv1.CertificateSigningRequest{ask(t, kubeconfig, name, newKey(t)), ask(t, kubeconfig, name, first)}
	waitCond(t, name, v1alpha1.ConditionKeyConflict, metav1.ConditionTrue)
	pin(t, name, first)
	waitCondition(t, waiting[1], certificatesv1.CertificateApproved)
	if c := waitCondition(t, waiting[0], certificatesv1.CertificateDenied); c.Reason != csr.ReasonKeyNotPinned || !strings.Contains(c.Message, spkiFingerprint(t, first)) {
		t.Errorf("the other one is denied with %s: %s", c.Reason, c.Message)
	}
	pin(t, name, second)
	waitCondition(t, ask(t, kubeconfig, name, first), certificatesv1.CertificateDenied)
	waitCondition(t, ask(t, kubeconfig, name, second), certificatesv1.CertificateApproved)
	at(t, 20*time.Second)
	poke(t, name)
	pin(t, name, nil)
	c := waitCondition(t, ask(t, kubeconfig, name, newKey(t)), certificatesv1.CertificateDenied)
	if c.Reason != csr.ReasonKeyReplaced {
		t.Errorf("without a pin another key is denied with %s: %s", c.Reason, c.Message)
	}
}

// Two NodeBootstraps with one key: neither gets a certificate, and both say so, until one of them has another key.
func TestKeyPinnedTwice(t *testing.T) {
	const first, second = "pinned-twice-1", "pinned-twice-2"
	key := newKey(t)
	cluster.Create(t, pinnedTo(t, first, key))
	_, kubeconfig := cluster.WaitAwaited(t, first)
	cluster.Create(t, pinnedTo(t, second, key))
	for name, other := range map[string]string{first: second, second: first} {
		nb := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonKeyPinnedTwice)
		if c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionReady); !strings.Contains(c.Message, other) {
			t.Errorf("%s says: %s", name, c.Message)
		}
	}
	request := ask(t, kubeconfig, first, key)
	waitCondition(t, ask(t, kubeconfig, first, newKey(t)), certificatesv1.CertificateDenied) // the operator has seen both
	cluster.Get(t, "", request.Name, request)
	if len(request.Status.Conditions) > 0 {
		t.Errorf("it is decided: %+v", request.Status.Conditions)
	}
	pin(t, second, newKey(t))
	waitCondition(t, request, certificatesv1.CertificateApproved)
	cluster.WaitAwaited(t, second)
}

// A key that one NodeBootstrap pins is approved for no other.
func TestPinnedKeyIsNoOtherNodes(t *testing.T) {
	const pinned, other = "pinned-own", "pinned-other"
	key := newKey(t)
	cluster.Create(t, pinnedTo(t, pinned, key))
	cluster.WaitAwaited(t, pinned)
	cluster.Create(t, cluster.NodeBootstrap(other))
	_, kubeconfig := cluster.WaitAwaited(t, other)
	if c := waitCondition(t, ask(t, kubeconfig, other, key), certificatesv1.CertificateDenied); c.Reason != csr.ReasonKeyOfAnotherNode || !strings.Contains(c.Message, pinned) {
		t.Errorf("it is denied with %s: %s", c.Reason, c.Message)
	}
}

// With approval Manual the operator denies other keys, and a person approves the pinned one.
func TestPinnedKeyWithApprovalManual(t *testing.T) {
	const name = "pinned-manual"
	key := newKey(t)
	nb := pinnedTo(t, name, key)
	nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	machine := ask(t, kubeconfig, name, key)
	if c := waitCondition(t, ask(t, kubeconfig, name, newKey(t)), certificatesv1.CertificateDenied); c.Reason != csr.ReasonKeyNotPinned {
		t.Errorf("another key is denied with %s", c.Reason)
	}
	cluster.Get(t, "", machine.Name, machine)
	if len(machine.Status.Conditions) > 0 {
		t.Errorf("it is decided: %+v", machine.Status.Conditions)
	}
	approve(t, machine)
	issue(t, machine, time.Now().Add(time.Hour))
	env.Eventually(t, "the record", func() error {
		cluster.Get(t, "", name, nb)
		for _, d := range nb.Status.Certificates {
			if d.Name == machine.Name && d.IssuedTime != nil {
				return nil
			}
		}
		return fmt.Errorf("status.certificates is %+v", nb.Status.Certificates)
	})
}

// A thief sees the machine's CSR and sends copies of it, with what the CSR's signature does not cover changed. They are denied, and use up
// nothing. An unchanged copy is approved, for a key that the thief does not have.
func TestCopiesOfThePinnedRequest(t *testing.T) {
	const name = "pinned-copies"
	key := newKey(t)
	cluster.Create(t, pinnedTo(t, name, key))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	good := kubeletSpec(t, name, key)
	for i := range 4 {
		usages, long := good, good
		usages.Usages = append([]certificatesv1.KeyUsage{certificatesv1.UsageServerAuth}, good.Usages...)
		long.ExpirationSeconds = new(int32(400 * 24 * 60 * 60))
		for reason, request := range map[string]*certificatesv1.CertificateSigningRequest{
			csr.ReasonWrongUsages:          send(t, kubeconfig, usages),
			csr.ReasonWrongDuration:        send(t, kubeconfig, long),
			csr.ReasonUnexpectedAttributes: sendEdited(t, kubeconfig, good, withFinalizer),
		} {
			cluster.Get(t, "", request.Name, request)
			if i == 0 { // later ones are above the limit of decisions
				if c := waitCondition(t, request, certificatesv1.CertificateDenied); c.Reason != reason {
					t.Errorf("%s is denied with %s", reason, c.Reason)
				}
			}
		}
	}
	for range 2 {
		waitCondition(t, send(t, kubeconfig, good), certificatesv1.CertificateApproved)
	}
}

// Of three NodeBootstraps with one key none gets a certificate; when two are deleted, the third one does.
func TestKeyPinnedThreeTimes(t *testing.T) {
	names := []string{"pinned-thrice-1", "pinned-thrice-2", "pinned-thrice-3"}
	key := newKey(t)
	cluster.Create(t, pinnedTo(t, names[0], key))
	_, kubeconfig := cluster.WaitAwaited(t, names[0])
	for _, name := range names[1:] {
		cluster.Create(t, pinnedTo(t, name, key))
	}
	for _, name := range names {
		env.Eventually(t, "the names of the others on "+name, func() error {
			message := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonKeyPinnedTwice).Status.Conditions[0].Message
			for _, other := range names {
				if other != name && !strings.Contains(message, other) {
					return fmt.Errorf("%s is not named: %s", other, message)
				}
			}
			return nil
		})
	}
	request := ask(t, kubeconfig, names[0], key)
	waitCondition(t, ask(t, kubeconfig, names[0], newKey(t)), certificatesv1.CertificateDenied) // the operator has seen both
	cluster.Delete(t, cluster.NodeBootstrap(names[1]))
	cluster.WaitReady(t, names[2], metav1.ConditionFalse, v1alpha1.ReasonKeyPinnedTwice)
	cluster.Get(t, "", request.Name, request)
	if len(request.Status.Conditions) > 0 {
		t.Errorf("it is decided while two pin the key: %+v", request.Status.Conditions)
	}
	cluster.Delete(t, cluster.NodeBootstrap(names[2]))
	waitCondition(t, request, certificatesv1.CertificateApproved)
}

// An RSA key can be pinned, too.
func TestPinnedRSAKey(t *testing.T) {
	const name = "pinned-rsa"
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	cluster.Create(t, pinnedTo(t, name, key))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	spec := kubeletSpec(t, name, key)
	spec.Usages = append(spec.Usages, certificatesv1.UsageKeyEncipherment)
	waitCondition(t, send(t, kubeconfig, spec), certificatesv1.CertificateApproved)
}
