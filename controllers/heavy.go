// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"runtime"
	"runtime/metrics"
	"slices"
	"sync/atomic"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
)

// heavyPasses is how many reconciles with large objects go on at a time. Each takes many times an object's size while the object is
// read, sent and decoded again from the answer. The others come back a moment later, so that no node with ordinary ones waits for them.
const heavyPasses = 1

// isHeavy reports whether a reconcile may read or write a large object.
func isHeavy(f *bootstrap.Facts) bool {
	return f.NodeBootstrap != nil && isLarge(f.NodeBootstrap) || f.Kubeconfig != nil && isLarge(f.Kubeconfig) ||
		slices.ContainsFunc(f.TokenSecrets, func(s *corev1.Secret) bool { return isLarge(s) }) ||
		slices.ContainsFunc(f.Requests, isLargePending) || slices.ContainsFunc(f.ServingRequests, isLargePending)
}

func isLargePending(r *certificatesv1.CertificateSigningRequest) bool {
	return isLarge(r) && !bootstrap.Settled(r)
}

// A counter counts what goes on at a time. The zero value is ready.
type counter struct{ n atomic.Int64 }

// tryTake reports whether there were fewer than so many, and counts one more if so, until giveBack.
func (c *counter) tryTake(most int64) bool {
	if c.n.Add(1) > most {
		c.n.Add(-1)
		return false
	}
	return true
}

func (c *counter) giveBack() { c.n.Add(-1) }

// garbageShare and leastGarbage say after how many bytes of large objects garbage is collected: when they come to this share of what
// is in use, and to no less than that. Each leaves several times its size behind, and Go waits until half of what is in use is garbage.
const garbageShare, leastGarbage = 8, 4 << 20

// largeTraffic is how many bytes of large objects have come in since garbage was last collected for them.
var largeTraffic atomic.Int64

// noteLarge says that a large object of a size has come in, and collects garbage now and then.
func noteLarge(size int) {
	if sum := largeTraffic.Add(int64(size)); sum < leastGarbage || sum < heapInUse()/garbageShare {
		return
	}
	if largeTraffic.Swap(0) > 0 { // somebody else may be at it
		runtime.GC()
	}
}

// heapInUse is how many bytes the last collection has found in use.
func heapInUse() int64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64()) //nolint:gosec // no heap has so many bytes
}
