// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
)

// BindingsReconciler keeps the shared ClusterRoleBindings: there while a NodeBootstrap needs them, gone with the last one.
type BindingsReconciler struct {
	// Client reads from the cache and writes.
	Client client.Client
	// Live reads from the API server.
	Live client.Reader
	// Writes bounds how often each binding is written. It is shared with the NodeReconciler, which reports what interferes.
	Writes *WriteLimits
	// Clock is the time that writes are bounded by.
	Clock clock.PassiveClock
	// AllowClusterWide lets there be the binding that has kube-controller-manager approve what tokens ask for.
	AllowClusterWide bool
}

// allBindings is always equal to itself, so that the workqueue makes one of all events.
type allBindings struct{}

// SetupWithManager has the reconciler called when NodeBootstraps come, go or change their spec, and when one of its
// bindings changes.
func (r *BindingsReconciler) SetupWithManager(mgr ctrl.Manager) error {
	one := handler.TypedEnqueueRequestsFromMapFunc(func(context.Context, client.Object) []allBindings { return []allBindings{{}} })
	specChanges := predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration() || e.ObjectNew.GetDeletionTimestamp() != nil
	}}
	return builder.TypedControllerManagedBy[allBindings](mgr).
		Named("bindings").
		Watches(&v1alpha1.NodeBootstrap{}, one, builder.WithPredicates(specChanges)).
		Watches(&rbacv1.ClusterRoleBinding{}, one, builder.WithPredicates(sharedBinding)).
		Complete(r)
}

// Reconcile brings each shared binding to where it should be, and goes on to the next when one fails. A binding of the name
// that is not ours stays: the conditions of the NodeBootstraps that need it say so.
func (r *BindingsReconciler) Reconcile(ctx context.Context, _ allBindings) (reconcile.Result, error) {
	var all v1alpha1.NodeBootstrapList
	if err := r.Client.List(ctx, &all); err != nil {
		return reconcile.Result{}, fmt.Errorf("listing NodeBootstraps: %w", err)
	}
	var first error
	var result reconcile.Result
	for _, name := range bootstrap.BindingNames {
		needed := bootstrap.BindingNeeded(name, all.Items) && (r.AllowClusterWide || name != bootstrap.BindingApproveClusterWide)
		err := r.reconcile(ctx, name, needed)
		if wait, held := onlyHeld(err); held {
			result.RequeueAfter = wait
			continue
		}
		r.Writes.failed(bindingName(name), err, r.Clock.Now())
		if err != nil && first == nil {
			first = err
		}
	}
	if apierrors.IsConflict(first) || apierrors.IsAlreadyExists(first) { // the cache will show it in a moment
		log.FromContext(ctx).V(1).Info("conflict, trying again", "error", first.Error())
		return reconcile.Result{RequeueAfter: conflictRetry}, nil
	}
	return result, first
}

func (r *BindingsReconciler) reconcile(ctx context.Context, name string, needed bool) error {
	have, err := find(ctx, r.Client, "", name, &rbacv1.ClusterRoleBinding{})
	switch {
	case err != nil:
		return err
	case have == nil && needed:
		return r.create(ctx, name)
	case have == nil || !bootstrap.BindingOurs(have):
		return nil
	case !needed:
		defer r.Writes.forget(bindingName(name))
		return r.delete(ctx, have)
	case bootstrap.RoleDiffers(have): // a roleRef cannot be changed
		if i := r.Writes.interference(bindingName(name), r.Clock.Now()); i != nil && !i.ByAdmission {
			return &heldError{object: i.Object, wait: objectInterval}
		}
		if err := r.delete(ctx, have); err != nil {
			return err
		}
		return r.create(ctx, name)
	default:
		return r.repair(ctx, have)
	}
}

// create creates a binding. One that admission control has changed so that it is of no use is deleted at once.
func (r *BindingsReconciler) create(ctx context.Context, name string) error {
	owner, err := r.owner(ctx)
	if err != nil {
		return err
	}
	want := bootstrap.Binding(name)
	want.OwnerReferences = []metav1.OwnerReference{owner}
	object, now := bindingName(name), r.Clock.Now()
	if wait := r.Writes.wait(object, now); wait > 0 {
		return &heldError{object: object, wait: wait}
	}
	created, changed, err := create(ctx, r.Client, r.Writes, object, object, want, bootstrap.BindingDifference, now)
	if err != nil {
		return fmt.Errorf("creating the %s: %w", object, err)
	}
	if changed == nil {
		return nil
	}
	held := &heldError{object: object, wait: objectInterval}
	if created == nil {
		return held
	}
	return errors.Join(r.delete(ctx, created), held)
}

// bindingName is what WriteLimits and messages call a ClusterRoleBinding.
func bindingName(name string) string { return "ClusterRoleBinding " + name }

func (r *BindingsReconciler) repair(ctx context.Context, have *rbacv1.ClusterRoleBinding) error {
	owner, err := r.owner(ctx)
	if err != nil {
		return err
	}
	want := bootstrap.RestoredBinding(have, owner)
	object, now := bindingName(have.Name), r.Clock.Now()
	if want == nil {
		r.Writes.isRight(object)
		return nil
	}
	before := bootstrap.BindingDifference(have, want)
	if r.Writes.tolerates(object, before, now) {
		return nil
	}
	if wait := r.Writes.wait(object, now); wait > 0 {
		return &heldError{object: object, wait: wait}
	}
	if isPartial(want) { // what others have added stays
		var list rbacv1.ClusterRoleBindingList
		if err := readByName(ctx, r.Live, &list, have.Name); err != nil {
			return err
		}
		if len(list.Items) != 1 || !sameVersion(&list.Items[0], have) {
			return errBehind(rbacv1.Resource("clusterrolebindings"), have.Name)
		}
		if want = bootstrap.RestoredBinding(&list.Items[0], owner); want == nil {
			return nil
		}
	}
	stored := want.DeepCopy() // the answer is decoded into it
	if err := r.Client.Update(ctx, stored); err != nil {
		return fmt.Errorf("restoring the %s: %w", object, err)
	}
	after := bootstrap.BindingDifference(stored, want)
	r.Writes.wrote(object, write{object: object, restored: before, answer: after}, now)
	if !bootstrap.BindingOurs(stored) { // admission control has taken away what says so
		return errors.Join(r.delete(ctx, stored), &heldError{object: object, wait: objectInterval})
	}
	if len(after.Needed) > 0 {
		return &heldError{object: object, wait: objectInterval}
	}
	return nil
}

func (r *BindingsReconciler) delete(ctx context.Context, b *rbacv1.ClusterRoleBinding) error {
	key, now := deletionOf(bindingName(b.Name)), r.Clock.Now()
	if wait := r.Writes.wait(key, now); wait > 0 {
		return &heldError{object: bindingName(b.Name), wait: wait}
	}
	if err := r.Client.Delete(ctx, b, client.Preconditions{UID: &b.UID}); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting the ClusterRoleBinding %s: %w", b.Name, err)
	}
	r.Writes.wrote(key, write{object: bindingName(b.Name)}, now)
	return nil
}

func (r *BindingsReconciler) owner(ctx context.Context) (metav1.OwnerReference, error) {
	crd := &metav1.PartialObjectMetadata{}
	crd.SetGroupVersionKind(crdKind)
	if err := r.Live.Get(ctx, client.ObjectKey{Name: bootstrap.CRDName}, crd); err != nil {
		return metav1.OwnerReference{}, fmt.Errorf("reading the CustomResourceDefinition %s: %w", bootstrap.CRDName, err)
	}
	return bootstrap.BindingOwner(crd), nil
}
