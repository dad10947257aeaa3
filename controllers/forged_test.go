// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"crypto"
	"errors"
	"fmt"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// registers creates a Node as a kubelet does, with its status. Anyone who may create nodes can do the same.
func registers(t *testing.T, name string) {
	t.Helper()
	cluster.Create(t, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status:     corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1.37.2"}},
	})
}

// renews renews the Lease of a node in a later second than a time.
func renews(t *testing.T, name string, after time.Time) {
	t.Helper()
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name}}
	err := cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(lease), lease)
	if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	if err != nil {
		cluster.Create(t, lease)
	}
	env.Eventually(t, "renewing the Lease in a later second", func() error {
		lease.Spec.RenewTime = new(metav1.NewMicroTime(time.Now()))
		if err := cluster.Client.Update(t.Context(), lease); err != nil {
			return err
		}
		if renewed := lifecycle.LeaseRenewed(lease); renewed.Before(after.Add(time.Second)) {
			return fmt.Errorf("it was renewed at %s, want a time after %s: %+v", renewed, after, lease.ManagedFields)
		}
		return nil
	})
}

// reconciled triggers a reconcile of a node and waits for it. It changes the join deadline, which has no other effect.
func reconciled(t *testing.T, name string) *v1alpha1.NodeBootstrap {
	t.Helper()
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) {
		d := 100 * time.Hour
		if was := nb.Spec.Token.JoinDeadline; was != nil {
			d = was.Duration + time.Hour
		}
		nb.Spec.Token.JoinDeadline = &metav1.Duration{Duration: d}
	})
	generation := nb.Generation
	env.Eventually(t, "the observed change", func() error {
		cluster.Get(t, "", name, nb)
		if nb.Status.ObservedGeneration < generation {
			return errors.New("it is not observed yet")
		}
		return nil
	})
	return nb
}

// A client that may create nodes, as many provisioners may, created one whose status looked as if a kubelet had reported. The
// awaited machine was locked out.
func TestForgedNodeIsNotJoined(t *testing.T) {
	const name = "forged"
	cluster.Create(t, cluster.NodeBootstrap(name))
	before, kubeconfig := cluster.WaitAwaited(t, name)
	registers(t, name)
	for range 3 {
		nb := reconciled(t, name)
		if meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionJoined) {
			t.Fatal("a forged Node counts as joined")
		}
		if nb.Status.Token == nil || nb.Status.Token.ID != before.Status.Token.ID {
			t.Fatalf("the token is %+v", nb.Status.Token)
		}
	}
	if _, err := whoIs(t.Context(), kubeconfig); err != nil {
		t.Errorf("the credential was deleted: %v", err)
	}
	// A kubelet renews a Lease as well.
	renews(t, name, time.Time{})
	reconciled(t, name)
	cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonJoined)
	if err := cluster.NothingLeft(t.Context(), name); err != nil {
		t.Error(err)
	}
}

// signs sends a CSR, waits for the operator's approval and stores a certificate; any certificate will do here.
func signs(t *testing.T, kubeconfig []byte, name string, key crypto.Signer) time.Time {
	t.Helper()
	request := ask(t, kubeconfig, name, key)
	at := waitCondition(t, request, certificatesv1.CertificateApproved).LastTransitionTime.Time
	cluster.Get(t, "", request.Name, request)
	request.Status.Certificate = cluster.ServerCA()
	if err := cluster.Client.Status().Update(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	return at
}

// The old kubelet still runs after a reissue. Its Lease counted as the join although the new certificate was not used, and the
// new machine's token was deleted before the machine had collected its certificate.
func TestOldLeaseDoesNotEndAReissue(t *testing.T) {
	const name = "old-lease"
	registers(t, name)
	renews(t, name, time.Time{})
	cluster.Create(t, cluster.NodeBootstrap(name))
	cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonJoined)

	now.SetTime(time.Now())
	t.Cleanup(func() { now.SetTime(time.Now()) })
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) {
		nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "once"}
	})
	nb, kubeconfig := cluster.WaitAwaited(t, name)
	renews(t, name, nb.Status.AwaitingSince.Time)
	now.SetTime(time.Now())

	approved := signs(t, kubeconfig, name, newKey(t))
	renews(t, name, approved)
	now.SetTime(time.Now())
	for range 3 {
		nb = reconciled(t, name)
		if meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionJoined) {
			t.Fatal("the old kubelet's Lease ended the wait")
		}
	}
	if _, err := whoIs(t.Context(), kubeconfig); err != nil {
		t.Errorf("the new machine cannot collect its certificate: %v", err)
	}
	joined := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionJoined)
	if joined.Reason != v1alpha1.ReasonNodeAlive || nb.Status.NodeAliveTime == nil {
		t.Errorf("the status does not report that the node is alive: %+v, since %s", joined, nb.Status.NodeAliveTime)
	}
}
