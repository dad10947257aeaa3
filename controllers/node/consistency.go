// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
)

const (
	// consistencyTimeout is how long a reconcile waits until the cache shows the operator's own write. A stopped watch must not
	// delay a revocation for longer.
	consistencyTimeout = 2 * time.Second
	// maxOwnWrites bounds the remembered writes. A forgotten one costs a conflict.
	maxOwnWrites = 10_000
)

// consistencyStore makes sure that a reconcile reads its own writes: it holds the last write of each object until the cache
// shows it, like Kubernetes' pkg/controller/util/consistency. It does not have the writes of other processes. The zero value is
// ready to use.
//
// An object that the cache does not show delays nothing, since it may have been deleted. So creations are not recorded: the
// names of created objects are derived, and a second creation gets AlreadyExists.
type consistencyStore struct {
	mu     sync.Mutex
	writes map[types.UID]ownWrite
}

type ownWrite struct {
	// resourceVersion is that of the object as it was stored; empty after its deletion.
	resourceVersion string
	at              time.Time
}

// WroteAt records an update, with the object that the API server returned.
func (c *consistencyStore) WroteAt(stored client.Object, now time.Time) {
	c.note(stored.GetUID(), ownWrite{stored.GetResourceVersion(), now}, now)
}

// Deleted records a deletion.
func (c *consistencyStore) Deleted(o client.Object, now time.Time) {
	c.note(o.GetUID(), ownWrite{at: now}, now)
}

func (c *consistencyStore) note(uid types.UID, w ownWrite, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writes == nil {
		c.writes = map[types.UID]ownWrite{}
	}
	if len(c.writes) >= maxOwnWrites {
		maps.DeleteFunc(c.writes, func(_ types.UID, w ownWrite) bool { return w.timedOut(now) })
	}
	c.writes[uid] = w
}

// EnsureReady returns a conflict while the cache shows one of these objects as it was before the operator's last write.
func (c *consistencyStore) EnsureReady(now time.Time, shown ...client.Object) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range shown {
		w, ok := c.writes[o.GetUID()]
		switch {
		case !ok:
		case w.isIn(o):
			delete(c.writes, o.GetUID())
		case !w.timedOut(now):
			return apierrors.NewConflict(schema.GroupResource{}, o.GetName(), errors.New("the cache does not show the last write yet"))
		}
	}
	return nil
}

// IsBehind reports whether an object lacks the operator's last write, however long ago that was.
func (c *consistencyStore) IsBehind(shown client.Object) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	w, ok := c.writes[shown.GetUID()]
	return ok && !w.isIn(shown)
}

// isIn reports whether an object shows the write. Versions of one object can be compared from Kubernetes 1.35 on (KEP-5504); if
// they cannot be compared, the write counts as shown.
func (w ownWrite) isIn(o client.Object) bool {
	if w.resourceVersion == "" {
		return o.GetDeletionTimestamp() != nil
	}
	order, err := resourceversion.CompareResourceVersion(o.GetResourceVersion(), w.resourceVersion)
	return err != nil || order >= 0
}

// timedOut uses the API server's clock, which may be set back.
func (w ownWrite) timedOut(now time.Time) bool { return now.Sub(w.at).Abs() >= consistencyTimeout }

// written returns the objects among the facts that the operator writes.
func written(f *lifecycle.Facts) []client.Object {
	var out []client.Object
	if f.NodeBootstrap != nil {
		out = append(out, f.NodeBootstrap)
	}
	if f.Kubeconfig != nil {
		out = append(out, f.Kubeconfig)
	}
	for _, s := range f.TokenSecrets {
		out = append(out, s)
	}
	for _, r := range slices.Concat(f.Requests, f.ServingRequests) {
		out = append(out, r)
	}
	return out
}
