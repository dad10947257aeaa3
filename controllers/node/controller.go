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

// Reconciler reconciles everything about one node, keyed by the node's name, with one rule: while the node is wanted and has
// not joined, it has exactly one live credential, otherwise none.
type Reconciler struct {
	// Client reads from the cache and writes.
	Client client.Client
	// Uncached reads from the API server, where stale data could do harm.
	Uncached client.Reader
	// Namespace is the operator's, where kubeconfig Secrets are.
	Namespace string
	// AllowClusterWide lets NodeBootstraps with approval ClusterWide have credentials.
	AllowClusterWide bool
	// Discovery finds the endpoint and CA of the cluster.
	Discovery *Discovery
	// Detector detects whether anything else approves CSRs of bootstrap tokens.
	Detector *bypass.Detector
	// Writes bounds how often each object is written. It is shared with the reconciler of the bindings.
	Writes *writes.Limits
	// Metrics count changes of the status; nil for none.
	Metrics *metrics.Metrics
	// Recorder emits events.
	Recorder events.EventRecorder
	// Clock is the clock for decisions.
	Clock clock.PassiveClock

	tokens      tokenAcceptance
	consistency consistencyStore
	created     createdTokens
	keys        heldKeys
	semaphores  semaphores
}

// Reconcile gathers, decides, applies and reports. It is called again when anything about the node changes, and at the time
// that the plan names.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	ctx = log.IntoContext(ctx, log.FromContext(ctx).WithValues("node", req.Name))
	facts, err := r.gather(ctx, req.Name)
	if err == nil && r.isHeavy(ctx, facts) {
		heavy := r.semaphores.get().heavyReconciles
		if !heavy.TryAcquire(1) {
			return ctrl.Result{RequeueAfter: wait.Jitter(heavyRetry, 1)}, nil
		}
		defer heavy.Release(1)
		defer objects.NoteLarge(objects.LeastGarbage) // it repeatedly reads, sends and receives a large object
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
	if apierrors.IsConflict(err) { // the cache will soon show the change, and the next reconcile reports it
		log.FromContext(ctx).V(1).Info("conflict, trying again", "error", err.Error())
		return ctrl.Result{RequeueAfter: writes.ConflictRetry}, nil
	}
	if err != nil { // the queue retries with backoff
		return ctrl.Result{}, err
	}
	outcome.RequeueBy(plan.RequeueAt)
	return r.requeue(outcome.RequeueAt), nil
}

// requeue waits for at least a second: this reconcile has done everything that is due now.
func (r *Reconciler) requeue(at time.Time) ctrl.Result {
	if at.IsZero() {
		return ctrl.Result{}
	}
	return ctrl.Result{RequeueAfter: max(at.Sub(r.Clock.Now()), time.Second)}
}

// report stores the status, also after an error. A deleted NodeBootstrap needs none; its deletion is the next event.
func (r *Reconciler) report(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan, o *status.Outcome) error {
	if f.NodeBootstrap == nil {
		return nil
	}
	bounded := o.Err != nil // the message may differ each time
	return client.IgnoreNotFound(r.storeStatus(ctx, f.NodeBootstrap, status.Report(f, p, o, r.Clock.Now()), bounded))
}

// reportForbidden reports in the status that a read was forbidden, which does not fix itself. Other read errors are not stored,
// since they are temporary.
func (r *Reconciler) reportForbidden(ctx context.Context, f *lifecycle.Facts, err error) error {
	if f.NodeBootstrap == nil || !apierrors.IsForbidden(err) {
		return nil
	}
	return client.IgnoreNotFound(r.storeStatus(ctx, f.NodeBootstrap, status.ReportForbidden(f.NodeBootstrap, err, r.Clock.Now()), true))
}

// storeStatus writes a status if it differs from the one that was read, under the resourceVersion that was read, and emits
// events about the changes. It is an update, which takes the API server a fifth less time than a patch. Writes that may repeat
// are bounded.
func (r *Reconciler) storeStatus(ctx context.Context, nb *v1alpha1.NodeBootstrap, status *v1alpha1.NodeBootstrapStatus, bounded bool) error {
	if equality.Semantic.DeepEqual(&nb.Status, status) {
		return nil
	}
	object := writes.StatusOf(nb.Name)
	bounded = bounded || r.Writes.Undone(object, drift.StatusDigest(&nb.Status))
	if wait := r.Writes.Wait(object, r.Clock.Now()); bounded && wait > 0 {
		return &writes.HeldError{Object: object, Wait: wait}
	}
	return r.storeStatusNow(ctx, nb, status, bounded)
}

// storeStatusNow is storeStatus for changes that must not wait. If counts is set, the write counts towards the bound.
func (r *Reconciler) storeStatusNow(ctx context.Context, nb *v1alpha1.NodeBootstrap, s *v1alpha1.NodeBootstrapStatus, counts bool) error {
	before := nb.Status
	stored := nb.DeepCopy() // the response is decoded into it, and nb shares its maps with the cache
	stored.Status = *s.DeepCopy()
	if err := r.Client.Status().Update(ctx, stored); err != nil {
		return fmt.Errorf("storing the status: %w", err)
	}
	r.consistency.WroteAt(stored, r.Clock.Now())
	if err := r.checkStored(ctx, stored, s, counts); err != nil {
		return err
	}
	objects.StripNodeBootstrap(stored)
	*nb = *stored
	r.logStatus(ctx, &before, s)
	r.Metrics.Observe(&before, s, r.Clock.Now())
	for _, e := range status.Events(&before, s) {
		r.Recorder.Eventf(nb, nil, e.Type, e.Reason, eventAction(e), "%s", e.Note)
	}
	return nil
}

// checkStored returns an error if the API server has not stored the status as it was sent, since the next decisions depend on it.
func (r *Reconciler) checkStored(ctx context.Context, stored *v1alpha1.NodeBootstrap, sent *v1alpha1.NodeBootstrapStatus, counts bool) error {
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

// eventAction is the action that events.k8s.io/v1 requires in addition to a reason: what the operator did.
func eventAction(e status.Event) string {
	if e.Type == corev1.EventTypeWarning {
		return "Reported"
	}
	return "Reconciled"
}
