// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// Anyone who may write cluster-info could make every joining machine trust their CA, and send its token to them.
func TestForeignCAIsNotPublished(t *testing.T) {
	const name = "foreign-ca"
	theirs := ca(t, time.Now().Add(time.Hour))
	info := clusterInfo(t, "https://theirs.example:6443", theirs)
	cluster.Create(t, info)
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	cluster.Create(t, nb)
	env.Eventually(t, "the condition", func() error {
		if s, err := published(t, name); err != nil || s != nil {
			t.Fatalf("their CA is published (%v)", err)
		}
		cluster.Get(t, "", name, nb)
		return env.HasReady(nb, metav1.ConditionFalse, v1alpha1.ReasonCADoesNotVerify)
	})
	for _, word := range []string{"kube-public/cluster-info", "fix", "spec.cluster.caBundle", "--cluster-ca-file"} {
		if !strings.Contains(env.ReadyMessage(nb), word) {
			t.Errorf("the message does not say %s: %s", word, env.ReadyMessage(nb))
		}
	}
	waitCond(t, name, v1alpha1.ConditionStalled, metav1.ConditionTrue)
	if tokens, err := cluster.TokenSecrets(t.Context(), name); err != nil || len(tokens) > 0 {
		t.Errorf("got %d tokens (%v)", len(tokens), err)
	}

	// Set explicitly, as for a load balancer that terminates TLS, it is not checked.
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Cluster.CABundle = string(theirs) })
	cluster.WaitAwaited(t, name)
	if s := kubeconfigSecret(t, name); !bytes.Equal(s.Data[kubeconfig.CAKey], theirs) {
		t.Errorf("another CA is published: %s", s.Data[kubeconfig.CAKey])
	}
}

// The same later: the published kubeconfig stays, and the node goes on when the ConfigMap is restored.
func TestForeignCAReplacesNothing(t *testing.T) {
	const name = "foreign-ca-later"
	info := clusterInfo(t, cluster.Server(), cluster.ServerCA())
	cluster.Create(t, info)
	cluster.Create(t, &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: name}})
	before, text := cluster.WaitAwaited(t, name)
	env.Change(t, cluster, info, func(cm *corev1.ConfigMap) {
		cm.Data = clusterInfo(t, "https://theirs.example:6443", ca(t, time.Now().Add(time.Hour))).Data
	})
	cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonCADoesNotVerify)
	if now := kubeconfigSecret(t, name).Data[kubeconfig.Key]; !bytes.Equal(now, text) {
		t.Errorf("the kubeconfig has changed:\n%s", now)
	}
	env.Change(t, cluster, info, func(cm *corev1.ConfigMap) { cm.Data = clusterInfo(t, cluster.Server(), cluster.ServerCA()).Data })
	after, _ := cluster.WaitAwaited(t, name)
	if after.Status.Server != before.Status.Server || after.Status.CAFingerprint != before.Status.CAFingerprint || before.Status.CAFingerprint == "" {
		t.Errorf("the status is %+v and was %+v", after.Status, before.Status)
	}
	if got := eventsOf(t, name); slices.Contains(got, v1alpha1.ReasonKubeconfigChanged) {
		t.Errorf("the events are %v", got)
	}
}

// A changed endpoint or CA sends a live token elsewhere. That was not reported.
func TestChangesOfAPublishedKubeconfigAreReported(t *testing.T) {
	const name = "changed-server"
	nb := awaitedAt(t, name, "https://one.example:6443")
	servers, cas := metric(t, "nodebootstrap_kubeconfig_changes_total", "what=server"), metric(t, "nodebootstrap_kubeconfig_changes_total", "what=ca")
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Cluster.Server = "https://two.example:6443" })
	wantEvents := func(count int, words ...string) {
		t.Helper()
		env.Eventually(t, "the event", func() error {
			notes := notesOf(t, name, v1alpha1.ReasonKubeconfigChanged)
			if len(notes) != count {
				return fmt.Errorf("the notes are %q", notes)
			}
			for _, word := range words {
				if !slices.ContainsFunc(notes, func(note string) bool { return strings.Contains(note, word) }) {
					return fmt.Errorf("%s is not among %q", word, notes)
				}
			}
			return nil
		})
	}
	wantEvents(1, "https://one.example:6443", "https://two.example:6443")
	cluster.Get(t, "", name, nb)
	fingerprint := nb.Status.CAFingerprint
	bundle := append(ca(t, time.Now().Add(time.Hour)), cluster.ServerCA()...)
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Cluster.CABundle = string(bundle) })
	wantEvents(2, fingerprint)
	cluster.Get(t, "", name, nb)
	wantEvents(2, nb.Status.CAFingerprint)
	if got := metric(t, "nodebootstrap_kubeconfig_changes_total", "what=server") - servers; got != 1 {
		t.Errorf("%v changes of servers are counted", got)
	}
	if got := metric(t, "nodebootstrap_kubeconfig_changes_total", "what=ca") - cas; got != 1 {
		t.Errorf("%v changes of CAs are counted", got)
	}
	if want := []string{"one.example", "two.example"}; !slices.Equal(nb.Status.APIServerHosts, want) {
		t.Errorf("the hosts are %v, want %v", nb.Status.APIServerHosts, want)
	}
}

// published returns the kubeconfig Secret of a node; nil if it does not exist.
func published(t *testing.T, node string) (*corev1.Secret, error) {
	t.Helper()
	var s corev1.Secret
	err := cluster.Client.Get(t.Context(), client.ObjectKey{Namespace: operator.Namespace, Name: owned.KubeconfigSecretName(node)}, &s)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return &s, err
}

// notesOf returns the notes of the events about a NodeBootstrap with a reason.
func notesOf(t *testing.T, name, reason string) []string {
	t.Helper()
	var list eventsv1.EventList
	if err := cluster.Client.List(t.Context(), &list, client.InNamespace(metav1.NamespaceDefault)); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		if e.Regarding.Name == name && e.Reason == reason {
			out = append(out, e.Note)
		}
	}
	return out
}
