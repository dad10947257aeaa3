// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
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

// writesOf is by what Limits knows a Secret. The tokens of a node are one: each that replaces another has a Secret of its own.
func writesOf(node string, s *corev1.Secret) string {
	if s.Namespace == token.Namespace {
		return "tokens of " + node
	}
	return writes.SecretName(s)
}

// bindingsRetry is how soon a node looks again at what keeps the shared bindings from being as they should be.
const bindingsRetry = 10 * time.Second

// heldBack reports whether something interferes with the writes of an object and the next one has to wait, and says so in the outcome.
func (r *Reconciler) heldBack(key string, p *lifecycle.Plan, o *status.Outcome) bool {
	now := r.Clock.Now()
	wait := r.Writes.Wait(key, now)
	if wait <= 0 {
		return false
	}
	p.RequeueBy(now.Add(wait))
	if i := r.Writes.Interference(key, now); i != nil {
		o.Problem = i.Problem()
	}
	return true
}

// interferes says in the outcome what keeps an object from being as it was written, and comes back when it may be written again.
func (r *Reconciler) interferes(i *drift.Interference, p *lifecycle.Plan, o *status.Outcome) {
	o.Problem = i.Problem()
	p.RequeueBy(r.Clock.Now().Add(writes.ObjectInterval))
}

// createSecret creates a Secret, and returns it as the API server has stored it; nil when something interferes.
func (r *Reconciler) createSecret(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan, o *status.Outcome, want *corev1.Secret) (*corev1.Secret, error) {
	key := writesOf(f.Name, want)
	if r.heldBack(key, p, o) {
		return nil, nil
	}
	created, changed, err := writes.Create(ctx, r.Client, r.Writes, key, writes.SecretName(want), want, drift.OfSecret, r.Clock.Now())
	if err != nil {
		return nil, err
	}
	if created != nil && want.Namespace == token.Namespace {
		r.noteCreated(ctx, p, want)
	}
	if changed == nil {
		return created, nil
	}
	r.interferes(changed, p, o)
	if created == nil {
		return nil, nil
	}
	return nil, r.deleteSecret(ctx, created, v1alpha1.ReasonAdmissionInterferes)
}

// restoreSecret updates a Secret, and reports whether what is needed of it is as it should be afterwards. One that is not the
// operator's any more, because admission control has taken away its owner, is deleted.
func (r *Reconciler) restoreSecret(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan, o *status.Outcome, have, want *corev1.Secret,
	update func(context.Context, *corev1.Secret) (*corev1.Secret, error)) (bool, error) {
	now, key, sent := r.Clock.Now(), writesOf(f.Name, want), want.DeepCopy() // the answer is decoded into what is sent
	delete(want.Annotations, objects.PartialAnnotation)
	before := drift.OfSecret(have, want)
	if r.Writes.Tolerates(key, before, now) {
		return true, nil
	}
	var held status.Outcome
	if r.heldBack(key, p, &held) {
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
	r.interferes(i, p, o)
	if !owned.Ours(stored, f.Name) {
		return false, r.deleteSecret(ctx, stored, v1alpha1.ReasonAdmissionInterferes)
	}
	return false, nil
}

// updateLowPriority updates what is there already and only has to become another one: a changed CA concerns every kubeconfig. The
// kubeconfig of a reissue may be among them, and waits its turn.
func (r *Reconciler) updateLowPriority(ctx context.Context, s *corev1.Secret) (*corev1.Secret, error) {
	writes := r.semaphores.get().lowPriorityWrites
	if err := writes.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer writes.Release(1)
	return r.updateSecret(ctx, s)
}

// keysOf are by what Limits knows the tokens and the kubeconfig Secret of a node.
func (r *Reconciler) keysOf(node string) []string {
	secret := func(namespace, name string) string {
		return writesOf(node, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}})
	}
	return []string{secret(token.Namespace, ""), secret(r.Namespace, owned.KubeconfigSecretName(node))}
}

// forgetWrites begins again with what a node does not need any more.
func (r *Reconciler) forgetWrites(_ context.Context, f *lifecycle.Facts, p *lifecycle.Plan, _ *status.Outcome) error {
	if p.Phase == lifecycle.Gone || p.Phase == lifecycle.Joined {
		r.Writes.Forget(r.keysOf(f.Name)...)
	}
	if p.Phase == lifecycle.Gone {
		r.Writes.Forget(writes.StatusOf(f.Name))
	}
	return nil
}

// contested reports an object that another client changes or deletes again and again also while it is as it should be, so that the
// condition does not change with each write.
func (r *Reconciler) contested(_ context.Context, f *lifecycle.Facts, p *lifecycle.Plan, o *status.Outcome) error {
	if p.Phase != lifecycle.Awaited {
		return nil
	}
	now := r.Clock.Now()
	if f.BindingsProblem != nil { // no event tells when a write of a binding has failed
		p.RequeueBy(now.Add(bindingsRetry))
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
		p.RequeueBy(now.Add(writes.ObjectInterval))
	}
	return nil
}

// deleteSecret deletes a Secret, and logs it if it holds a token.
func (r *Reconciler) deleteSecret(ctx context.Context, s *corev1.Secret, reason string) error {
	key := writes.DeletionOf(writes.SecretName(s))
	if wait := r.Writes.Wait(key, r.Clock.Now()); wait > 0 {
		return &writes.HeldError{Object: writes.SecretName(s), Wait: wait}
	}
	deleted, err := r.delete(ctx, s)
	if deleted {
		r.Writes.Wrote(key, writes.Write{Object: writes.SecretName(s)}, r.Clock.Now())
	}
	if deleted && token.IDOfSecret(s.Name) != "" {
		r.noteRevoked(ctx, s, reason)
	}
	return err
}

// delete deletes the object that was read, and not another one that has taken its name since. It reports whether there was one.
func (r *Reconciler) delete(ctx context.Context, o client.Object) (deleted bool, err error) {
	uid := o.GetUID()
	return r.deleteIf(ctx, o, client.Preconditions{UID: &uid})
}

func (r *Reconciler) deleteIf(ctx context.Context, o client.Object, still client.Preconditions) (deleted bool, err error) {
	err = r.Client.Delete(ctx, o, still)
	if client.IgnoreNotFound(err) != nil {
		secret, _ := o.(*corev1.Secret)
		return false, kubeconfig.RedactSecrets(fmt.Errorf("deleting %T %s: %w", o, client.ObjectKeyFromObject(o), err), secret)
	}
	r.consistency.Deleted(o, r.Clock.Now())
	return err == nil, nil
}
