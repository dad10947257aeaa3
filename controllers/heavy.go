// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
)

// heavyRetry is about how soon a reconcile with large objects comes back that another one holds up.
const heavyRetry = 500 * time.Millisecond

// isHeavy reports whether a reconcile may read or write a large object, by what there is of the node so far and by the cache.
func (r *NodeReconciler) isHeavy(ctx context.Context, f *bootstrap.Facts) bool {
	if f.NodeBootstrap != nil && isLarge(f.NodeBootstrap) || f.Kubeconfig != nil && isLarge(f.Kubeconfig) ||
		slices.ContainsFunc(f.TokenSecrets, func(s *corev1.Secret) bool { return isLarge(s) }) || slices.ContainsFunc(f.Requests, isLargePending) {
		return true
	}
	if f.NodeBootstrap == nil {
		return false
	}
	if node, err := find(ctx, r.Client, "", f.Name, nodeMetadata()); err == nil && node != nil && isLarge(node) {
		return true
	}
	var serving certificatesv1.CertificateSigningRequestList
	if len(f.NodeBootstrap.Spec.ServingCertificate.Addresses) == 0 || r.Client.List(ctx, &serving, client.MatchingFields{indexServing: f.Name}) != nil {
		return false // a read that fails is an error where it matters
	}
	return slices.ContainsFunc(serving.Items, func(r certificatesv1.CertificateSigningRequest) bool { return isLargePending(&r) })
}

func isLargePending(r *certificatesv1.CertificateSigningRequest) bool {
	return isLarge(r) && !bootstrap.Settled(r)
}

// garbageShare and leastGarbage say after how many bytes of large objects garbage is collected: when they come to this share of what
// is in use, and to no less than that. Each leaves several times its size behind, and Go waits until half of what is in use is garbage.
const garbageShare, leastGarbage = 32, 1 << 20

// largeTraffic is how many bytes of large objects have come in since garbage was last collected for them.
var largeTraffic atomic.Int64

// noteLarge says that a large object of a size has come in, and now and then collects garbage and gives the
// memory back.
func noteLarge(size int) {
	collector.beFrugal()
	if sum := largeTraffic.Add(int64(size)); sum < leastGarbage || sum < heapInUse()/garbageShare {
		return
	}
	if largeTraffic.Swap(0) > 0 { // someone else may be at it
		debug.FreeOSMemory()
	}
}

const (
	// frugalPercent is how much garbage there may be, in percent of what is in use, while large objects come in.
	frugalPercent = 15
	// frugalFor is for how long after the last one.
	frugalFor = time.Minute
)

// gcPercent is the process's setting for garbage, which is lower for a while when large objects have come in.
type gcPercent struct {
	mu     sync.Mutex
	end    *time.Timer // nil while it is as usual
	before int
}

var collector gcPercent

func (g *gcPercent) beFrugal() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.end != nil {
		g.end.Reset(frugalFor)
		return
	}
	g.before = debug.SetGCPercent(frugalPercent)
	if 0 <= g.before && g.before < frugalPercent {
		debug.SetGCPercent(g.before)
	}
	g.end = time.AfterFunc(frugalFor, g.asUsual)
}

func (g *gcPercent) asUsual() {
	g.mu.Lock()
	defer g.mu.Unlock()
	debug.SetGCPercent(g.before)
	g.end = nil
}

// heapInUse is how many bytes the last collection has found in use.
func heapInUse() int64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64()) //nolint:gosec // no heap has so many bytes
}
