// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"
)

// Garbage is collected when so many bytes of large objects have come in: this share of the memory in use, and not less than LeastGarbage.
// Each leaves several times its size behind, and Go waits until half of what is in use is garbage.
const (
	garbageShare = 32
	// LeastGarbage is in bytes.
	LeastGarbage = 1 << 20
)

// largeTraffic is how many bytes of large objects have come in since garbage was last collected for them.
var largeTraffic atomic.Int64

// NoteLarge says that a large object of a size has come in, and now and then collects garbage and gives the
// memory back.
func NoteLarge(size int) {
	collector.beFrugal()
	if sum := largeTraffic.Add(int64(size)); sum < LeastGarbage || sum < heapInUse()/garbageShare {
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

// heapInUse is how many bytes the last collection has found in use.
func heapInUse() int64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64()) //nolint:gosec // no heap has so many bytes
}
