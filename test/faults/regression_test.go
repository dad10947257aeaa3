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
)

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

// keepsTokens is the client of an operator that deletes nothing and thinks it did.
type keepsTokens struct{ apiClient }

func (keepsTokens) Delete(context.Context, client.Object, ...client.DeleteOption) error { return nil }

// checkDeletionSeen finds a token that is left by a reconcile that saw the deletion of its NodeBootstrap, and nothing else does at
// that moment.
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
		return !pending(r) || requestedNode(r) != node || w.Foreign[keyOf(r).public()]
	})
}
