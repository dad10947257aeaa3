// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// changed is an event: a creation without an old object, a deletion without a new one.
type changed struct {
	old, new client.Object
	atStart  bool
}

func (c changed) send(ctx context.Context, h handler.EventHandler, q queue) {
	switch {
	case c.old == nil && c.new == nil:
		h.Generic(ctx, event.GenericEvent{Object: &corev1.ConfigMap{}}, q)
	case c.old == nil:
		h.Create(ctx, event.CreateEvent{Object: c.new, IsInInitialList: c.atStart}, q)
	case c.new == nil:
		h.Delete(ctx, event.DeleteEvent{Object: c.old}, q)
	default:
		h.Update(ctx, event.UpdateEvent{ObjectOld: c.old, ObjectNew: c.new}, q)
	}
}

// place is how a node is added to the queue.
type place struct {
	priority int
	after    time.Duration
}

var now, behind, later = place{}, place{handler.LowPriority, 0}, place{handler.LowPriority, ownEventDelay}

func TestPrioritized(t *testing.T) {
	denied := &certificatesv1.CertificateSigningRequest{Status: certificatesv1.CertificateSigningRequestStatus{
		Conditions: []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue}},
	}}
	waits := &certificatesv1.CertificateSigningRequest{}
	annotatedRequest := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "2"}}
	wanted := func(edit func(*v1alpha1.NodeBootstrap)) *v1alpha1.NodeBootstrap {
		nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "worker", UID: "a", Generation: 1, ResourceVersion: "1"}}
		if edit != nil {
			nb.ResourceVersion = "2"
			edit(nb)
		}
		return nb
	}
	annotated := wanted(func(nb *v1alpha1.NodeBootstrap) {
		nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "now"}
	})
	worker := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request { return requestsFor("worker") })
	requests, secrets, bootstraps, all := prioritized{worker, awaitsVerdict}, prioritized{worker, isDeletion}, prioritized{&handler.EnqueueRequestForObject{}, isNotOnlyStatus}, prioritized{worker, nil}
	for name, tt := range map[string]struct {
		h    prioritized
		e    changed
		want place
	}{
		"a request is sent":                {requests, changed{new: waits}, now},
		"a verdict is stored":              {requests, changed{old: waits, new: denied}, later},
		"one is annotated":                 {requests, changed{old: waits, new: annotatedRequest}, now},
		"a request is deleted":             {requests, changed{old: waits}, later},
		"it existed at the start":          {requests, changed{new: denied, atStart: true}, later},
		"a token is created":               {secrets, changed{new: &corev1.Secret{}}, later},
		"it is deleted":                    {secrets, changed{old: &corev1.Secret{}}, now},
		"a NodeBootstrap is created":       {bootstraps, changed{new: wanted(nil)}, now},
		"it existed before the start":      {bootstraps, changed{new: wanted(nil), atStart: true}, behind},
		"its status is stored":             {bootstraps, changed{old: wanted(nil), new: wanted(func(nb *v1alpha1.NodeBootstrap) { nb.Status.LastTokenID = "abcdef" })}, later},
		"its spec is edited":               {bootstraps, changed{old: wanted(nil), new: wanted(func(nb *v1alpha1.NodeBootstrap) { nb.Generation = 2 })}, now},
		"a reissue is requested":           {bootstraps, changed{old: wanted(nil), new: annotated}, now},
		"it is being deleted":              {bootstraps, changed{old: wanted(nil), new: wanted(func(nb *v1alpha1.NodeBootstrap) { nb.DeletionTimestamp = new(metav1.Now()) })}, now},
		"it is replaced":                   {bootstraps, changed{old: wanted(nil), new: wanted(func(nb *v1alpha1.NodeBootstrap) { nb.UID = "b" })}, now},
		"the NodeBootstrap is deleted":     {bootstraps, changed{old: wanted(nil)}, now},
		"something changes that is shared": {all, changed{new: &corev1.ConfigMap{}}, behind},
		"something else":                   {all, changed{}, behind},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := priorityqueue.New[reconcile.Request](t.Name())
				defer q.ShutDown()
				began := time.Now()
				tt.e.send(t.Context(), tt.h, q)
				r, priority, _ := q.GetWithPriority()
				if got := (place{priority, time.Since(began)}); got != tt.want || r.Name != "worker" {
					t.Errorf("%s is queued at %v, want %v", r, got, tt.want)
				}
			})
		})
	}
}

// Low-priority writes do not overload the API server.
func TestFewLowPriorityUpdatesAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const updates = 3 * maxLowPriorityWrites
		var mu sync.Mutex
		underWay, most := 0, 0
		count := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			underWay += n
			most = max(most, underWay)
		}
		c := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
			Update: func(context.Context, client.WithWatch, client.Object, ...client.UpdateOption) error {
				count(1)
				<-time.After(time.Millisecond)
				count(-1)
				return nil
			},
		}).Build()
		r := &Reconciler{Client: c, Clock: clocktesting.NewFakePassiveClock(time.Now())}
		began := time.Now()
		var all sync.WaitGroup
		for range updates {
			all.Go(func() {
				if _, err := r.updateLowPriority(t.Context(), &corev1.Secret{}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); most != maxLowPriorityWrites || took != updates/maxLowPriorityWrites*time.Millisecond {
			t.Errorf("%d at a time, all in %s", most, took)
		}
		if err := r.semaphores.get().lowPriorityWrites.Acquire(t.Context(), maxLowPriorityWrites); err != nil {
			t.Fatal(err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.updateLowPriority(ended, &corev1.Secret{}); !errors.Is(err, context.Canceled) {
			t.Errorf("while all writes are in progress and the process ends: %v", err)
		}
	})
}
