// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	clocktesting "k8s.io/utils/clock/testing"
)

// begin is when all runs begin. It is not a whole second, because real times are not.
var begin = time.Date(2026, 3, 4, 5, 6, 7, 345_000_000, time.UTC)

// world is a cluster with the operator in it, and the run of a story.
type world struct {
	*store
	clock *clocktesting.FakePassiveClock
	op    *operator
	// flagServer is the operator's --cluster-server.
	flagServer string
	// skew is how far the API server's clock is ahead of the operator's, and kubectlAhead how far that of a person is ahead of
	// the API server's.
	skew, kubectlAhead time.Duration
	// signerDown means that kube-controller-manager ignores certificates; eager, that it collects garbage before the
	// operator acts.
	signerDown, eager bool
	// approved is the revision at which the approver had nothing to do: finding that out takes a while.
	approved int

	changes     []change             // by revision, from 1 on
	frozen      map[string]*freeze   // by kind
	refused     map[string]time.Time // until when a permission is missing, by call.right
	cutOffUntil time.Time

	admission    fault                // how admission changes the current write
	admitted     time.Time            // when it did so last
	spoiledUntil map[string]time.Time // until when it spoils each write of a kind, by call.right
	writes       map[key]int          // of the operator, in the minute since writesSince
	writesSince  time.Time

	lagging bool // the API server answers a review as of before the last change
	story   *story
	next    int // the next step
	inStep  bool

	plan     map[string]fault // by call.id
	random   func(*call) fault
	happened []at
	// pointless means that a fault of the plan changed nothing, so that the run was abandoned.
	pointless bool
	// checking means that calls from now on are not part of the story, and recording that the run is an undisturbed one.
	checking, recording bool
	counts              map[string]int // by call.what
	calls               []*call
	reconciles          int
	limit               int
	minute              time.Time // the current one
	inMinute            int       // calls in it
	trace               []fmt.Stringer
	said_               []saying
	storyCalls          []*call          // the calls of the story, without those of the checks after it
	rests               map[int][]string // the cluster's state at rest, by the next step
	rules
}

// change is a change of an object.
type change struct {
	key      key
	old, new *version
}

func (c change) comesOrGoes() bool {
	return c.old == nil || c.new == nil || c.new.object == nil || c.old.object.GetUID() != c.new.object.GetUID()
}

// freeze is a stale cache of a kind.
type freeze struct {
	revision int
	until    time.Time
	held     []change
}

// saying is text that people without access to secrets can read.
type saying struct{ where, text string }

// base is a new cluster, filled once: stored objects are immutable.
var base = sync.OnceValue(func() *world {
	w := bareWorld()
	w.setUp()
	for _, versions := range w.versions {
		shown(versions[0])
	}
	return w
})

// newWorld is a world of its own with the content of base.
func newWorld() *world {
	w, b := bareWorld(), base()
	w.revision, w.changes, w.trace = b.revision, slices.Clone(b.changes), slices.Clone(b.trace)
	for k, versions := range b.versions {
		w.versions[k], w.created[k] = slices.Clone(versions), b.created[k]
	}
	for kind, keys := range b.kinds {
		w.kinds[kind] = slices.Clone(keys)
	}
	maps.Copy(w.Foreign, b.Foreign)
	maps.Copy(w.Parts, b.Parts)
	return w
}

// manyCalls are far more than any undisturbed story has, and manyInAMinute are more than any minute of a history justifies: a
// cache that lags for cacheLag may cost ten reconciles, and a series of failures as many.
const manyCalls, manyInAMinute = 1_000_000, 2_000

func bareWorld() *world {
	w := &world{flagServer: "https://api.example.com:6443", clock: clocktesting.NewFakePassiveClock(begin), counts: map[string]int{}, refused: map[string]time.Time{}, spoiledUntil: map[string]time.Time{}, limit: manyCalls, rests: map[int][]string{}}
	w.store = newStore(func() time.Time { return w.clock.Now().Add(w.skew) })
	w.changed, w.admits = w.onChange, w.admit
	w.rules = w.newRules()
	return w
}

// seen is the revision of the cache of a kind.
func (w *world) seen(kind string) int {
	if f := w.frozen[kind]; f != nil {
		return f.revision
	}
	return w.revision
}

// freeze keeps the cache of a kind at a revision for cacheLag.
func (w *world) freeze(kind string, revision int) {
	w.freezeUntil(kind, revision, w.clock.Now().Add(cacheLag))
}

func (w *world) freezeUntil(kind string, revision int, until time.Time) {
	if w.frozen[kind] != nil {
		return
	}
	f := &freeze{revision: revision, until: until}
	for _, c := range w.changes[revision:] {
		if c.key.kind == kind {
			f.held = append(f.held, c)
		}
	}
	w.frozen[kind] = f
}

func (w *world) onChange(k key, old, v *version) {
	c := change{k, old, v}
	w.changes = append(w.changes, c)
	w.trace = append(w.trace, tracedChange{c})
	w.check(c)
	if f := w.frozen[k.kind]; f != nil {
		f.held = append(f.held, c)
	} else if w.op != nil {
		w.op.wakeFor(c)
	}
}

type tracedChange struct{ change }

func (t tracedChange) String() string {
	verb := "changes"
	switch {
	case t.new.object == nil:
		verb = "deletes"
	case t.old == nil:
		verb = "creates"
	}
	return fmt.Sprintf("%s %s %s %s", t.new.at.Format("15:04:05.000"), t.new.author, verb, t.key)
}

type note string

func (n note) String() string { return string(n) }

func (w *world) note(format string, args ...any) {
	w.trace = append(w.trace, note(w.clock.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...)))
}

func (w *world) said(where, text string) { w.said_ = append(w.said_, saying{where, text}) }

func (w *world) begins(i item) {
	w.reconciles++
	w.trace = append(w.trace, note(fmt.Sprintf("   reconcile %d: %s %s", w.reconciles, i.controller, i.name)))
	w.thisReconcile = reconcileCall{w.reconciles, len(w.calls), w.revision, len(w.happened)}
}

// idle lets the operator and the rest of the cluster work until nobody has anything to do at this time.
func (w *world) idle() {
	for {
		switch {
		case w.thaw():
		case w.eager && w.clusterActs():
		case w.op.work():
		case w.clusterActs():
		default:
			return
		}
	}
}

func (w *world) thaw() bool {
	for kind, f := range w.frozen {
		if !f.until.After(w.clock.Now()) {
			delete(w.frozen, kind)
			for _, c := range f.held {
				w.op.wakeFor(c)
			}
			return true
		}
	}
	return false
}

// run lets time pass, from one due event to the next.
func (w *world) run(d time.Duration) {
	end := w.clock.Now().Add(d)
	for {
		w.idle()
		next, ok := w.nextDue()
		if !ok || next.After(end) {
			break
		}
		if next.After(w.clock.Now()) {
			w.clock.SetTime(next)
		}
		w.op.due()
	}
	if end.After(w.clock.Now()) {
		w.clock.SetTime(end)
	}
	w.op.due()
	w.idle()
}

// nextDue is when the next event is due.
func (w *world) nextDue() (time.Time, bool) {
	var next time.Time
	take := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, t := range w.op.timers {
		take(t)
	}
	for _, f := range w.frozen {
		take(f.until)
	}
	if t, ok := w.clusterDue(); ok {
		take(t)
	}
	return next, !next.IsZero()
}

// must fails the run: the story itself failed.
func (w *world) must(err error) {
	if err != nil {
		panic(fmt.Errorf("in the story: %w", err))
	}
}

func (w *world) add(author string, o client.Object) { w.must(w.create(author, o)) }

// remove deletes an object that may not exist.
func (w *world) remove(author string, k key) {
	w.must(client.IgnoreNotFound(w.delete(author, k, nil)))
}

// history is everything that happened, for people.
func (w *world) history() string {
	var out strings.Builder
	for _, line := range w.trace {
		if c, ok := line.(traced); ok && c.call.class == fromCache && c.fault == "" {
			continue
		}
		out.WriteString(line.String() + "\n")
	}
	return out.String()
}
