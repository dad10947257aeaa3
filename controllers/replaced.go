// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// replacedLag is for how long a cache may show a version that is replaced before it is believed nevertheless: a watch that
	// stands still must not hold up a revocation.
	replacedLag = 2 * time.Second
	// maxReplaced bounds what is remembered. What is forgotten costs a conflict.
	maxReplaced = 10_000
)

// replacedVersions are the versions of objects that this process has replaced by a write of its own. A cache shows them for a
// moment more, and what is decided by one ends in a conflict.
type replacedVersions struct {
	mu sync.Mutex
	at map[objectVersion]time.Time
}

type objectVersion struct {
	uid             types.UID
	resourceVersion string
}

func versionOf(o client.Object) objectVersion {
	return objectVersion{o.GetUID(), o.GetResourceVersion()}
}

// has reports whether an object is one that was replaced a moment ago.
func (r *replacedVersions) has(o client.Object, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.at[versionOf(o)]
	return ok && now.Sub(at).Abs() < replacedLag // the clock may be set back: it is the API server's
}

func (r *replacedVersions) add(v objectVersion, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at == nil || len(r.at) >= maxReplaced {
		r.at = map[objectVersion]time.Time{}
	}
	r.at[v] = now
}
