// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"maps"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/controllers/apiserver"
)

const (
	// PartialAnnotation marks an object in the cache that lacks data that an update would erase, such as labels of others: it
	// must be read again before an update. Its value is "large" for an object that needs much memory while it is read or
	// written. It is never stored in the cluster.
	PartialAnnotation = "nodebootstrap.io/partial"
	large             = "large"

	// maxNameBytes is the maximum length of a name in Kubernetes (a DNS subdomain).
	maxNameBytes = 253
	// maxWordBytes is longer than any kind, group, label value, condition or UID that is compared.
	maxWordBytes = 256
	// otherEntry stands for all finalizers, or for all owners except the controller: it only matters whether any exist.
	otherEntry = "(other)"
)

// remainder is how much of an object the cache leaves out that an update would erase.
type remainder int

const (
	nothing remainder = iota
	something
	much
)

// partialAnnotations and largeAnnotations are the annotations of an object without others that are kept. The maps are shared,
// and never modified.
var (
	partialAnnotations = map[string]string{PartialAnnotation: ""}
	largeAnnotations   = map[string]string{PartialAnnotation: large}
)

// IsLarge reports whether an object needs much memory while it is read or written.
func IsLarge(o metav1.Object) bool { return o.GetAnnotations()[PartialAnnotation] == large }

// IsPartial reports whether an update of an object would erase what the cache leaves out.
func IsPartial(o metav1.Object) bool {
	_, is := o.GetAnnotations()[PartialAnnotation]
	return is
}

// cut truncates a long text, and copies it so that the rest can be freed.
func cut[S ~string](s S, most int) S {
	if len(s) <= most {
		return s
	}
	return S(strings.Clone(string(s[:most])))
}

// cutAll cuts several texts.
func cutAll[S ~string](most int, all ...*S) {
	for _, s := range all {
		*s = cut(*s, most)
	}
}

// only returns a map with some of the keys, or nil. Values are cut to a length that no value that is compared has.
func only(m map[string]string, most int, keys ...string) map[string]string {
	var out map[string]string
	for _, key := range keys {
		if value, ok := m[key]; ok {
			if out == nil {
				out = make(map[string]string, len(keys))
			}
			out[key] = cut(value, most)
		}
	}
	return out
}

// bareMetadata keeps of metadata the identity, version and times of the object, and some labels and annotations. It returns how
// much it left out, now or before, of an object with a size in bytes.
func bareMetadata(m *metav1.ObjectMeta, size int, labels, annotations map[string]string) (left remainder) {
	if size > apiserver.LargeBytes {
		NoteLarge(size)
	}
	switch {
	case size > apiserver.LargeBytes || IsLarge(m):
		left = much
	case IsPartial(m) || !maps.Equal(m.Labels, labels) || !maps.Equal(m.Annotations, annotations) || len(m.Finalizers) > 0 || len(m.OwnerReferences) > 0:
		left = something
	}
	*m = metav1.ObjectMeta{
		Name: m.Name, GenerateName: m.GenerateName, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion, Generation: m.Generation,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp, DeletionGracePeriodSeconds: m.DeletionGracePeriodSeconds,
		Labels: labels, Annotations: annotations,
	}
	return left
}

// bareMetadataWithOwners is bareMetadata, and keeps some owners.
func bareMetadataWithOwners(m *metav1.ObjectMeta, size int, labels, annotations map[string]string, owners []metav1.OwnerReference) remainder {
	all := slices.Equal(m.OwnerReferences, owners)
	m.OwnerReferences = nil
	left := bareMetadata(m, size, labels, annotations)
	m.OwnerReferences = owners
	if !all {
		left = max(left, something)
	}
	return left
}

// mark marks an object that must be read again before an update, if something was left out.
func (left remainder) mark(m *metav1.ObjectMeta) {
	if left == nothing {
		return
	}
	marks := partialAnnotations
	if left == much {
		marks = largeAnnotations
	}
	if len(m.Annotations) == 0 {
		m.Annotations = marks
	} else {
		maps.Copy(m.Annotations, marks)
	}
}

// metadataSize returns the approximate size of metadata in bytes.
func metadataSize(m *metav1.ObjectMeta) (n int) {
	for _, texts := range []map[string]string{m.Labels, m.Annotations} {
		for key, value := range texts {
			n += len(key) + len(value)
		}
	}
	for _, f := range m.Finalizers {
		n += len(f)
	}
	for _, o := range m.OwnerReferences {
		n += len(o.APIVersion) + len(o.Kind) + len(o.Name) + len(o.UID)
	}
	return n
}

// Garbage is collected after this many bytes of large objects were received: 1/garbageShare of the memory in use, but at least
// LeastGarbage. Each large object leaves garbage of several times its size, and Go by itself would wait until the garbage is
// half of the memory in use.
const (
	garbageShare = 32
	// LeastGarbage is the minimum, in bytes.
	LeastGarbage = 1 << 20
)

// largeTraffic is the number of bytes of large objects received since garbage was last collected for them.
var largeTraffic atomic.Int64

// NoteLarge records that a large object of a size was received, and collects garbage if necessary and returns the memory to the
// system.
func NoteLarge(size int) {
	collector.beFrugal()
	if sum := largeTraffic.Add(int64(size)); sum < LeastGarbage || sum < heapInUse()/garbageShare {
		return
	}
	if largeTraffic.Swap(0) > 0 { // another goroutine may be collecting
		debug.FreeOSMemory()
	}
}

const (
	// frugalPercent is the GOGC value while large objects are received.
	frugalPercent = 15
	// frugalFor is how long it applies after the last large object.
	frugalFor = time.Minute
)

// gcPercent is the GOGC value of the process, which is lower for a while after large objects were received.
type gcPercent struct {
	mu     sync.Mutex
	end    *time.Timer // nil while the usual value applies
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

// heapInUse returns how many bytes the last garbage collection found in use.
func heapInUse() int64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64()) //nolint:gosec // no heap has so many bytes
}
