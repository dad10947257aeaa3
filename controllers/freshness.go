// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/sets"
)

const (
	// freshnessPatience is for how long a pass waits for a write to come back before it reads live: a watch that stands still
	// must not hold it up for long.
	freshnessPatience = 200 * time.Millisecond
	// maxAway bounds the writes that are remembered until they come back. What is forgotten costs a uncached read.
	maxAway = 1000
)

// freshness tells when the cache of NodeBootstraps shows all that was stored before a question, so that nothing has to be read
// live. What this process writes comes back by the watch, behind everything that was stored before it was sent: once one has
// come back that was sent after the question, the cache shows what a uncached read at that moment would have, or something newer.
//
// It rests on one watch for all NodeBootstraps, whose events come in the order of their resourceVersions, which have an order
// (KEP-5504). Its moments are counted and not timed: no clock has a say in it. The zero value knows nothing yet.
type freshness struct {
	mu sync.Mutex
	// moment counts questions and writes.
	moment int
	// known is the moment up to which the cache shows all that was stored.
	known int
	// shown is the newest resourceVersion that the cache has shown.
	shown string
	// away are writes that the cache has not shown, by the moment at which they were sent.
	away map[int]ownWrite
	// writing are the nodes whose passes have asked and will write.
	writing sets.Set[string]
	// news is closed when somebody who waits should look again.
	news chan struct{}
}

// ownWrite is a write of this process.
type ownWrite struct {
	// shown is the newest resourceVersion that the cache had shown when it was sent.
	shown string
	// stored is the resourceVersion that the API server has answered with; empty until it has.
	stored string
}

// await reports whether the cache shows all that was stored before the call. It waits as long as a write that tells is on its way
// or is to be expected of another pass; whoever is the first has nothing to wait for. The pass that asks is expected to write,
// until ended.
func (f *freshness) await(ctx context.Context, node string) bool {
	timeout := time.NewTimer(freshnessPatience)
	defer timeout.Stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	asked := f.tick()
	for f.known < asked && f.expects(asked) {
		if f.news == nil {
			f.news = make(chan struct{})
		}
		if !f.wait(ctx, f.news, timeout.C) {
			break
		}
	}
	if f.writing == nil {
		f.writing = sets.New[string]()
	}
	f.writing.Insert(node)
	return f.known > asked
}

func (f *freshness) tick() int {
	f.moment++
	return f.moment
}

// wait lets go of the lock until there is news; false when there was none in time.
func (f *freshness) wait(ctx context.Context, news <-chan struct{}, timeout <-chan time.Time) bool {
	f.mu.Unlock()
	defer f.mu.Lock()
	select {
	case <-news:
		return true
	case <-timeout:
		return false
	case <-ctx.Done():
		return false
	}
}

// expects reports whether a write may come back that was sent, or will be, after a moment.
func (f *freshness) expects(moment int) bool {
	if f.writing.Len() > 0 {
		return true
	}
	for sent := range f.away {
		if sent > moment {
			return true
		}
	}
	return false
}

// ended says that the pass of a node is over.
func (f *freshness) ended(node string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.writing.Has(node) {
		f.writing.Delete(node)
		f.tell()
	}
}

// sends returns the moment at which a write is sent, for answered.
func (f *freshness) sends() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away == nil || len(f.away) >= maxAway {
		f.away = map[int]ownWrite{}
	}
	sent := f.tick()
	f.away[sent] = ownWrite{shown: f.shown}
	return sent
}

// answered says that a write that replaces one version was stored as another one. One that failed, or that the API server found
// to change nothing, tells nothing: both are the same.
func (f *freshness) answered(sent int, replaced, stored string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	write, remembered := f.away[sent]
	switch {
	case !remembered:
	case replaced == stored:
		delete(f.away, sent)
		f.tell()
	case notOlder(write.shown, stored): // versions have gone back, as when etcd was restored from a backup
		clear(f.away)
		f.shown = ""
		f.tell()
	default:
		write.stored = stored
		f.away[sent] = write
		f.learn()
	}
}

// shows says that the cache shows a version. It is called after the cache has taken it in.
func (f *freshness) shows(version string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !notOlder(f.shown, version) {
		f.shown = version
		f.learn()
	}
}

// learn finds the writes that have come back.
func (f *freshness) learn() {
	was := f.known
	for sent, write := range f.away {
		if write.stored != "" && notOlder(f.shown, write.stored) {
			f.known = max(f.known, sent)
			delete(f.away, sent)
		}
	}
	if f.known > was {
		f.tell()
	}
}

func (f *freshness) tell() {
	if f.news != nil {
		close(f.news)
		f.news = nil
	}
}

// notOlder reports whether one resourceVersion is another one or came after it. Of what is none nothing is known.
func notOlder(version, than string) bool {
	order, err := resourceversion.CompareResourceVersion(version, than)
	return err == nil && order >= 0
}
