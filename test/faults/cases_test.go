// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// TestTenSettledDays: if only heartbeats arrive and time passes, tokens are renewed and expired ones deleted, and nothing
// else is written.
func TestTenSettledDays(t *testing.T) {
	const days = 10
	w := newWorld()
	w.startOperator()
	ttl := func(ttl time.Duration) func(*v1alpha1.NodeBootstrap) {
		return func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Token.TTL = &metav1.Duration{Duration: ttl} }
	}
	approval := func(a v1alpha1.Approval) func(*v1alpha1.NodeBootstrap) {
		return func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = a }
	}
	day := ttl(24 * time.Hour)
	w.wants("waiting", day)
	w.wants("waiting-for-long", ttl(8760*time.Hour))
	w.wants("cluster-wide", day, approval(v1alpha1.ApprovalClusterWide))
	w.wants("asking", day, approval(v1alpha1.ApprovalManual))
	w.wants("late", day, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Token.JoinDeadline = &metav1.Duration{Duration: shortest} })
	w.wants("unlucky", day)
	w.wants("joined", day)
	w.wants("member", day)
	member, joined := w.machine("member"), w.machine("joined")
	member.register()
	member.beat()
	w.run(time.Minute)

	asking, thief := w.machine("asking"), w.machine("unlucky")
	asks := func(m *machine, name string) {
		if !m.give() || !m.askAs(name, certificatesv1.KubeAPIServerClientKubeletSignerName) {
			t.Fatalf("%s cannot ask\n%s", m, w.history())
		}
	}
	asks(asking, "asking")
	asks(thief, "someone-else")
	asks(joined, "joined")
	w.run(time.Minute)
	if !joined.collect() || !joined.register() || !joined.beat() {
		t.Fatal("no certificate")
	}
	w.run(30 * time.Hour) // the deadline has passed, and the last token before it has expired

	before, calls := len(w.changes), len(w.calls)
	for range days * 24 {
		joined.beat()
		member.beat()
		w.run(time.Hour)
	}
	written := map[string]map[string]int{}
	for _, c := range w.changes[before:] {
		if c.new.author != operatorAuthor {
			continue
		}
		what, object := strings.Fields(tracedChange{c}.String())[2], objectOf(c.new)
		if object == nil {
			object = objectOf(c.old)
		}
		node := c.key.name
		if o, ok := object.(metav1.Object); ok && c.key.kind == "Secret" {
			node = owned.NodeOf(o)
		}
		if written[node] == nil {
			written[node] = map[string]int{}
		}
		written[node][what+" "+c.key.kind]++
	}
	const fewest, most = days * 24 / 20, days*24/16 + 1 // with a sixth to a third of a day left
	for _, node := range []string{"waiting", "cluster-wide", "asking"} {
		n := written[node]["creates Secret"]
		want := map[string]int{"creates Secret": n, "changes Secret": n, "changes NodeBootstrap": n, "deletes Secret": written[node]["deletes Secret"]}
		if n < fewest || n > most || want["deletes Secret"] > n+1 || len(written[node]) > len(want) {
			t.Errorf("%s: %v", node, written[node])
		}
		for what, n := range want {
			if written[node][what] != n {
				t.Errorf("%s: %v instead of %v", node, written[node], want)
			}
		}
		delete(written, node)
	}
	if len(written) > 0 {
		t.Errorf("there were other writes: %v", written)
	}
	w.checkNoMoreWrites()
	w.checkLeaks()
	w.checkCaches()
	if len(w.violations) > 0 {
		t.Errorf("%s\n%s", strings.Join(w.violations, "\n"), w.history())
	}
	t.Logf("%d calls of the operator in %d days", len(w.calls)-calls, days)
}

// A CSR for another node's name that was left to kube-controller-manager, which did not approve it, stayed when its token was
// renewed, until kube-controller-manager deleted it as expired: no NodeBootstrap named that token any more.
func TestRequestForAnotherNodeGoesWithItsToken(t *testing.T) {
	w := newWorld()
	w.startOperator()
	w.wants(worker, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Token.TTL = &metav1.Duration{Duration: shortest} })
	w.idle()
	thief := w.machine(worker)
	if !thief.give() || !thief.askAs(neighbour, certificatesv1.KubeAPIServerClientKubeletSignerName) {
		t.Fatal("the thief has no token")
	}
	edit(w.store, userAuthor, "", worker, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide })
	w.idle()
	if len(pendingFor(w, neighbour)) != 1 {
		t.Fatal("the request does not wait for kube-controller-manager")
	}
	w.run(shortest - time.Minute) // it is renewed
	w.remove("token-cleaner", keyOf(w.tokenOf(thief.bearer)))
	w.idle()
	if len(pendingFor(w, neighbour)) != 0 {
		t.Errorf("the request is still there\n%s", w.history())
	}
}

// A reissue revokes the token, but the deletion fails, and someone has removed the label by which the cache finds its Secret:
// only the status names it, and it no longer did after the failure.
func TestTokenWithoutALabelIsNotForgottenWhenItsDeletionFails(t *testing.T) {
	w := newWorld()
	w.startOperator()
	w.wants(worker)
	w.idle()
	token := w.theToken()
	edited(w, userAuthor, token, func(s *corev1.Secret) { s.Labels = nil })
	w.asksReissue(worker, "1")
	w.refused["delete Secret"] = w.clock.Now().Add(aWhile)
	w.run(time.Minute)
	if !strings.Contains(w.history(), "may not delete Secret") {
		t.Fatal("no deletion was refused")
	}
	if w.latest(keyOf(token)) != nil {
		t.Error("the token is still there")
	}
	if len(w.violations) > 0 {
		t.Errorf("%s\n%s", strings.Join(w.violations, "\n"), w.history())
	}
}

// keepsTokens is the client of an operator that reports deletions and deletes nothing.
type keepsTokens struct{ apiClient }

func (keepsTokens) Delete(context.Context, client.Object, ...client.DeleteOption) error { return nil }

// checkDeletionSeen, and no other check, finds a token that is left by a reconcile that saw the deletion of its NodeBootstrap.
func TestTokenThatIsLeftAfterADeletionIsFound(t *testing.T) {
	for name, breaks := range map[string]bool{"as it is": false, "without deletions": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.startOperator()
			w.wants(worker)
			w.idle()
			if breaks {
				w.op.node.Client = keepsTokens{apiClient{w: w}}
			}
			w.unwants(worker)
			w.idle()
			found := slices.ContainsFunc(w.violations, func(v string) bool { return strings.Contains(v, "is left by a reconcile that saw the deletion") })
			if found != breaks || len(w.violations) > 1 {
				t.Errorf("the violations are %q\n%s", w.violations, w.history())
			}
		})
	}
}

func pendingFor(w *world, node string) []*certificatesv1.CertificateSigningRequest {
	return slices.DeleteFunc(all[*certificatesv1.CertificateSigningRequest](w.store), func(r *certificatesv1.CertificateSigningRequest) bool {
		return !invariants.Pending(r) || requestedNode(r) != node || w.Foreign[keyOf(r).public()]
	})
}
