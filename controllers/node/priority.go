// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
)

// prioritized enqueues changes that are not urgent with low priority. A changed CA affects every node, and the operator's own
// writes come back as events: neither a joining machine nor a node without a credential should wait for those.
type prioritized struct {
	handler.EventHandler
	// urgent reports changes that a machine or a person waits for; nil for none. On a creation the old object is nil, on a
	// deletion the new one.
	urgent func(old, new client.Object) bool
}

// awaitsVerdict reports whether a CSR waits for a verdict. Later changes are not urgent.
func awaitsVerdict(_, new client.Object) bool {
	r, ok := new.(*certificatesv1.CertificateSigningRequest)
	return ok && csr.Undecided(r)
}

// isDeletion reports deletions.
func isDeletion(_, new client.Object) bool { return new == nil }

// isNotOnlyStatus reports all changes of a NodeBootstrap except those of its status.
func isNotOnlyStatus(old, new client.Object) bool {
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
	case h.urgent == nil:
		return lowPriority(q)
	case h.urgent(old, new):
		return q
	default:
		return lowPriorityAfter(q, ownEventDelay)
	}
}

// ownEventDelay is the delay after a change that is not urgent. Usually the operator made that change itself, and one reconcile
// is enough after the cache shows all of its writes.
const ownEventDelay = time.Second

// lowPriority wraps a queue so that items are added with low priority.
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

// Limits of concurrent API requests and reconciles in one process.
const (
	// maxLowPriorityWrites bounds writes that are not urgent. The API server processes all requests concurrently, and a joining
	// machine needs three, one after the other.
	maxLowPriorityWrites = 8
	// maxUncachedNodes bounds uncached reads of Nodes and Leases, which can be large.
	maxUncachedNodes = 8
	// maxHeavyReconciles bounds reconciles with large objects. Each needs many times the size of an object in memory, to read
	// it, send it and decode the response. The others are requeued, so that they do not block nodes with ordinary objects.
	maxHeavyReconciles = 1
)

// semaphores bound concurrency. The zero value is ready to use.
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

// heavyRetry is the approximate delay of a reconcile with large objects while another one runs.
const heavyRetry = 500 * time.Millisecond

// isHeavy reports whether a reconcile can read or write a large object, by the facts read so far and by the cache.
func (r *Reconciler) isHeavy(ctx context.Context, f *lifecycle.Facts) bool {
	if f.NodeBootstrap != nil && objects.IsLarge(f.NodeBootstrap) || f.Kubeconfig != nil && objects.IsLarge(f.Kubeconfig) ||
		slices.ContainsFunc(f.TokenSecrets, func(s *corev1.Secret) bool { return objects.IsLarge(s) }) || slices.ContainsFunc(f.Requests, isLargePending) {
		return true
	}
	if f.NodeBootstrap == nil {
		return false
	}
	if node, err := objects.Find(ctx, r.Client, "", f.Name, objects.NodeMetadata()); err == nil && node != nil && objects.IsLarge(node) {
		return true
	}
	var serving certificatesv1.CertificateSigningRequestList
	if len(f.NodeBootstrap.Spec.ServingCertificate.Addresses) == 0 || r.Client.List(ctx, &serving, client.MatchingFields{objects.IndexServing: f.Name}) != nil {
		return false // gatherServing returns the error
	}
	return slices.ContainsFunc(serving.Items, func(r certificatesv1.CertificateSigningRequest) bool { return isLargePending(&r) })
}

func isLargePending(r *certificatesv1.CertificateSigningRequest) bool {
	return objects.IsLarge(r) && !csr.Settled(r)
}
