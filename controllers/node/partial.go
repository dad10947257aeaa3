// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
)

// uncachedSecret reads a Secret for a node from the API server, and keeps only what the cache would keep.
func (r *Reconciler) uncachedSecret(ctx context.Context, node, namespace, name string) (*corev1.Secret, error) {
	s, err := objects.Find(ctx, r.Uncached, namespace, name, &corev1.Secret{})
	if s != nil {
		objects.StripSecretOf(s, node)
	}
	return s, err
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

// wholeNodeBootstrap reads the CA of a large NodeBootstrap, which is not in the cache: a bundle can have 64 KiB, and each
// NodeBootstrap its own.
func (r *Reconciler) wholeNodeBootstrap(ctx context.Context, f *lifecycle.Facts) error {
	if !objects.IsLarge(f.NodeBootstrap) {
		return nil
	}
	whole, err := r.nodeBootstrap(ctx, r.Uncached, f.Name)
	if err != nil {
		return err
	}
	if whole == nil || !objects.SameVersion(whole, f.NodeBootstrap) {
		return objects.ErrBehind(v1alpha1.GroupVersion.WithResource("nodebootstraps").GroupResource(), f.Name)
	}
	shown := f.NodeBootstrap.DeepCopy()
	shown.Spec.Cluster.CABundle = whole.Spec.Cluster.CABundle
	f.NodeBootstrap = shown
	return nil
}
