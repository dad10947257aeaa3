// SPDX-License-Identifier: Apache-2.0

// Package bypass detects whether anything except the operator approves CSRs of bootstrap tokens.
package bypass

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/util/workqueue"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/apiserver"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
)

const (
	// answerRefresh is how often the API server is asked again. ClusterRoleBindings are watched; ClusterRoles and other
	// authorizers are not.
	answerRefresh = 5 * time.Minute
	// answerStale is how long an answer is used while the API server cannot be asked again. It is asked at least every
	// answerMaxRetry, so the status of nodes shows within two refreshes that the answer is unknown.
	answerStale = 2*answerRefresh - answerMaxRetry
	// answerMinRetry and answerMaxRetry bound the delay before the API server is asked again after a failure.
	answerMinRetry, answerMaxRetry = time.Second, time.Minute
	// authorizerLag is how long after a change of a binding the API server's authorizer, which reads bindings from an informer,
	// may not have seen it. authorizerRetry is how often it is asked until then.
	authorizerLag, authorizerRetry = 5 * time.Second, time.Second
)

// Detector detects whether anything except this operator approves the CSRs of bootstrap tokens: kube-controller-manager does if
// their user or groups may create certificatesigningrequests/nodeclient (pkg/controller/certificates/approver). It asks the API
// server once for all tokens, and again when the answer may have changed.
type Detector struct {
	client  client.Client
	clock   clock.PassiveClock
	changed chan event.GenericEvent
	asking  singleflight.Group // at the start many nodes ask at once

	mu       sync.Mutex
	known    *lifecycle.Bypass
	knownAt  time.Time // the time of that answer
	failed   bool      // a node got no answer
	bindings time.Time // when a binding last changed
}

// NewDetector returns a Detector that has not asked yet.
func NewDetector(c client.Client, k clock.PassiveClock) *Detector {
	return &Detector{client: c, clock: k, changed: make(chan event.GenericEvent)}
}

// singleton is a request type with one value, so that the workqueue merges all events.
type singleton struct{}

// SetupWithManager refreshes the answer whenever a binding changes.
func (d *Detector) SetupWithManager(mgr ctrl.Manager) error {
	one := handler.TypedEnqueueRequestsFromMapFunc(func(context.Context, client.Object) []singleton {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.bindings = d.clock.Now()
		return []singleton{{}}
	})
	return builder.TypedControllerManagedBy[singleton](mgr).
		Named("approvers").
		Watches(&rbacv1.ClusterRoleBinding{}, one).
		WithOptions(controller.TypedOptions[singleton]{
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[singleton](answerMinRetry, answerMaxRetry),
		}).
		Complete(d)
}

// Changed receives an event for each new answer.
func (d *Detector) Changed() <-chan event.GenericEvent { return d.changed }

// Reconcile asks the API server, and triggers a reconcile of all nodes when the answer changes or becomes too old to be used.
func (d *Detector) Reconcile(ctx context.Context, _ singleton) (reconcile.Result, error) {
	answer, err := d.ask(ctx, lifecycle.AnyTokenUser)
	if err != nil {
		if d.forget() {
			err = errors.Join(err, d.notify(ctx))
		}
		return reconcile.Result{}, err
	}
	changed, lagging := d.learn(answer)
	if changed {
		if err := d.notify(ctx); err != nil {
			return reconcile.Result{}, err
		}
	}
	if lagging {
		return reconcile.Result{RequeueAfter: authorizerRetry}, nil
	}
	return reconcile.Result{RequeueAfter: answerRefresh}, nil
}

// learn stores an answer. It reports whether nodes have used another answer or none, and whether the authorizer may not have
// seen the last change of a binding.
func (d *Detector) learn(answer *lifecycle.Bypass) (changed, lagging bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.clock.Now()
	if d.bindings.After(now) { // the clock was set back
		d.bindings = now
	}
	changed = d.failed || d.known != nil && !sameBypass(d.known, answer)
	d.known, d.knownAt, d.failed = answer, now, false
	return changed, apiserver.Within(now.Sub(d.bindings), authorizerLag)
}

// forget drops an answer that is too old to be used, and reports whether it did.
func (d *Detector) forget() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known == nil || apiserver.Within(d.clock.Since(d.knownAt), answerStale) {
		return false
	}
	d.known, d.failed = nil, true
	return true
}

func (d *Detector) notify(ctx context.Context) error {
	select {
	case d.changed <- event.GenericEvent{Object: &v1alpha1.NodeBootstrap{}}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func sameBypass(a, b *lifecycle.Bypass) bool { return a.Open == b.Open && slices.Equal(a.Why, b.Why) }

// Bypass returns the answer for the token of a NodeBootstrap; nil if the API server could not be asked. It asks separately for
// a token that a binding names.
func (d *Detector) Bypass(ctx context.Context, nb *v1alpha1.NodeBootstrap) (*lifecycle.Bypass, error) {
	user := lifecycle.AnyTokenUser
	if t := nb.Status.Token; t != nil {
		named, err := d.named(ctx, t.ID)
		if err != nil {
			return nil, err
		}
		if named {
			user = bootstrapapi.BootstrapUserPrefix + t.ID
		}
	}
	if user == lifecycle.AnyTokenUser {
		if known := d.usable(); known != nil {
			return known, nil
		}
	}
	answer, err, _ := d.asking.Do(user, func() (any, error) { return d.ask(ctx, user) })
	if err != nil { // the credential does not depend on it
		log.FromContext(ctx).Error(err, "asking what else approves CSRs")
		d.mu.Lock()
		defer d.mu.Unlock()
		d.failed = true
		return nil, nil
	}
	bypass := answer.(*lifecycle.Bypass)
	if user == lifecycle.AnyTokenUser {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.known, d.knownAt = bypass, d.clock.Now()
	}
	return bypass, nil
}

// named reports whether a binding names the user of a token, or names too many tokens to know.
func (d *Detector) named(ctx context.Context, tokenID string) (bool, error) {
	for _, user := range []string{bootstrapapi.BootstrapUserPrefix + tokenID, objects.EveryToken} {
		var list rbacv1.ClusterRoleBindingList
		if err := d.client.List(ctx, &list, client.MatchingFields{objects.IndexUser: user}); err != nil {
			return false, fmt.Errorf("listing the ClusterRoleBindings that name the token %s: %w", tokenID, err)
		}
		if len(list.Items) > 0 {
			return true, nil
		}
	}
	return false, nil
}

// usable returns the last answer, unless it is too old.
func (d *Detector) usable() *lifecycle.Bypass {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !apiserver.Within(d.clock.Since(d.knownAt), answerStale) {
		return nil
	}
	return d.known
}

// ask asks the API server for a user.
func (d *Detector) ask(ctx context.Context, user string) (*lifecycle.Bypass, error) {
	return lifecycle.AskBypass(user, func(review *authorizationv1.SubjectAccessReview) error {
		if err := d.client.Create(ctx, review); err != nil {
			return fmt.Errorf("asking the API server what bootstrap tokens may approve: %w", err)
		}
		return nil
	})
}
