// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/controllers/writes"
	"github.com/nodebootstrap/nodebootstrap/internal/drift"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// writesOf is the key of a Secret in Limits. All tokens of a node share one key, since each new token has a Secret of its own.
func writesOf(node string, s *corev1.Secret) string {
	if s.Namespace == token.Namespace {
		return tokensOf(node)
	}
	return writes.SecretName(s)
}

func tokensOf(node string) string { return "tokens of " + node }

// bindingsRetry is how soon a node reconciles again while the shared bindings have a problem.
const bindingsRetry = 10 * time.Second

// heldBack reports whether the next write of an object must wait, and adds the cause to the outcome.
func (r *Reconciler) heldBack(key string, o *status.Outcome) bool {
	now := r.Clock.Now()
	wait := r.Writes.Wait(key, now)
	if wait <= 0 {
		return false
	}
	o.RequeueBy(now.Add(wait))
	if i := r.Writes.Interference(key, now); i != nil {
		o.Problem = i.Problem()
	}
	return true
}

// reportInterference adds to the outcome who changed a written object, and requeues for the next allowed write.
func (r *Reconciler) reportInterference(i *drift.Interference, o *status.Outcome) {
	o.Problem = i.Problem()
	o.RequeueBy(r.Clock.Now().Add(writes.ObjectInterval))
}

// createSecret creates a Secret, and returns it as stored; nil if another writer interferes. It logs a token, with the reason.
func (r *Reconciler) createSecret(ctx context.Context, f *lifecycle.Facts, o *status.Outcome, want *corev1.Secret, reason string) (*corev1.Secret, error) {
	key := writesOf(f.Name, want)
	if r.heldBack(key, o) {
		return nil, nil
	}
	created, changed, err := writes.Create(ctx, r.Client, r.Writes, key, writes.SecretName(want), want, drift.OfSecret, r.Clock.Now())
	if err != nil {
		return nil, err
	}
	if created != nil && want.Namespace == token.Namespace {
		r.logCreated(ctx, want, reason)
	}
	if changed == nil {
		return created, nil
	}
	r.reportInterference(changed, o)
	if created == nil {
		return nil, nil
	}
	return nil, r.deleteSecret(ctx, created, v1alpha1.ReasonAdmissionInterferes)
}

// restoreSecret updates a Secret, and reports whether its needed fields are correct afterwards. If admission control removed
// its owner, it is deleted.
func (r *Reconciler) restoreSecret(ctx context.Context, f *lifecycle.Facts, o *status.Outcome, have, want *corev1.Secret,
	update func(context.Context, *corev1.Secret) (*corev1.Secret, error)) (bool, error) {
	now, key, sent := r.Clock.Now(), writesOf(f.Name, want), want.DeepCopy() // the response is decoded into the object that is sent
	delete(want.Annotations, objects.PartialAnnotation)
	before := drift.OfSecret(have, want)
	if r.Writes.Tolerates(key, before, now) {
		return true, nil
	}
	var held status.Outcome
	if r.heldBack(key, &held) {
		o.RequeueBy(held.RequeueAt)
		if len(before.Needed) == 0 {
			o.Notice = held.Problem
		} else {
			o.Problem = held.Problem
		}
		return len(before.Needed) == 0, nil
	}
	stored, err := update(ctx, sent)
	if err != nil || stored == nil {
		return err == nil, err
	}
	after := drift.OfSecret(stored, want)
	i := r.Writes.Wrote(key, writes.Write{Object: writes.SecretName(want), Restored: before, Answer: after}, now)
	if len(after.Needed) == 0 {
		return true, nil
	}
	r.reportInterference(i, o)
	if !owned.Ours(stored, f.Name) {
		return false, r.deleteSecret(ctx, stored, v1alpha1.ReasonAdmissionInterferes)
	}
	return false, nil
}

// updateSecret updates a Secret that was restored from the cached one. If the cache left out labels, annotations, finalizers or
// owners of others, the Secret is read first, so that they stay.
//
// It returns the stored Secret; nil if nothing needed to be restored.
func (r *Reconciler) updateSecret(ctx context.Context, restored *corev1.Secret) (*corev1.Secret, error) {
	if !objects.IsPartial(restored) {
		return r.storeSecret(ctx, restored)
	}
	whole, err := objects.Find(ctx, r.Uncached, restored.Namespace, restored.Name, &corev1.Secret{})
	if err != nil {
		return nil, err
	}
	if whole == nil || !objects.SameVersion(whole, restored) {
		return nil, objects.ErrBehind(corev1.Resource("secrets"), restored.Name)
	}
	want := *restored
	want.Annotations = maps.Clone(restored.Annotations)
	delete(want.Annotations, objects.PartialAnnotation)
	if whole = owned.Restored(whole, &want); whole == nil {
		return nil, nil
	}
	return r.storeSecret(ctx, whole)
}

func (r *Reconciler) storeSecret(ctx context.Context, s *corev1.Secret) (*corev1.Secret, error) {
	if err := r.Client.Update(ctx, s); err != nil {
		return nil, err
	}
	r.consistency.WroteAt(s, r.Clock.Now())
	return s, nil
}

// updateLowPriority updates an existing Secret, with a limit of concurrent updates: a changed CA affects every kubeconfig. The
// kubeconfig of a reissue also waits for its turn.
func (r *Reconciler) updateLowPriority(ctx context.Context, s *corev1.Secret) (*corev1.Secret, error) {
	writes := r.semaphores.get().lowPriorityWrites
	if err := writes.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer writes.Release(1)
	return r.updateSecret(ctx, s)
}

// keysOf returns the keys in Limits of a node's tokens and kubeconfig Secret.
func (r *Reconciler) keysOf(node string) []string {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: owned.KubeconfigSecretName(node)}}
	return []string{tokensOf(node), writes.SecretName(secret)}
}

// forgetWrites resets the bounds of objects that a node no longer needs.
func (r *Reconciler) forgetWrites(_ context.Context, f *lifecycle.Facts, p *lifecycle.Plan, _ *status.Outcome) error {
	if p.Phase == lifecycle.Gone || p.Phase == lifecycle.Joined {
		r.Writes.Forget(r.keysOf(f.Name)...)
	}
	if p.Phase == lifecycle.Gone {
		r.Writes.Forget(writes.StatusOf(f.Name))
	}
	return nil
}

// reportContested reports an object that another client keeps changing or deleting, also while it is correct, so that the
// condition does not change with each write.
func (r *Reconciler) reportContested(_ context.Context, f *lifecycle.Facts, p *lifecycle.Plan, o *status.Outcome) error {
	if p.Phase != lifecycle.Awaited {
		return nil
	}
	now := r.Clock.Now()
	if f.BindingsProblem != nil { // a failed write of a binding causes no event
		o.RequeueBy(now.Add(bindingsRetry))
	}
	for _, key := range r.keysOf(f.Name) {
		i := r.Writes.Interference(key, now)
		switch {
		case i == nil || i.ByAdmission:
			continue
		case i.Harmless():
			o.Notice = i.Problem()
		case o.Problem == nil:
			o.Problem = i.Problem()
		}
		o.RequeueBy(now.Add(writes.ObjectInterval))
	}
	return nil
}

// deleteSecret deletes a Secret, and logs it if it holds a token.
func (r *Reconciler) deleteSecret(ctx context.Context, s *corev1.Secret, reason string) error {
	key := writes.DeletionOf(writes.SecretName(s))
	if wait := r.Writes.Wait(key, r.Clock.Now()); wait > 0 {
		return &writes.HeldError{Object: writes.SecretName(s), Wait: wait}
	}
	deleted, err := r.deleteIf(ctx, s, client.Preconditions{UID: &s.UID}) // not a newer one of the same name
	if deleted {
		r.Writes.Wrote(key, writes.Write{Object: writes.SecretName(s)}, r.Clock.Now())
	}
	if deleted && token.IDOfSecret(s.Name) != "" {
		r.logRevoked(ctx, s, reason)
	}
	return err
}

// deleteIf deletes an object if the preconditions hold, and reports whether it existed.
func (r *Reconciler) deleteIf(ctx context.Context, o client.Object, still client.Preconditions) (deleted bool, err error) {
	err = r.Client.Delete(ctx, o, still)
	if client.IgnoreNotFound(err) != nil {
		secret, _ := o.(*corev1.Secret)
		return false, kubeconfig.RedactSecrets(fmt.Errorf("deleting %T %s: %w", o, client.ObjectKeyFromObject(o), err), secret)
	}
	r.consistency.Deleted(o, r.Clock.Now())
	return err == nil, nil
}
