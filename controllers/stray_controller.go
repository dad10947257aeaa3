// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"cmp"
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
)

// StrayTokensReconciler looks after tokens in the operator's groups that no NodeBootstrap owns, such as a compromised operator or
// somebody who may write Secrets in kube-system makes: in our group they may send requests, and in that of approval ClusterWide
// become any node. It deletes those that have the operator's label. What has not is someone else's: it reports that once.
type StrayTokensReconciler struct {
	// Client reads from the cache and writes.
	Client client.Client
	// Live reads from the API server.
	Live client.Reader

	mu       sync.Mutex
	reported map[client.ObjectKey]types.UID
}

// SetupWithManager has the reconciler called when a token comes or changes that says of no NodeBootstrap that it is its own,
// and when it goes.
func (r *StrayTokensReconciler) SetupWithManager(mgr ctrl.Manager) error {
	stray := func(o client.Object) bool {
		s, ok := o.(*corev1.Secret)
		return ok && bootstrap.Stray(s)
	}
	filter := predicate.NewPredicateFuncs(stray)
	filter.UpdateFunc = func(e event.UpdateEvent) bool { return stray(e.ObjectOld) || stray(e.ObjectNew) }
	return ctrl.NewControllerManagedBy(mgr).
		Named("stray-tokens").
		For(&corev1.Secret{}).
		WithEventFilter(filter).
		Complete(r)
}

// Reconcile deletes or reports one token.
func (r *StrayTokensReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	s, err := find(ctx, r.Client, req.Namespace, req.Name, &corev1.Secret{})
	if err != nil {
		return ctrl.Result{}, err
	}
	if s == nil || !bootstrap.Stray(s) {
		r.forget(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	if !bootstrap.Labelled(s) {
		r.reportOnce(ctx, s)
		return ctrl.Result{}, nil
	}
	return r.deleteStray(ctx, s)
}

// deleteStray leaves a token to the reconciler of its node if that has a NodeBootstrap that has had a token of this id: it
// deletes it with the requests that were sent with it.
func (r *StrayTokensReconciler) deleteStray(ctx context.Context, s *corev1.Secret) (reconcile.Result, error) {
	if node := bootstrap.NodeOfChild(s); node != "" {
		nb, err := findNodeBootstrap(ctx, r.Live, node)
		if err != nil {
			return reconcile.Result{}, err
		}
		if nb != nil && bootstrap.Gave(nb, bootstrap.TokenIDOfSecret(s.Name)) {
			return reconcile.Result{}, nil
		}
	}
	err := r.Client.Delete(ctx, s, client.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion})
	if apierrors.IsConflict(err) { // somebody has changed it, which the cache shows in a moment
		return reconcile.Result{RequeueAfter: conflictRetry}, nil
	}
	if err == nil && s.DeletionTimestamp == nil {
		log.FromContext(ctx).Info(recordRevoked, "node", bootstrap.NodeOfChild(s), "tokenID", bootstrap.TokenIDOfSecret(s.Name),
			"reason", bootstrap.ReasonOwnerRemoved)
	}
	return reconcile.Result{}, withoutAnswer(s, client.IgnoreNotFound(err))
}

// withoutAnswer is an error of a deletion without what the API server has answered, if the Secret is a stray token: an admission
// webhook is shown what is deleted, and may repeat a secret part that is not kept in the cache.
func withoutAnswer(s *corev1.Secret, err error) error {
	if err == nil || !bootstrap.Stray(s) {
		return err
	}
	return bootstrap.HideText(err, fmt.Sprintf("deleting the Secret %s/%s, a token that says of no NodeBootstrap that it is its own: %s",
		s.Namespace, s.Name, cmp.Or(string(apierrors.ReasonForError(err)), "there was no answer")))
}

func (r *StrayTokensReconciler) reportOnce(ctx context.Context, s *corev1.Secret) {
	key := client.ObjectKeyFromObject(s)
	r.mu.Lock()
	known := r.reported[key] == s.UID
	if r.reported == nil {
		r.reported = map[client.ObjectKey]types.UID{}
	}
	r.reported[key] = s.UID
	r.mu.Unlock()
	if !known {
		log.FromContext(ctx).Info("there is a token in the operator's group that no NodeBootstrap owns and that has not its label: find out who made it, "+
			"and delete the Secret", "secret", s.Name, "tokenID", bootstrap.TokenIDOfSecret(s.Name), "groups", bootstrap.GroupsOfOurs(s))
	}
}

func (r *StrayTokensReconciler) forget(key client.ObjectKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.reported, key)
}
