// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// Cloned machines send one key under two names. The second CSR is denied, and the message names the node that has the key.
func TestOneKeyForOneNode(t *testing.T) {
	const first, second = "cloned-1", "cloned-2"
	key := newKey(t)
	cluster.Create(t, cluster.NodeBootstrap(first))
	_, kubeconfig := cluster.WaitAwaited(t, first)
	waitCondition(t, ask(t, kubeconfig, first, key), certificatesv1.CertificateApproved)

	cluster.Create(t, cluster.NodeBootstrap(second))
	_, kubeconfig = cluster.WaitAwaited(t, second)
	c := waitCondition(t, ask(t, kubeconfig, second, key), certificatesv1.CertificateDenied)
	if c.Reason != csr.ReasonKeyOfAnotherNode || !strings.Contains(c.Message, first) || !strings.Contains(c.Message, second) {
		t.Errorf("it is denied with %s: %s", c.Reason, c.Message)
	}
	waitCondition(t, ask(t, kubeconfig, second, newKey(t)), certificatesv1.CertificateApproved)
}

// When the other NodeBootstrap is deleted, its key is free again: the node may have been renamed.
func TestKeyOfADeletedNodeBootstrapIsFree(t *testing.T) {
	const first, second = "renamed-1", "renamed-2"
	key := newKey(t)
	nb := cluster.NodeBootstrap(first)
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, first)
	waitCondition(t, ask(t, kubeconfig, first, key), certificatesv1.CertificateApproved)
	cluster.Delete(t, nb)
	cluster.Create(t, cluster.NodeBootstrap(second))
	_, kubeconfig = cluster.WaitAwaited(t, second)
	waitCondition(t, ask(t, kubeconfig, second, key), certificatesv1.CertificateApproved)
}

// Of two concurrent CSRs with one key only one is approved.
func TestOneKeyAtTheSameInstant(t *testing.T) {
	const pairs = 8
	var requests [pairs][2]*certificatesv1.CertificateSigningRequest
	var sent sync.WaitGroup
	for i := range pairs {
		key := newKey(t)
		for j := range 2 {
			name := fmt.Sprintf("instant-%d-%d", i, j)
			cluster.Create(t, cluster.NodeBootstrap(name))
			_, kubeconfig := cluster.WaitAwaited(t, name)
			spec := kubeletSpec(t, name, key)
			sent.Go(func() { requests[i][j] = send(t, kubeconfig, spec) })
		}
		sent.Wait()
	}
	for i, pair := range requests {
		var verdicts []string
		for _, request := range pair {
			env.Eventually(t, "the verdict on "+request.Name, func() error {
				cluster.Get(t, "", request.Name, request)
				if len(request.Status.Conditions) != 1 {
					return fmt.Errorf("the conditions are %+v", request.Status.Conditions)
				}
				return nil
			})
			verdicts = append(verdicts, string(request.Status.Conditions[0].Type))
		}
		slices.Sort(verdicts)
		if want := []string{"Approved", "Denied"}; !slices.Equal(verdicts, want) {
			t.Errorf("pair %d: %q, want %q", i, verdicts, want)
		}
	}
}

// Two keys with one token are reported, whoever approves, and whichever is approved.
func TestTwoKeysOfOneTokenAreReported(t *testing.T) {
	for name, mode := range map[string]v1alpha1.Approval{
		"two-keys-node": v1alpha1.ApprovalNode, "two-keys-manual": v1alpha1.ApprovalManual, "two-keys-wide": v1alpha1.ApprovalClusterWide,
	} {
		t.Run(name, func(t *testing.T) {
			before := metric(t, "nodebootstrap_key_conflicts_total")
			nb := cluster.NodeBootstrap(name)
			nb.Spec.ClientCertificate.Approval = mode
			cluster.Create(t, nb)
			_, kubeconfig := cluster.WaitAwaited(t, name)
			requests := []*certificatesv1.CertificateSigningRequest{ask(t, kubeconfig, name, newKey(t)), ask(t, kubeconfig, name, newKey(t))}
			c := waitCond(t, name, v1alpha1.ConditionKeyConflict, metav1.ConditionTrue)
			for _, r := range requests {
				fingerprint, err := csr.Fingerprint(r)
				if err != nil {
					t.Fatal(err)
				}
				for _, want := range []string{fingerprint, r.Name, r.CreationTimestamp.UTC().Format(time.RFC3339), "2 keys"} {
					if !strings.Contains(c.Message, want) {
						t.Errorf("the message does not say %q: %s", want, c.Message)
					}
				}
			}
			env.Eventually(t, "the metric", func() error { // it is counted after the status is stored
				if got := metric(t, "nodebootstrap_key_conflicts_total") - before; got != 1 {
					return fmt.Errorf("%v conflicts are counted, want 1", got)
				}
				return nil
			})
			env.Eventually(t, "the event", func() error {
				if got := eventsOf(t, name); !slices.Contains(got, v1alpha1.ReasonSeveralKeys) {
					return fmt.Errorf("the events are %v", got)
				}
				return nil
			})
			fresh, _ := reissue(t, name, "after the conflict")
			if c := meta.FindStatusCondition(fresh.Status.Conditions, v1alpha1.ConditionKeyConflict); c != nil || len(fresh.Status.Keys) > 0 {
				t.Errorf("after the reissue the condition is %+v, the keys are %+v", c, fresh.Status.Keys)
			}
		})
	}
}

// With a delay, a CSR is approved after it if no other key was sent with the token.
func TestApprovalDelay(t *testing.T) {
	const name, contested = "delayed", "delayed-contested"
	for _, n := range []string{name, contested} {
		nb := cluster.NodeBootstrap(n)
		nb.Spec.ClientCertificate.ApprovalDelay = &metav1.Duration{Duration: 5 * time.Minute}
		cluster.Create(t, nb)
	}
	_, kubeconfig := cluster.WaitAwaited(t, name)
	single := ask(t, kubeconfig, name, newKey(t))
	_, kubeconfig = cluster.WaitAwaited(t, contested)
	first, second := ask(t, kubeconfig, contested, newKey(t)), ask(t, kubeconfig, contested, newKey(t))
	cluster.WaitReady(t, contested, metav1.ConditionFalse, v1alpha1.ReasonSeveralKeys)

	at(t, 6*time.Minute)
	poke(t, name)
	poke(t, contested)
	waitCondition(t, single, certificatesv1.CertificateApproved)
	for _, r := range []*certificatesv1.CertificateSigningRequest{first, second} {
		if cluster.Get(t, "", r.Name, r); len(r.Status.Conditions) > 0 {
			t.Errorf("one of two keys is decided on: %+v", r.Status.Conditions)
		}
	}
	approve(t, first) // a person has compared the keys
	waitCondition(t, second, certificatesv1.CertificateDenied)
}
