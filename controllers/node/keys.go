// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
)

// keysElsewhere returns which of the keys are claimed for another node, and for which one. It reads from the cache, and makes
// an uncached read for keys that this process claimed, since the cache may not show them yet.
func (r *Reconciler) keysElsewhere(ctx context.Context, nb *v1alpha1.NodeBootstrap, keys []string) (map[string]string, error) {
	out := map[string]string{}
	for _, key := range keys {
		other, err := r.nodeOfKey(ctx, nb, key)
		if err != nil {
			return nil, err
		}
		if other != "" {
			out[key] = other
		}
	}
	return out, nil
}

// nodeOfKey returns the other node that a key is claimed for; empty for none.
func (r *Reconciler) nodeOfKey(ctx context.Context, own *v1alpha1.NodeBootstrap, key string) (string, error) {
	list, err := r.withKey(ctx, key)
	if err != nil {
		return "", err
	}
	if other := lifecycle.KeyElsewhere(own, list, key); other != "" {
		return other, nil
	}
	holder := r.keys.holder(key)
	if holder == "" || holder == own.Name {
		return "", nil
	}
	nb, err := objects.FindNodeBootstrap(ctx, r.Uncached, holder)
	switch {
	case err != nil:
		return "", err
	case nb != nil && lifecycle.Claims(nb, key):
		return holder, nil
	default: // its claim could not be stored, or no longer exists
		r.keys.release(key, holder)
		return "", nil
	}
}

// withKey returns the NodeBootstraps whose node has a key, or that pin it.
func (r *Reconciler) withKey(ctx context.Context, key string) ([]v1alpha1.NodeBootstrap, error) {
	var list v1alpha1.NodeBootstrapList
	if err := r.Client.List(ctx, &list, client.MatchingFields{objects.IndexKey: key}); err != nil {
		return nil, fmt.Errorf("listing the NodeBootstraps with the key %s: %w", key, err)
	}
	return list.Items, nil
}

// pinnedElsewhere returns the names of the other NodeBootstraps that pin the key that one pins, in order.
func (r *Reconciler) pinnedElsewhere(ctx context.Context, own *v1alpha1.NodeBootstrap) ([]string, error) {
	key := own.Spec.PinnedKey()
	if key == "" {
		return nil, nil
	}
	list, err := r.withKey(ctx, key)
	return lifecycle.PinnedElsewhere(own, list), err
}

// holdKeys holds the keys that a plan approves while their claims are written, until stored is called: of two nodes with the
// same key only one can claim it. The other gets a conflict, and finds the claim when it reconciles again.
func (r *Reconciler) holdKeys(f *lifecycle.Facts, p *lifecycle.Plan) (stored func(), err error) {
	keys := p.KeysToClaim()
	stored = func() {
		for _, key := range keys {
			r.keys.stored(key, f.Name)
		}
	}
	for _, key := range keys {
		if holder := r.keys.hold(key, f.Name); holder != f.Name {
			stored()
			return nil, apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("nodebootstraps").GroupResource(), f.Name,
				errors.New("the node "+holder+" claims the same key"))
		}
	}
	return stored, nil
}

// maxHeldKeys bounds the remembered claims. When one is forgotten, the cache already shows it.
const maxHeldKeys = 10_000

// heldKeys are the keys that this process claims or has claimed, by fingerprint: the cache may not show the claims yet. The
// zero value is ready to use.
type heldKeys struct {
	mu   sync.Mutex
	held map[string]heldKey
}

type heldKey struct {
	node string
	// storing reports whether the claim is being written.
	storing bool
}

// holder returns the node that a key is held for; empty for none.
func (h *heldKeys) holder(key string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.held[key].node
}

// hold holds a key for a node while its claim is written, and returns the node that it is held for.
func (h *heldKeys) hold(key, node string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if have, ok := h.held[key]; ok && have.node != node {
		return have.node
	}
	if len(h.held) >= maxHeldKeys {
		maps.DeleteFunc(h.held, func(_ string, k heldKey) bool { return !k.storing })
	}
	if h.held == nil {
		h.held = map[string]heldKey{}
	}
	h.held[key] = heldKey{node, true}
	return node
}

// stored records that the write of a claim ended, successful or not.
func (h *heldKeys) stored(key, node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held[key].node == node {
		h.held[key] = heldKey{node: node}
	}
}

// release lets go of a key that the node does not claim, unless the claim is being written.
func (h *heldKeys) release(key, node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if have := h.held[key]; have.node == node && !have.storing {
		delete(h.held, key)
	}
}
