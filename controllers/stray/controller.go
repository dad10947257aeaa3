// SPDX-License-Identifier: Apache-2.0

// Package stray deletes tokens in the operator's groups that belong to no NodeBootstrap.
package stray

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/controllers/writes"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// Reconciler handles tokens in the operator's groups that no NodeBootstrap owns. A compromised operator or anyone who may write
// Secrets in kube-system can create them: with our group they can send CSRs, and with the group of approval ClusterWide they
// can become any node. It deletes those with the operator's label, and logs the others once.
type Reconciler struct {
	// Client reads from the cache and writes.
	Client client.Client
	// Uncached reads from the API server.
	Uncached client.Reader

	reported sync.Map // the UIDs of the logged tokens, by client.ObjectKey
}

// SetupWithManager sets up a watch for tokens that no NodeBootstrap owns.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	stray := func(o client.Object) bool {
		s, ok := o.(*corev1.Secret)
		return ok && token.Stray(s)
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
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	s, err := objects.Find(ctx, r.Client, req.Namespace, req.Name, &corev1.Secret{})
	if err != nil {
		return ctrl.Result{}, err
	}
	if s == nil || !token.Stray(s) {
		r.reported.Delete(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	if !owned.Labelled(s) {
		r.reportOnce(ctx, s)
		return ctrl.Result{}, nil
	}
	return r.deleteStray(ctx, s)
}

// deleteStray deletes a token, except if the node's NodeBootstrap had a token with this id: then the reconciler of nodes
// deletes it, with the CSRs that were sent with it.
func (r *Reconciler) deleteStray(ctx context.Context, s *corev1.Secret) (reconcile.Result, error) {
	if node := owned.NodeOf(s); node != "" {
		nb, err := objects.FindNodeBootstrap(ctx, r.Uncached, node)
		if err != nil {
			return reconcile.Result{}, err
		}
		if nb != nil && token.Gave(nb, token.IDOfSecret(s.Name)) {
			return reconcile.Result{}, nil
		}
	}
	err := r.Client.Delete(ctx, s, client.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion})
	if apierrors.IsConflict(err) { // another client changed it; the cache will soon show the change
		return reconcile.Result{RequeueAfter: writes.ConflictRetry}, nil
	}
	if err == nil && s.DeletionTimestamp == nil {
		log.FromContext(ctx).Info(status.RecordRevoked, "node", owned.NodeOf(s), "tokenID", token.IDOfSecret(s.Name),
			"reason", lifecycle.ReasonOwnerRemoved)
	}
	return reconcile.Result{}, token.WithoutAnswer(s, client.IgnoreNotFound(err))
}

func (r *Reconciler) reportOnce(ctx context.Context, s *corev1.Secret) {
	if known, _ := r.reported.Swap(client.ObjectKeyFromObject(s), s.UID); known != s.UID {
		log.FromContext(ctx).Info("a token in the operator's groups belongs to no NodeBootstrap and does not have the operator's label: find out who created it, "+
			"and delete the Secret", "secret", s.Name, "tokenID", token.IDOfSecret(s.Name), "groups", token.GroupsOfOurs(s))
	}
}
