// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
)

// leisurely enqueues what nobody waits for behind everything else: a changed CA concerns every node, and a machine that is
// joining must not wait until all kubeconfigs are rendered anew.
type leisurely struct {
	handler.EventHandler
	// but is what somebody waits for; nil for nothing.
	but func(client.Object) bool
}

// awaitsVerdict tells whether a request waits for a verdict. What comes after the verdict is bookkeeping.
func awaitsVerdict(o client.Object) bool {
	r, ok := o.(*certificatesv1.CertificateSigningRequest)
	return ok && !bootstrap.AllDecided([]*certificatesv1.CertificateSigningRequest{r})
}

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// Create is of handler.EventHandler.
func (h leisurely) Create(ctx context.Context, e event.CreateEvent, q queue) {
	h.EventHandler.Create(ctx, e, h.queueFor(e.Object, q))
}

// Update is of handler.EventHandler.
func (h leisurely) Update(ctx context.Context, e event.UpdateEvent, q queue) {
	h.EventHandler.Update(ctx, e, h.queueFor(e.ObjectNew, q))
}

// Delete is of handler.EventHandler.
func (h leisurely) Delete(ctx context.Context, e event.DeleteEvent, q queue) {
	h.EventHandler.Delete(ctx, e, h.queueFor(nil, q))
}

// Generic is of handler.EventHandler.
func (h leisurely) Generic(ctx context.Context, e event.GenericEvent, q queue) {
	h.EventHandler.Generic(ctx, e, h.queueFor(e.Object, q))
}

func (h leisurely) queueFor(o client.Object, q queue) queue {
	if o != nil && h.but != nil && h.but(o) {
		return q
	}
	return atLeisure(q)
}

// atLeisure is a queue with everything added behind everything else.
func atLeisure(q queue) queue {
	if pq, ok := q.(priorityqueue.PriorityQueue[reconcile.Request]); ok {
		return leisurelyQueue{pq}
	}
	return q
}

type leisurelyQueue struct {
	priorityqueue.PriorityQueue[reconcile.Request]
}

// Add is of workqueue.TypedInterface.
func (q leisurelyQueue) Add(r reconcile.Request) {
	q.AddWithOpts(priorityqueue.AddOpts{Priority: new(handler.LowPriority)}, r)
}
