// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// When the API server could not be asked, nodes were told that nothing is known; as soon as it answers they are told.
func TestApproversTellWhatWasUnknown(t *testing.T) {
	down := true
	c := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
		Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
			if down {
				return errors.New("down")
			}
			return nil // a review of nothing allowed
		},
	}).Build()
	a := NewApprovers(c, clocktesting.NewFakePassiveClock(time.Now()))
	if bypass, err := a.Bypass(t.Context(), &v1alpha1.NodeBootstrap{}); bypass != nil || err != nil {
		t.Fatalf("while it is down it is known: %v, %v", bypass, err)
	}
	if _, err := a.Reconcile(t.Context(), allApprovers{}); err == nil {
		t.Error("while it is down there is no error to try again for")
	}
	down = false
	told := make(chan struct{})
	go func() {
		<-a.Changed()
		close(told)
	}()
	if _, err := a.Reconcile(t.Context(), allApprovers{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-told:
	case <-time.After(time.Minute):
		t.Error("nobody was told")
	}
	if bypass, err := a.Bypass(t.Context(), &v1alpha1.NodeBootstrap{}); bypass == nil || bypass.Open || err != nil {
		t.Errorf("now it is %v, %v", bypass, err)
	}
}

// When the process starts every node wants to know, and nobody has asked yet.
func TestApproversAskOnceForAllNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
			Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
				asked++
				<-time.After(time.Second)
				return nil
			},
		}).Build()
		a := NewApprovers(c, clocktesting.NewFakePassiveClock(time.Now()))
		var nodes sync.WaitGroup
		for range 10 {
			nodes.Go(func() {
				if bypass, err := a.Bypass(t.Context(), &v1alpha1.NodeBootstrap{}); bypass == nil || err != nil {
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
