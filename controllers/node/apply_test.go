// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
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

// The node whose approval is pending may be the one that fixes the cause of other failed writes. The API server's errors repeat
// the request, and their secret parts must be redacted.
func TestVerdictsDoNotWaitForOtherWrites(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "worker-1", UID: "the-uid"}}
	secret := token.NewSecret(nb, "abcdef", "0123456789abcdef", now.Add(time.Hour))
	request := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "csr-a", UID: "csr-a"}}
	scheme, err := objects.NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	approved, sent := false, ""
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(nb, secret, request).WithStatusSubresource(nb).WithInterceptorFuncs(interceptor.Funcs{
		Create: func(_ context.Context, _ client.WithWatch, o client.Object, _ ...client.CreateOption) error {
			sent = string(o.(*corev1.Secret).Data["token-secret"])
			return errors.New("a webhook refuses " + sent)
		},
		SubResourceUpdate: func(_ context.Context, _ client.Client, subresource string, _ client.Object, _ ...client.SubResourceUpdateOption) error {
			approved = subresource == "approval"
			return nil
		},
	}).Build()
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(nb), nb); err != nil {
		t.Fatal(err)
	}
	r := &Reconciler{Writes: &writes.Limits{}, Client: c, Uncached: c, Clock: clocktesting.NewFakePassiveClock(now), Recorder: noEvents{}}
	t1, _ := token.Parse(secret)
	o := r.apply(t.Context(), &lifecycle.Facts{Name: nb.Name, NodeBootstrap: nb}, &lifecycle.Plan{
		Phase: lifecycle.Awaited, Keep: []token.Token{t1}, MintReason: lifecycle.ReasonRenewed, LastTokenID: "abcdef",
		Decisions: []lifecycle.Decision{{
			Request: request, Result: csr.Result{Verdict: csr.Approve},
			Record: v1alpha1.CertificateDecision{Name: request.Name, UID: request.UID, TokenID: "abcdef", Verdict: v1alpha1.VerdictApproved, Time: metav1.NewTime(now)},
		}},
	})
	if !approved || len(nb.Status.Certificates) != 1 {
		t.Errorf("approved: %t, with %d claims; want one of each", approved, len(nb.Status.Certificates))
	}
	if o.Err == nil || sent == "" || strings.Contains(o.Err.Error(), sent) {
		t.Errorf("the failed write is reported as %v", o.Err)
	}
}

type noEvents struct{}

func (noEvents) Eventf(runtime.Object, runtime.Object, string, string, string, string, ...any) {}

// With a stale cache, a token from before a reissue was adopted as the one that was created for the reissue.
func TestTokenOfBeforeTheReissueIsNotAdopted(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "worker-1", UID: "the-uid"}}
	before := token.NewSecret(nb, token.NextID(nb.UID, ""), "0123456789abcdef", now.Add(time.Hour))
	nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "stolen"}
	scheme, err := objects.NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(nb, before).WithStatusSubresource(nb).Build()
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(nb), nb); err != nil {
		t.Fatal(err)
	}
	r := &Reconciler{Writes: &writes.Limits{}, Client: c, Uncached: c, Clock: clocktesting.NewFakePassiveClock(now), Recorder: noEvents{}}
	o := r.apply(t.Context(), &lifecycle.Facts{Name: nb.Name, NodeBootstrap: nb}, &lifecycle.Plan{Phase: lifecycle.Awaited, MintReason: v1alpha1.ReasonReissued})
	if want := token.NextIDs(nb.UID, "")[1]; o.Token == nil || o.Token.ID != want {
		t.Errorf("the token is %v (%v), want %s", o.Token, o.Err, want)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(before), &corev1.Secret{}); !apierrors.IsNotFound(err) {
		t.Errorf("the previous token still exists: %v", err)
	}
}

// A stale cache showed a CSR without its issued certificate, and the CSR was deleted: the certificate was not in the status.
func TestIssuedRequestIsNotDeletedOutOfAStaleCache(t *testing.T) {
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "worker-1", UID: "the-uid"}}
	read := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "csr-a", UID: "csr-a"}}
	scheme, err := objects.NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(nb, read).WithStatusSubresource(nb, read).Build()
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(read), read); err != nil {
		t.Fatal(err)
	}
	now := read.DeepCopy()
	now.Status.Certificate = []byte("issued")
	if err := c.Status().Update(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	r := &Reconciler{Writes: &writes.Limits{}, Client: c, Uncached: c, Clock: clocktesting.NewFakePassiveClock(time.Now()), Recorder: noEvents{}}
	o := r.apply(t.Context(), &lifecycle.Facts{Name: nb.Name, NodeBootstrap: nb}, &lifecycle.Plan{DeleteRequests: []lifecycle.RequestDeletion{{Request: read}}})
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(read), now); err != nil || !apierrors.IsConflict(o.Err) {
		t.Errorf("the request: %v; the error: %v, want a conflict", err, o.Err)
	}
}

// After the deletion of a NodeBootstrap no status is left. A certificate that was issued since the CSR was read is reported by the reconcile
// whose deletion fails, once. If the CSR cannot be read again, or has no certificate, the conflict stays, and the deletion is tried again.
func TestCertificateIssuedDuringTheDeletionIsReported(t *testing.T) {
	for name, tt := range map[string]struct {
		certificate string
		unreadable  bool
		events      int
	}{
		"issued":         {certificate: "issued", events: 1},
		"only edited":    {},
		"not read again": {certificate: "issued", unreadable: true},
	} {
		t.Run(name, func(t *testing.T) {
			shown := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "csr-a", UID: "csr-a", ResourceVersion: "1"}}
			now := shown.DeepCopy()
			now.Status.Certificate = []byte(tt.certificate)
			conflict := apierrors.NewConflict(certificatesv1.Resource("certificatesigningrequests"), "csr-a", errors.New("edited"))
			scheme, err := objects.NewScheme()
			if err != nil {
				t.Fatal(err)
			}
			c := fake.NewClientBuilder().WithScheme(scheme).WithInterceptorFuncs(interceptor.Funcs{
				Delete: func(context.Context, client.WithWatch, client.Object, ...client.DeleteOption) error { return conflict },
				List: func(_ context.Context, _ client.WithWatch, list client.ObjectList, _ ...client.ListOption) error {
					if tt.unreadable {
						return errors.New("the server is busy")
					}
					list.(*certificatesv1.CertificateSigningRequestList).Items = []certificatesv1.CertificateSigningRequest{*now}
					return nil
				},
			}).Build()
			var events countedEvents
			r := &Reconciler{Writes: &writes.Limits{}, Client: c, Uncached: c, Clock: clocktesting.NewFakePassiveClock(time.Now()), Recorder: &events}
			o := r.apply(t.Context(), &lifecycle.Facts{Name: "worker-1"}, &lifecycle.Plan{DeleteRequests: []lifecycle.RequestDeletion{{Request: shown}}})
			if int(events) != tt.events || apierrors.IsConflict(o.Err) != (tt.events == 0) {
				t.Errorf("%d events, and the error %v", events, o.Err)
			}
		})
	}
}

type countedEvents int

func (c *countedEvents) Eventf(runtime.Object, runtime.Object, string, string, string, string, ...any) {
	*c++
}

// A pending CSR without its token is deleted by the reconcile of the node that it names, so the denial must be stored before
// the token is deleted. A denial that cannot be stored stops neither the revocation nor other denials.
func TestDenialComesBeforeTheTokenGoes(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "worker-1", UID: "the-uid"}}
	secret := token.NewSecret(nb, "abcdef", "0123456789abcdef", now.Add(time.Hour))
	scheme, err := objects.NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	var done []string
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(nb, secret).WithStatusSubresource(nb).WithInterceptorFuncs(interceptor.Funcs{
		SubResourceUpdate: func(_ context.Context, _ client.Client, _ string, o client.Object, _ ...client.SubResourceUpdateOption) error {
			done = append(done, "deny "+o.GetName())
			return errors.New("a webhook refuses " + o.GetName())
		},
		Delete: func(_ context.Context, _ client.WithWatch, o client.Object, _ ...client.DeleteOption) error {
			done = append(done, "delete "+o.GetName())
			return nil
		},
	}).Build()
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(nb), nb); err != nil {
		t.Fatal(err)
	}
	denied := func(name string) lifecycle.Decision {
		return lifecycle.Decision{Request: &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}}, Result: csr.Result{Verdict: csr.Deny}}
	}
	r := &Reconciler{Writes: &writes.Limits{}, Client: c, Uncached: c, Clock: clocktesting.NewFakePassiveClock(now), Recorder: noEvents{}}
	o := r.apply(t.Context(), &lifecycle.Facts{Name: nb.Name, NodeBootstrap: nb}, &lifecycle.Plan{
		Decisions: []lifecycle.Decision{denied("csr-a"), denied("csr-b")}, DeleteTokens: []lifecycle.TokenDeletion{{Secret: secret}},
	})
	if want := []string{"deny csr-a", "deny csr-b", "delete " + secret.Name}; !slices.Equal(done, want) {
		t.Errorf("done is %q, want %q", done, want)
	}
	if o.Err == nil || !strings.Contains(o.Err.Error(), "csr-a") {
		t.Errorf("the error is %v", o.Err)
	}
}
