// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// meter is the state of several downloads.
type meter struct {
	began    time.Time
	received atomic.Int64

	mu    sync.Mutex
	files int
	sizes map[string]int64 // by URL
}

func newMeter(files int) *meter {
	return &meter{began: time.Now(), files: files, sizes: map[string]int64{}}
}

// expect records the size of a file, which can be unknown.
func (m *meter) expect(url string, size int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sizes[url] = size
}

// size is that of all files, or 0 if one is not known yet.
func (m *meter) size() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.sizes) < m.files {
		return 0
	}
	var sum int64
	for _, size := range m.sizes {
		if size < 0 {
			return 0
		}
		sum += size
	}
	return sum
}

const megabyte = 1e6

func (m *meter) String() string {
	return m.at(float64(m.received.Load()), float64(m.size()), time.Since(m.began))
}

// at describes what was received of all, which is 0 if it is not known, after a time.
func (m *meter) at(received, all float64, after time.Duration) string {
	rate := received / max(after.Seconds(), 0.001)
	words := []string{fmt.Sprintf("  %.0f MB", received/megabyte)}
	if all > 0 {
		words[0] = fmt.Sprintf("  %.0f of %.0f MB", received/megabyte, all/megabyte)
		words = append(words, fmt.Sprintf("%.0f %%", min(100*received/all, 100)))
	}
	words = append(words, fmt.Sprintf("%.1f MB/s", rate/megabyte))
	if all > received && rate > 0 {
		words = append(words, seconds(time.Duration((all-received)/rate*float64(time.Second)))+" left")
	}
	return strings.Join(words, ", ")
}

// total describes what was received in all.
func (m *meter) total() string {
	return fmt.Sprintf("%.0f MB in %s", float64(m.received.Load())/megabyte, seconds(time.Since(m.began)))
}
