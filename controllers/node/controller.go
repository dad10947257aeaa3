// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/bypass"
	"github.com/nodebootstrap/nodebootstrap/controllers/metrics"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/controllers/writes"
	"github.com/nodebootstrap/nodebootstrap/internal/drift"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

// Reconciler brings everything about one node, keyed by the node's name, to where the one rule holds: while the node
// is wanted and has not joined there is one live credential for it, else none.
type Reconciler struct {
	// Client reads from the cache and writes.
	Client client.Client
	// Uncached reads from the API server, where an old answer could do harm.
	Uncached client.Reader
	// Namespace is the operator's, where kubeconfig Secrets are.
	Namespace string
	// AllowClusterWide lets NodeBootstraps with approval ClusterWide have credentials.
	AllowClusterWide bool
	// Discovery finds the endpoint and CA of the cluster.
	Discovery *Discovery
	// Detector finds out what else approves requests of bootstrap tokens.
	Detector *bypass.Detector
	// Writes bounds how often each object is written. It is shared with the Reconciler.
	Writes *writes.Limits
	// Metrics count what happens; nil for none.
	Metrics *metrics.Metrics
	// Recorder tells people.
	Recorder events.EventRecorder
	// Clock is the time that decisions are made by.
	Clock clock.PassiveClock

	tokens      tokenAcceptance
	consistency consistencyStore
	created     createdTokens
	keys        heldKeys
	semaphores  semaphores
}

// Reconcile gathers, decides, applies and reports. It is called again when anything about the node changes, and when the
// plan says that time alone will change something.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	ctx = log.IntoContext(ctx, log.FromContext(ctx).WithValues("node", req.Name))
	facts, err := r.gather(ctx, req.Name)
	if err == nil && r.isHeavy(ctx, facts) {
		heavy := r.semaphores.get().heavyReconciles
		if !heavy.TryAcquire(1) {
			return ctrl.Result{RequeueAfter: wait.Jitter(heavyRetry, 1)}, nil
		}
		defer heavy.Release(1)
		defer objects.NoteLarge(objects.LeastGarbage) // it reads, sends and gets one again and again
	}
	if err == nil {
		err = r.gatherCluster(ctx, facts)
	}
	if err == nil {
		err = r.consistency.EnsureReady(r.Clock.Now(), written(facts)...)
	}
	if apierrors.IsConflict(err) { // the cache is behind
		return ctrl.Result{RequeueAfter: writes.ConflictRetry}, nil
	}
	if err != nil {
		return ctrl.Result{}, errors.Join(fmt.Errorf("gathering facts: %w", err), r.reportForbidden(ctx, facts, err))
	}
	plan := lifecycle.Decide(facts, r.Clock.Now())
	outcome := r.apply(ctx, facts, &plan)
	if err = outcome.Err; !apierrors.IsConflict(err) {
		err = errors.Join(err, r.report(ctx, facts, &plan, outcome))
	}
	if wait, held := writes.OnlyHeld(err); held {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	if apierrors.IsConflict(err) { // a conflict; the cache will show it in a moment, and then it is reported
		log.FromContext(ctx).V(1).Info("conflict, trying again", "error", err.Error())
		return ctrl.Result{RequeueAfter: writes.ConflictRetry}, nil
	}
	if err != nil { // the queue's backoff says when to try again
		return ctrl.Result{}, err
	}
	return r.requeue(&plan), nil
}

// requeue never asks for less than a second: what is due now was done in this reconcile.
func (r *Reconciler) requeue(plan *lifecycle.Plan) ctrl.Result {
	if plan.RequeueAt.IsZero() {
		return ctrl.Result{}
	}
	return ctrl.Result{RequeueAfter: max(plan.RequeueAt.Sub(r.Clock.Now()), time.Second)}
}

// report stores the status, also after an error. A NodeBootstrap that is gone needs none; its deletion is the next event.
func (r *Reconciler) report(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan, o *status.Outcome) error {
	if f.NodeBootstrap == nil {
		return nil
	}
	s := status.Report(f, p, o, r.Clock.Now())
	if o.Err != nil { // it may say something else each time
		return client.IgnoreNotFound(r.storeStatusSeldom(ctx, f.NodeBootstrap, s))
	}
	return client.IgnoreNotFound(r.storeStatus(ctx, f.NodeBootstrap, s))
}

// reportForbidden says in the status that a read was refused: it will not fix itself. Of other failures to read nothing is
// stored, since they pass, and what works goes on working.
func (r *Reconciler) reportForbidden(ctx context.Context, f *lifecycle.Facts, err error) error {
	if f.NodeBootstrap == nil || !apierrors.IsForbidden(err) {
		return nil
	}
	return client.IgnoreNotFound(r.storeStatusSeldom(ctx, f.NodeBootstrap, status.ReportForbidden(f.NodeBootstrap, err, r.Clock.Now())))
}

// storeStatus writes a status if it differs from the one that was read, under the resourceVersion that was read, and
// tells people what changed by it. It is an update, for which the API server takes a fifth less time than for a patch.
func (r *Reconciler) storeStatus(ctx context.Context, nb *v1alpha1.NodeBootstrap, status *v1alpha1.NodeBootstrapStatus) error {
	if equality.Semantic.DeepEqual(&nb.Status, status) {
		return nil
	}
	if r.Writes.Undone(writes.StatusOf(nb.Name), drift.StatusDigest(&nb.Status)) {
		return r.storeStatusSeldom(ctx, nb, status)
	}
	return r.storeStatusNow(ctx, nb, status, false)
}

// storeStatusSeldom is storeStatus for what may come again and again, and is bounded.
func (r *Reconciler) storeStatusSeldom(ctx context.Context, nb *v1alpha1.NodeBootstrap, status *v1alpha1.NodeBootstrapStatus) error {
	if equality.Semantic.DeepEqual(&nb.Status, status) {
		return nil
	}
	object := writes.StatusOf(nb.Name)
	if wait := r.Writes.Wait(object, r.Clock.Now()); wait > 0 {
		return &writes.HeldError{Object: object, Wait: wait}
	}
	return r.storeStatusNow(ctx, nb, status, true)
}

// storeStatusNow is storeStatus for what must not wait. It may count towards the bound.
func (r *Reconciler) storeStatusNow(ctx context.Context, nb *v1alpha1.NodeBootstrap, s *v1alpha1.NodeBootstrapStatus, counts bool) error {
	before := nb.Status
	stored := nb.DeepCopy() // the answer is decoded into it, and what was read shares its maps with the cache
	stored.Status = *s.DeepCopy()
	if err := r.Client.Status().Update(ctx, stored); err != nil {
		return fmt.Errorf("storing the status: %w", err)
	}
	r.consistency.WroteAt(stored, r.Clock.Now())
	if err := r.storedAs(ctx, stored, s, counts); err != nil {
		return err
	}
	objects.StripNodeBootstrap(stored)
	*nb = *stored
	r.noteStatus(ctx, &before, s)
	r.Metrics.Observe(&before, s, r.Clock.Now())
	for _, e := range status.Events(&before, s) {
		r.Recorder.Eventf(nb, nil, e.Type, e.Reason, eventAction(e), "%s", e.Note)
	}
	return nil
}

// storedAs is an error when the API server has not stored a status as it was sent, since what is decided next rests on it.
func (r *Reconciler) storedAs(ctx context.Context, stored *v1alpha1.NodeBootstrap, sent *v1alpha1.NodeBootstrapStatus, counts bool) error {
	now, object := r.Clock.Now(), writes.StatusOf(stored.Name)
	d := drift.OfStatus(&stored.Status, sent)
	known := r.Writes.Tolerates(object, d, now)
	i := r.Writes.WroteStatus(object, d, drift.StatusDigest(&stored.Status), counts, now)
	switch {
	case i == nil:
		return nil
	case len(d.Needed) == 0 && known:
		return nil
	case len(d.Needed) == 0:
		log.FromContext(ctx).Info("the API server does not store all of the status: update the CustomResourceDefinition", "fields", d.Other)
		return nil
	}
	r.Recorder.Eventf(stored, nil, corev1.EventTypeWarning, v1alpha1.ReasonAdmissionInterferes, "Reported", "%s", i.Problem().Message)
	log.FromContext(ctx).Info("admission control changes the status", "fields", d.Needed)
	return &writes.HeldError{Object: object, Wait: writes.ObjectInterval}
}

// eventAction is what events.k8s.io/v1 wants besides a reason: what the operator did.
func eventAction(e status.Event) string {
	if e.Type == corev1.EventTypeWarning {
		return "Reported"
	}
	return "Reconciled"
}
