// SPDX-License-Identifier: Apache-2.0

package node

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/controllers/writes"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/drift"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// If a status has used up its bound, an approval must wait, since it depends on the status. A revocation does not wait.
func TestHeldStatusDoesNotHoldARevocation(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	scheme, err := objects.NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	for name, misuse := range map[string]*problem.Problem{"approval": nil, "misuse": {Reason: csr.ReasonWrongSubject, Message: "x"}} {
		t.Run(name, func(t *testing.T) {
			nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "worker-1", UID: "the-uid"}}
			secret := token.NewSecret(nb, "abcdef", "0123456789abcdef", now.Add(time.Hour))
			request := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "csr-a", UID: "csr-a"}}
			c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(nb, secret, request).WithStatusSubresource(nb).Build()
			for _, o := range []client.Object{nb, secret} {
				if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
					t.Fatal(err)
				}
			}
			r := &Reconciler{Writes: &writes.Limits{}, Client: c, Uncached: c, Clock: clocktesting.NewFakePassiveClock(now), Recorder: noEvents{}}
			for r.Writes.Wait(writes.StatusOf(nb.Name), now) == 0 {
				r.Writes.WroteStatus(writes.StatusOf(nb.Name), drift.Difference{}, drift.Digest32{}, true, now) // another client has undone them
			}
			p := &lifecycle.Plan{Phase: lifecycle.Awaited, Misuse: misuse, Decisions: []lifecycle.Decision{{
				Request: request, Result: csr.Result{Verdict: csr.Approve},
				Record: v1alpha1.CertificateDecision{Name: request.Name, UID: request.UID, TokenID: "abcdef", Verdict: v1alpha1.VerdictApproved},
			}}}
			if misuse != nil {
				p.DeleteTokens, p.Decisions = []lifecycle.TokenDeletion{{Secret: secret}}, nil
			}
			o := r.apply(t.Context(), &lifecycle.Facts{Name: nb.Name, NodeBootstrap: nb, TokenSecrets: []*corev1.Secret{secret}}, p)
			_, held := writes.OnlyHeld(o.Err)
			left := c.Get(t.Context(), client.ObjectKeyFromObject(secret), &corev1.Secret{}) == nil
			if want := misuse == nil; held != want || left != want {
				t.Errorf("held: %v, the token still exists: %v, error %v", held, left, o.Err)
			}
		})
	}
}
