// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
)

// prioritized enqueues what nobody waits for behind everything else. A changed CA concerns every node, and what the operator has
// written itself comes back to it as events: neither a machine that is joining nor a node that has no credential yet shall
// wait for that.
type prioritized struct {
	handler.EventHandler
	// but reports what a machine or a person waits for; nil for nothing. The old object is nil when the new one was created, and the new
	// one when the old one was deleted.
	but func(old, new client.Object) bool
}

// awaitsVerdict reports whether a request waits for a verdict. What comes after the verdict is bookkeeping.
func awaitsVerdict(_, new client.Object) bool {
	r, ok := new.(*certificatesv1.CertificateSigningRequest)
	return ok && !lifecycle.AllDecided([]*certificatesv1.CertificateSigningRequest{r})
}

// isGone reports deletions.
func isGone(_, new client.Object) bool { return new == nil }

// isWanted reports all changes of a NodeBootstrap but those of its status.
func isWanted(old, new client.Object) bool {
	return old == nil || new == nil || old.GetUID() != new.GetUID() || old.GetGeneration() != new.GetGeneration() ||
		new.GetDeletionTimestamp() != nil || !maps.Equal(old.GetAnnotations(), new.GetAnnotations())
}

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// Create implements handler.EventHandler.
func (h prioritized) Create(ctx context.Context, e event.CreateEvent, q queue) {
	h.EventHandler.Create(ctx, e, h.queueFor(nil, e.Object, q))
}

// Update implements handler.EventHandler.
func (h prioritized) Update(ctx context.Context, e event.UpdateEvent, q queue) {
	h.EventHandler.Update(ctx, e, h.queueFor(e.ObjectOld, e.ObjectNew, q))
}

// Delete implements handler.EventHandler.
func (h prioritized) Delete(ctx context.Context, e event.DeleteEvent, q queue) {
	h.EventHandler.Delete(ctx, e, h.queueFor(e.Object, nil, q))
}

// Generic implements handler.EventHandler.
func (h prioritized) Generic(ctx context.Context, e event.GenericEvent, q queue) {
	h.EventHandler.Generic(ctx, e, lowPriority(q))
}

func (h prioritized) queueFor(old, new client.Object, q queue) queue {
	switch {
	case h.but == nil:
		return lowPriority(q)
	case h.but(old, new):
		return q
	default:
		return lowPriorityAfter(q, ownEventDelay)
	}
}

// ownEventDelay is for how long the operator waits when what nobody waits for has happened to one node. Usually it has written that
// itself, and one reconcile is enough when the cache shows all of it.
const ownEventDelay = time.Second

// lowPriority is a queue with everything added behind everything else.
func lowPriority(q queue) queue { return lowPriorityAfter(q, 0) }

func lowPriorityAfter(q queue, after time.Duration) queue {
	if pq, ok := q.(priorityqueue.PriorityQueue[reconcile.Request]); ok {
		return lowPriorityQueue{pq, after}
	}
	return q
}

type lowPriorityQueue struct {
	priorityqueue.PriorityQueue[reconcile.Request]
	after time.Duration
}

// Add implements workqueue.TypedInterface.
func (q lowPriorityQueue) Add(r reconcile.Request) { q.AddWithOpts(priorityqueue.AddOpts{}, r) }

// AddWithOpts implements priorityqueue.PriorityQueue.
func (q lowPriorityQueue) AddWithOpts(o priorityqueue.AddOpts, all ...reconcile.Request) {
	o.Priority, o.After = new(handler.LowPriority), max(o.After, q.after)
	q.PriorityQueue.AddWithOpts(o, all...)
}

// Requests and reconciles that go on at a time in one process.
const (
	// maxLowPriorityWrites bounds writes that nobody waits for. The API server works on all that it is sent at once, and a machine that is
	// joining takes three requests one after the other.
	maxLowPriorityWrites = 8
	// maxUncachedNodes bounds uncached reads of Nodes and Leases, which may be large.
	maxUncachedNodes = 8
	// maxHeavyReconciles bounds reconciles with large objects. Each takes many times an object's size while the object is read, sent and
	// decoded again from the answer. The others come back a moment later, so that no node with ordinary ones waits for them.
	maxHeavyReconciles = 1
)

// semaphores bound what goes on at a time. The zero value is ready.
type semaphores struct {
	once                                              sync.Once
	lowPriorityWrites, uncachedNodes, heavyReconciles *semaphore.Weighted
}

func (s *semaphores) get() *semaphores {
	s.once.Do(func() {
		s.lowPriorityWrites = semaphore.NewWeighted(maxLowPriorityWrites)
		s.uncachedNodes = semaphore.NewWeighted(maxUncachedNodes)
		s.heavyReconciles = semaphore.NewWeighted(maxHeavyReconciles)
	})
	return s
}
