// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/controllers/writes"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// An approval depends on the NodeBootstrap in the API server: the response to the claim, or an uncached read if an earlier
// reconcile stored the claim, or if something was revoked in between.
func TestApprovalRestsOnWhatIsThere(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	record := v1alpha1.CertificateDecision{Name: "csr-a", UID: "csr-a", TokenID: "abcdef", Verdict: v1alpha1.VerdictApproved, Time: metav1.NewTime(now)}
	denial := lifecycle.Decision{Request: &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "csr-b"}}, Result: csr.Result{Verdict: csr.Deny}}
	for name, tt := range map[string]struct {
		claimedBefore bool
		others        []lifecycle.Decision
		gone          bool
		reads         int
		approved      bool
	}{
		"claimed in this reconcile":       {false, nil, false, 0, true},
		"claimed before":                  {true, nil, false, 1, true},
		"claimed before, then deleted":    {true, nil, true, 1, false},
		"another CSR is denied meanwhile": {false, []lifecycle.Decision{denial}, false, 1, true},
		"and then it is deleted":          {false, []lifecycle.Decision{denial}, true, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			scheme, err := objects.NewScheme()
			if err != nil {
				t.Fatal(err)
			}
			nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "worker-1", UID: "the-uid"}}
			if tt.claimedBefore {
				nb.Status.Certificates = []v1alpha1.CertificateDecision{record}
				nb.Status.Tokens = []v1alpha1.LiveToken{{ID: record.TokenID, CSRs: []v1alpha1.DecidedCSR{
					{Name: record.Name, UID: record.UID, Verdict: record.Verdict, Time: record.Time}}}}
			}
			secret := token.NewSecret(nb, "abcdef", "0123456789abcdef", now.Add(time.Hour))
			request := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "csr-a", UID: "csr-a"}}
			approved, reads := false, 0
			c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(nb, secret, request).WithStatusSubresource(nb).WithInterceptorFuncs(interceptor.Funcs{
				SubResourceUpdate: func(ctx context.Context, c client.Client, subresource string, o client.Object, opts ...client.SubResourceUpdateOption) error {
					if subresource != "approval" {
						return c.SubResource(subresource).Update(ctx, o, opts...)
					}
					approved = approved || o.GetName() == request.Name
					return nil
				},
			}).Build()
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(nb), nb); err != nil {
				t.Fatal(err)
			}
			live := interceptor.NewClient(c, interceptor.Funcs{
				Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
					if _, ok := o.(*v1alpha1.NodeBootstrap); ok {
						if reads++; tt.gone {
							o = &v1alpha1.NodeBootstrap{}
							key.Name = "another"
						}
					}
					return c.Get(ctx, key, o, opts...)
				},
			})
			r := &Reconciler{Writes: &writes.Limits{}, Client: c, Uncached: live, Clock: clocktesting.NewFakePassiveClock(now), Recorder: noEvents{}}
			t1, _ := token.Parse(secret)
			p := &lifecycle.Plan{Phase: lifecycle.Awaited, Keep: []token.Token{t1}, Decisions: append(tt.others, lifecycle.Decision{
				Request: request, Result: csr.Result{Verdict: csr.Approve}, Record: record,
			})}
			if o := r.apply(t.Context(), &lifecycle.Facts{Name: nb.Name, NodeBootstrap: nb}, p); o.Err != nil {
				t.Fatal(o.Err)
			}
			if approved != tt.approved || reads != tt.reads {
				t.Errorf("approved: %t after %d uncached reads of the NodeBootstrap, want %t after %d", approved, reads, tt.approved, tt.reads)
			}
		})
	}
}
