// SPDX-License-Identifier: Apache-2.0

// Package bindings creates, repairs and deletes the shared ClusterRoleBindings.
package bindings

import (
	"context"
	"errors"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/controllers/writes"
	"github.com/nodebootstrap/nodebootstrap/internal/drift"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
)

// Reconciler keeps the shared ClusterRoleBindings while a NodeBootstrap needs them, and deletes them after the last one.
type Reconciler struct {
	// Client reads from the cache and writes.
	Client client.Client
	// Uncached reads from the API server.
	Uncached client.Reader
	// Writes bounds how often each binding is written. It is shared with the reconciler of nodes, which reports who interferes.
	Writes *writes.Limits
	// Clock is the clock for the bounds on writes.
	Clock clock.PassiveClock
	// AllowClusterWide allows the binding with which kube-controller-manager approves the CSRs of tokens.
	AllowClusterWide bool
}

// allBindings is a request type with one value, so that the workqueue merges all events.
type allBindings struct{}

// SetupWithManager sets up watches for the bindings, and for NodeBootstraps that are created or deleted or whose spec changes.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	one := handler.TypedEnqueueRequestsFromMapFunc(func(context.Context, client.Object) []allBindings { return []allBindings{{}} })
	specChanges := predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration() || e.ObjectNew.GetDeletionTimestamp() != nil
	}}
	return builder.TypedControllerManagedBy[allBindings](mgr).
		Named("bindings").
		Watches(&v1alpha1.NodeBootstrap{}, one, builder.WithPredicates(specChanges)).
		Watches(&rbacv1.ClusterRoleBinding{}, one, builder.WithPredicates(objects.SharedBinding)).
		Complete(r)
}

// Reconcile reconciles each shared binding, and goes on to the next if one fails. A binding with the same name that is not ours
// stays: the conditions of the NodeBootstraps that need it report it.
func (r *Reconciler) Reconcile(ctx context.Context, _ allBindings) (reconcile.Result, error) {
	var all v1alpha1.NodeBootstrapList
	if err := r.Client.List(ctx, &all); err != nil {
		return reconcile.Result{}, fmt.Errorf("listing NodeBootstraps: %w", err)
	}
	var first error
	var result reconcile.Result
	for _, name := range rbac.BindingNames {
		needed := rbac.Needed(name, all.Items) && (r.AllowClusterWide || name != rbac.BindingApproveClusterWide)
		err := r.reconcile(ctx, name, needed)
		if wait, held := writes.OnlyHeld(err); held {
			result.RequeueAfter = wait
			continue
		}
		r.Writes.Failed(writes.BindingName(name), err, r.Clock.Now())
		if err != nil && first == nil {
			first = err
		}
	}
	if apierrors.IsConflict(first) || apierrors.IsAlreadyExists(first) { // the cache will soon show the change
		log.FromContext(ctx).V(1).Info("conflict, trying again", "error", first.Error())
		return reconcile.Result{RequeueAfter: writes.ConflictRetry}, nil
	}
	return result, first
}

func (r *Reconciler) reconcile(ctx context.Context, name string, needed bool) error {
	have, err := objects.Find(ctx, r.Client, "", name, &rbacv1.ClusterRoleBinding{})
	switch {
	case err != nil:
		return err
	case have == nil && needed:
		return r.create(ctx, name)
	case have == nil || !rbac.Ours(have):
		return nil
	case !needed:
		defer r.Writes.Forget(writes.BindingName(name))
		return r.delete(ctx, have)
	case rbac.RoleDiffers(have): // a roleRef is immutable
		if i := r.Writes.Interference(writes.BindingName(name), r.Clock.Now()); i != nil && !i.ByAdmission {
			return &writes.HeldError{Object: i.Object, Wait: writes.ObjectInterval}
		}
		if err := r.delete(ctx, have); err != nil {
			return err
		}
		return r.create(ctx, name)
	default:
		return r.repair(ctx, have)
	}
}

// create creates a binding. If admission control changed a needed field, it is deleted at once.
func (r *Reconciler) create(ctx context.Context, name string) error {
	owner, err := r.owner(ctx)
	if err != nil {
		return err
	}
	want := rbac.Binding(name)
	want.OwnerReferences = []metav1.OwnerReference{owner}
	object, now := writes.BindingName(name), r.Clock.Now()
	if wait := r.Writes.Wait(object, now); wait > 0 {
		return &writes.HeldError{Object: object, Wait: wait}
	}
	created, changed, err := writes.Create(ctx, r.Client, r.Writes, object, object, want, drift.OfBinding, now)
	if err != nil {
		return fmt.Errorf("creating the %s: %w", object, err)
	}
	if changed == nil {
		return nil
	}
	held := &writes.HeldError{Object: object, Wait: writes.ObjectInterval}
	if created == nil {
		return held
	}
	return errors.Join(r.delete(ctx, created), held)
}

func (r *Reconciler) repair(ctx context.Context, have *rbacv1.ClusterRoleBinding) error {
	owner, err := r.owner(ctx)
	if err != nil {
		return err
	}
	want := rbac.Restored(have, owner)
	object, now := writes.BindingName(have.Name), r.Clock.Now()
	if want == nil {
		r.Writes.IsRight(object)
		return nil
	}
	before := drift.OfBinding(have, want)
	if r.Writes.Tolerates(object, before, now) {
		return nil
	}
	if wait := r.Writes.Wait(object, now); wait > 0 {
		return &writes.HeldError{Object: object, Wait: wait}
	}
	if objects.IsPartial(want) { // keep what others have added
		var list rbacv1.ClusterRoleBindingList
		if err := objects.ReadByName(ctx, r.Uncached, &list, have.Name); err != nil {
			return err
		}
		if len(list.Items) != 1 || !objects.SameVersion(&list.Items[0], have) {
			return objects.ErrBehind(rbacv1.Resource("clusterrolebindings"), have.Name)
		}
		if want = rbac.Restored(&list.Items[0], owner); want == nil {
			return nil
		}
	}
	stored := want.DeepCopy() // the response is decoded into it
	if err := r.Client.Update(ctx, stored); err != nil {
		return fmt.Errorf("restoring the %s: %w", object, err)
	}
	after := drift.OfBinding(stored, want)
	r.Writes.Wrote(object, writes.Write{Object: object, Restored: before, Answer: after}, now)
	if !rbac.Ours(stored) { // admission control removed the owner or label
		return errors.Join(r.delete(ctx, stored), &writes.HeldError{Object: object, Wait: writes.ObjectInterval})
	}
	if len(after.Needed) > 0 {
		return &writes.HeldError{Object: object, Wait: writes.ObjectInterval}
	}
	return nil
}

func (r *Reconciler) delete(ctx context.Context, b *rbacv1.ClusterRoleBinding) error {
	key, now := writes.DeletionOf(writes.BindingName(b.Name)), r.Clock.Now()
	if wait := r.Writes.Wait(key, now); wait > 0 {
		return &writes.HeldError{Object: writes.BindingName(b.Name), Wait: wait}
	}
	if err := r.Client.Delete(ctx, b, client.Preconditions{UID: &b.UID}); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting the ClusterRoleBinding %s: %w", b.Name, err)
	}
	r.Writes.Wrote(key, writes.Write{Object: writes.BindingName(b.Name)}, now)
	return nil
}

func (r *Reconciler) owner(ctx context.Context) (metav1.OwnerReference, error) {
	crd := &metav1.PartialObjectMetadata{}
	crd.SetGroupVersionKind(crdKind)
	if err := r.Uncached.Get(ctx, client.ObjectKey{Name: rbac.CRDName}, crd); err != nil {
		return metav1.OwnerReference{}, fmt.Errorf("reading the CustomResourceDefinition %s: %w", rbac.CRDName, err)
	}
	return rbac.Owner(crd), nil
}

// crdKind is read only as metadata, so that the scheme does not need its types.
var crdKind = schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}
