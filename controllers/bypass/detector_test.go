// SPDX-License-Identifier: Apache-2.0

package bypass

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/apiserver"
)

// While the API server cannot be asked, nodes get no answer. As soon as it answers, they are reconciled.
func TestDetectorNotifiesAfterAnOutage(t *testing.T) {
	down := true
	c := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
		Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
			if down {
				return errors.New("down")
			}
			return nil // a review of nothing allowed
		},
	}).Build()
	d := NewDetector(c, clocktesting.NewFakePassiveClock(time.Now()))
	if bypass, err := d.Bypass(t.Context(), &v1alpha1.NodeBootstrap{}); bypass != nil || err != nil {
		t.Fatalf("while the API server is down: got %v, %v", bypass, err)
	}
	if _, err := d.Reconcile(t.Context(), singleton{}); err == nil {
		t.Error("while the API server is down: got no error")
	}
	down = false
	notified := make(chan struct{})
	go func() {
		<-d.Changed()
		close(notified)
	}()
	if _, err := d.Reconcile(t.Context(), singleton{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-notified:
	case <-time.After(time.Minute):
		t.Error("no event was sent")
	}
	if bypass, err := d.Bypass(t.Context(), &v1alpha1.NodeBootstrap{}); bypass == nil || bypass.Open || err != nil {
		t.Errorf("after the outage: got %v, %v", bypass, err)
	}
}

// At the start every node asks, and no answer exists yet.
func TestDetectorAsksOnceForAllNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
			Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
				asked++
				<-time.After(time.Second)
				return nil
			},
		}).Build()
		d := NewDetector(c, clocktesting.NewFakePassiveClock(time.Now()))
		var nodes sync.WaitGroup
		for range 10 {
			nodes.Go(func() {
				if bypass, err := d.Bypass(t.Context(), &v1alpha1.NodeBootstrap{}); bypass == nil || err != nil {
					t.Errorf("got %v, %v", bypass, err)
				}
			})
		}
		nodes.Wait()
		if asked != 1 {
			t.Errorf("the API server was asked %d times", asked)
		}
	})
}

// reviews is a client with configurable responses to reviews.
type reviews struct {
	client.Client
	asked         int
	allowed, down bool
}

func newReviews() *reviews {
	r := &reviews{}
	r.Client = fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
		Create: func(_ context.Context, _ client.WithWatch, o client.Object, _ ...client.CreateOption) error {
			r.asked++
			if r.down {
				return errors.New("down")
			}
			o.(*authorizationv1.SubjectAccessReview).Status.Allowed = r.allowed
			return nil
		},
	}).Build()
	return r
}

// The API server's clock is set back by an hour right after a change of a binding: it was asked every second for an hour.
func TestDetectorSurvivesAClockSetBack(t *testing.T) {
	clock := clocktesting.NewFakePassiveClock(time.Now())
	d := NewDetector(newReviews(), clock)
	d.bindings = clock.Now()
	reconcile := func() time.Duration {
		t.Helper()
		result, err := d.Reconcile(t.Context(), singleton{})
		if err != nil {
			t.Fatal(err)
		}
		return result.RequeueAfter
	}
	if got := reconcile(); got != authorizerRetry {
		t.Fatalf("right after the change it is asked again after %s", got)
	}
	clock.SetTime(clock.Now().Add(-time.Hour))
	if got := reconcile(); got != authorizerRetry {
		t.Errorf("the authorizer may still not know of the change, and is asked again after %s", got)
	}
	clock.SetTime(clock.Now().Add(authorizerLag))
	if got := reconcile(); got != answerRefresh {
		t.Errorf("it is asked again after %s, want %s", got, answerRefresh)
	}
}

// When the API server no longer answers, for example because the operator lost the permission, the last answer is valid for
// less than two refreshes, and then the nodes are reconciled without one. It was valid forever.
func TestDetectorForgetsAStaleAnswer(t *testing.T) {
	clock := clocktesting.NewFakePassiveClock(time.Now())
	r := newReviews()
	d := NewDetector(r, clock)
	known := func() bool {
		t.Helper()
		bypass, err := d.Bypass(t.Context(), &v1alpha1.NodeBootstrap{})
		if err != nil {
			t.Fatal(err)
		}
		return bypass != nil
	}
	if _, err := d.Reconcile(t.Context(), singleton{}); err != nil || !known() {
		t.Fatalf("no answer is known: %v", err)
	}
	r.down = true
	notified := make(chan struct{}, 1)
	go func() {
		<-d.Changed()
		notified <- struct{}{}
	}()
	began := clock.Now()
	for clock.Since(began) < 2*answerRefresh {
		if _, err := d.Reconcile(t.Context(), singleton{}); err == nil {
			t.Fatal("a failure returns no error")
		}
		if apiserver.Within(clock.Since(began), answerRefresh) && !known() {
			t.Fatalf("after %s the answer is forgotten", clock.Since(began))
		}
		clock.SetTime(clock.Now().Add(answerMaxRetry))
	}
	select {
	case <-notified:
	case <-time.After(time.Minute):
		t.Fatal("no event was sent for the answer that is too old")
	}
	if known() {
		t.Error("an answer of ten minutes ago is still used")
	}
	r.down = false
	go func() {
		<-d.Changed()
		notified <- struct{}{}
	}()
	if _, err := d.Reconcile(t.Context(), singleton{}); err != nil || !known() {
		t.Errorf("the new answer is not known: %v", err)
	}
	<-notified
}
