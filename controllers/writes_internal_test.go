// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// Another client undoes each write: after some in a row there is one in each interval, and that is reported until it stops.
func TestWriteLimitsBound(t *testing.T) {
	var l WriteLimits
	now := time.Now()
	harm := bootstrap.Difference{Needed: []string{"data"}}
	n := 0
	for l.wait("a", now) == 0 {
		n++
		l.wrote("a", write{object: "Secret a", restored: harm}, now)
		l.wrote("b", write{object: "Secret b"}, now)
	}
	if n != objectBurst {
		t.Errorf("%d writes in a row", n)
	}
	if wait := l.wait("a", now); wait <= 0 || wait > objectInterval {
		t.Errorf("the next one in %s", wait)
	}
	if i := l.interference("a", now); i == nil || i.ByAdmission || i.Object != "Secret a" || i.Harmless() {
		t.Errorf("it is reported as %+v", i)
	}
	for range 5 {
		now = now.Add(objectInterval)
		if l.interference("a", now) != nil {
			t.Error("it is reported although the object was left alone for an interval")
		}
		if wait := l.wait("a", now); wait > 0 {
			t.Errorf("after an interval it is to wait for %s more", wait)
		}
		if l.wrote("a", write{object: "Secret a", restored: harm}, now); l.wait("a", now) == 0 {
			t.Error("two writes in an interval")
		}
	}
}

// A write that admission control changes is not tried again for an interval. Once it lets one be, nothing has to wait.
func TestWriteLimitsAdmission(t *testing.T) {
	var l WriteLimits
	now := time.Now()
	spoiled := bootstrap.Difference{Needed: []string{"data"}}
	if i := l.wrote("a", write{object: "Secret a", answer: spoiled}, now); i == nil || !i.ByAdmission {
		t.Fatalf("got %+v", i)
	}
	if wait := l.wait("a", now); wait <= 0 || wait > objectInterval {
		t.Errorf("the next one in %s", wait)
	}
	if i := l.interference("a", now.Add(24*time.Hour)); i == nil || !i.ByAdmission {
		t.Errorf("after a day it is reported as %+v", i)
	}
	if i := l.wrote("a", write{object: "Secret a"}, now.Add(objectInterval)); i != nil || l.interference("a", now) != nil || l.wait("a", now.Add(objectInterval)) > 0 {
		t.Error("it is reported although the last answer was right, or the next write waits")
	}
	var digest bootstrap.Digest32
	if l.wroteStatus("s", spoiled, digest, true, now); l.wait("s", now) > 0 {
		t.Error("the status that reports it waits")
	}
	if l.wroteStatus("s", spoiled, digest, true, now); l.wait("s", now) <= 0 {
		t.Error("a status that is not stored is sent again at once")
	}
}

// What does no harm is left alone for a while, but not what else is different.
func TestWriteLimitsTolerate(t *testing.T) {
	var l WriteLimits
	now := time.Now()
	label, both := bootstrap.Difference{Other: []string{"label"}}, bootstrap.Difference{Other: []string{"label", "annotation"}}
	if l.tolerates("a", label, now) {
		t.Error("it is tolerated before it was tried")
	}
	l.wrote("a", write{object: "Secret a", restored: label, answer: label}, now)
	harm := bootstrap.Difference{Needed: []string{"data"}, Other: label.Other}
	for what, got := range map[string]bool{
		"the same": l.tolerates("a", label, now), "not later": !l.tolerates("a", label, now.Add(toleranceInterval)),
		"not more": !l.tolerates("a", both, now), "not harm": !l.tolerates("a", harm, now), "and no wait": l.wait("a", now) == 0,
	} {
		if !got {
			t.Error(what)
		}
	}
}

// What has not been written for a while is forgotten.
func TestWriteLimitsForget(t *testing.T) {
	var l WriteLimits
	now := time.Now()
	for i := range 5000 {
		l.wrote(fmt.Sprint(i), write{}, now)
		now = now.Add(objectInterval)
	}
	if n := len(l.objects); n > 1100 {
		t.Errorf("%d are remembered", n)
	}
}

func TestOnlyHeld(t *testing.T) {
	short, long, other := &heldError{object: "a", wait: time.Second}, &heldError{object: "b", wait: time.Minute}, errors.New("other")
	for _, tt := range []struct {
		err  error
		want time.Duration
	}{
		{nil, 0}, {other, 0}, {short, time.Second}, {fmt.Errorf("x: %w", long), time.Minute}, {errors.Join(long, short), time.Second},
		{errors.Join(short, other), 0}, {fmt.Errorf("x: %w", errors.Join(errors.Join(nil, long), nil)), time.Minute},
		{bootstrap.HideText(short, "hidden"), time.Second},
	} {
		if wait, held := onlyHeld(tt.err); wait != tt.want || held != (tt.want > 0) {
			t.Errorf("%v: %s, %v", tt.err, wait, held)
		}
	}
}

// A status that was stored often holds an approval, which rests on the status, for a while. It does not hold a revocation.
func TestHeldStatusDoesNotHoldARevocation(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	scheme, err := NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	for name, misuse := range map[string]*bootstrap.Problem{"approval": nil, "misuse": {Reason: csr.ReasonWrongSubject, Message: "x"}} {
		t.Run(name, func(t *testing.T) {
			nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "worker-1", UID: "the-uid"}}
			token := bootstrap.TokenSecret(nb, "abcdef", "0123456789abcdef", now.Add(time.Hour))
			request := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "csr-a", UID: "csr-a"}}
			c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(nb, token, request).WithStatusSubresource(nb).Build()
			for _, o := range []client.Object{nb, token} {
				if err := c.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
					t.Fatal(err)
				}
			}
			r := &NodeReconciler{Writes: &WriteLimits{}, Client: c, Live: c, Clock: clocktesting.NewFakePassiveClock(now), Recorder: noEvents{}}
			for r.Writes.wait(statusOf(nb.Name), now) == 0 {
				r.Writes.wroteStatus(statusOf(nb.Name), bootstrap.Difference{}, bootstrap.Digest32{}, true, now) // which another client has undone
			}
			p := &bootstrap.Plan{Phase: bootstrap.Awaited, Misuse: misuse, Decisions: []bootstrap.Decision{{
				Request: request, Result: csr.Result{Verdict: csr.Approve},
				Record: v1alpha1.CertificateDecision{Name: request.Name, UID: request.UID, TokenID: "abcdef", Verdict: v1alpha1.VerdictApproved},
			}}}
			if misuse != nil {
				p.DeleteTokens, p.Decisions = []*corev1.Secret{token}, nil
			}
			o := r.apply(t.Context(), &bootstrap.Facts{Name: nb.Name, NodeBootstrap: nb, TokenSecrets: []*corev1.Secret{token}}, p)
			_, held := onlyHeld(o.Err)
			left := c.Get(t.Context(), client.ObjectKeyFromObject(token), &corev1.Secret{}) == nil
			if want := misuse == nil; held != want || left != want {
				t.Errorf("held: %v, the token is left: %v, error %v", held, left, o.Err)
			}
		})
	}
}

// What is forgotten while another object is written was read after that, which ended the process.
func TestWriteLimitsOfManyObjectsAtATime(*testing.T) {
	var l WriteLimits
	now := time.Now()
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 20_000 {
				key := fmt.Sprint(worker, "/", i)
				l.wroteStatus(key, bootstrap.Difference{}, bootstrap.Digest32{}, false, now)
				l.wait(key, now)
				l.undone(key, bootstrap.Digest32{})
			}
		})
	}
	all.Wait()
}
