// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"
)

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

// heapInUse returns how many bytes the last garbage collection found in use.
func heapInUse() int64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64()) //nolint:gosec // no heap has so many bytes
}
