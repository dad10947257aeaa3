// SPDX-License-Identifier: Apache-2.0

// Package bypass finds out what else than the operator approves CSRs of bootstrap tokens.
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
	certificatesv1 "k8s.io/api/certificates/v1"
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
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

const (
	// answerRefresh is how often the API server is asked again. Bindings are watched, ClusterRoles and other authorizers
	// are not.
	answerRefresh = 5 * time.Minute
	// answerStale is how long an answer is used when the API server cannot be asked again. It is asked every answerMaxRetry at
	// least, so that nodes learn within two refreshes that nothing is known any more.
	answerStale = 2*answerRefresh - answerMaxRetry
	// answerMinRetry and answerMaxRetry bound how soon the API server is asked again after a failure.
	answerMinRetry, answerMaxRetry = time.Second, time.Minute
	// authorizerLag is for how long after a change of a binding the API server's authorizer, which reads bindings from an
	// informer, may not know of it, and how often it is asked until then.
	authorizerLag, authorizerRetry = 5 * time.Second, time.Second
	// anyTokenUser is the user of a token that nobody has: what holds for it holds for every token.
	anyTokenUser = bootstrapapi.BootstrapUserPrefix + "000000"
)

// Detector knows whether anything else in the cluster than this operator approves what bootstrap tokens ask for:
// kube-controller-manager does when their user or groups may create certificatesigningrequests/nodeclient
// (pkg/controller/certificates/approver). It asks once for all tokens, and again when that may have changed.
type Detector struct {
	client  client.Client
	clock   clock.PassiveClock
	changed chan event.GenericEvent
	asking  singleflight.Group // many nodes want to know at once when the process starts

	mu       sync.Mutex
	known    *lifecycle.Bypass
	knownAt  time.Time // when the API server gave that answer
	failed   bool      // somebody was told nothing
	bindings time.Time // when a binding last changed
}

// NewDetector makes one that has not asked yet.
func NewDetector(c client.Client, k clock.PassiveClock) *Detector {
	return &Detector{client: c, clock: k, changed: make(chan event.GenericEvent)}
}

// singleton is always equal to itself, so that the workqueue makes one of all events.
type singleton struct{}

// SetupWithManager has the answer refreshed whenever a binding changes.
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

// Changed tells of every new answer.
func (d *Detector) Changed() <-chan event.GenericEvent { return d.changed }

// Reconcile asks, and has every node looked at when the answer is another one, or when the last one is too old to be used.
func (d *Detector) Reconcile(ctx context.Context, _ singleton) (reconcile.Result, error) {
	answer, err := d.ask(ctx, anyTokenUser)
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

// learn keeps an answer. It reports whether nodes were told something else, and whether the authorizer may not know of the last
// change of a binding.
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

// forget drops an answer that is too old to be used, and reports whether there was one.
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

// Bypass is what holds for the token of a NodeBootstrap; nil when the API server could not be asked. It does so for a
// token that a binding names, which takes the trouble of naming that very token.
func (d *Detector) Bypass(ctx context.Context, nb *v1alpha1.NodeBootstrap) (*lifecycle.Bypass, error) {
	user := anyTokenUser
	if t := nb.Status.Token; t != nil {
		named, err := d.named(ctx, t.ID)
		if err != nil {
			return nil, err
		}
		if named {
			user = bootstrapapi.BootstrapUserPrefix + t.ID
		}
	}
	if user == anyTokenUser {
		if known := d.usable(); known != nil {
			return known, nil
		}
	}
	answer, err, _ := d.asking.Do(user, func() (any, error) { return d.ask(ctx, user) })
	if err != nil { // the credential does not wait for it
		log.FromContext(ctx).Error(err, "asking what else approves requests")
		d.mu.Lock()
		defer d.mu.Unlock()
		d.failed = true
		return nil, nil
	}
	bypass := answer.(*lifecycle.Bypass)
	if user == anyTokenUser {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.known, d.knownAt = bypass, d.clock.Now()
	}
	return bypass, nil
}

// named reports whether a binding names the user of a token, or so many that it may be among them.
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

// usable is the last answer, unless it is too old.
func (d *Detector) usable() *lifecycle.Bypass {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !apiserver.Within(d.clock.Since(d.knownAt), answerStale) {
		return nil
	}
	return d.known
}

// ask asks for a user in the groups of all tokens of ours; when the answer is yes, also for each of them alone, since an
// authorizer names only one of the bindings that allow it.
func (d *Detector) ask(ctx context.Context, user string) (*lifecycle.Bypass, error) {
	groups := []string{bootstrapapi.BootstrapDefaultGroup, token.Group, "system:authenticated"}
	open, why, err := d.review(ctx, user, groups...)
	if err != nil {
		return nil, err
	}
	if !open {
		return &lifecycle.Bypass{}, nil
	}
	answer := &lifecycle.Bypass{Open: true, Why: []string{why}}
	for _, group := range groups {
		_, why, err := d.review(ctx, "", group)
		if err != nil {
			return nil, err
		}
		if why != "" && !slices.Contains(answer.Why, why) {
			answer.Why = append(answer.Why, why)
		}
	}
	slices.Sort(answer.Why)
	return answer, nil
}

// review is one SubjectAccessReview: whether it is allowed, and by what.
func (d *Detector) review(ctx context.Context, user string, groups ...string) (bool, string, error) {
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user, Groups: groups,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: certificatesv1.GroupName, Version: "v1", Resource: "certificatesigningrequests", Subresource: "nodeclient", Verb: "create",
		},
	}}
	if err := d.client.Create(ctx, review); err != nil {
		return false, "", fmt.Errorf("asking the API server what bootstrap tokens may approve: %w", err)
	}
	if !review.Status.Allowed {
		return false, "", nil
	}
	return true, review.Status.Reason, nil
}
