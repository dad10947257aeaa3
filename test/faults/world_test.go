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

// begin is when all runs begin. It is not a whole second, as times are not.
var begin = time.Date(2026, 3, 4, 5, 6, 7, 345_000_000, time.UTC)

// world is a cluster with the operator in it, and the run of a story.
type world struct {
	*store
	clock *clocktesting.FakePassiveClock
	op    *operator
	// flagServer is the operator's --cluster-server.
	flagServer string
	// skew is how far the API server's clock is ahead of the operator's, and kubectlAhead that of a person is ahead of it.
	skew, kubectlAhead time.Duration
	// signerDown says that kube-controller-manager does nothing about certificates; eager, that it collects garbage before
	// the operator gets to do anything.
	signerDown, eager bool
	// approved is the revision at which the approver had nothing to do: it takes a while to find that out.
	approved int

	changes     []change             // by revision, from 1 on
	frozen      map[string]*freeze   // by kind
	refused     map[string]time.Time // until when a right is gone, by call.right
	cutOffUntil time.Time

	admission    fault                // how admission control changes the present write
	admitted     time.Time            // when it did so last
	spoiledUntil map[string]time.Time // until when it spoils each write of a kind, by call.right
	writes       map[key]int          // of the operator, in the minute since writesSince
	writesSince  time.Time

	lagging bool // the API server answers a review by what it knew before the last change
	story   *story
	next    int // the step that comes next
	inStep  bool

	plan     map[string]fault // by call.id
	random   func(*call) fault
	happened []at
	// pointless says that a fault of the plan changed nothing, so that the run was given up.
	pointless bool
	// checking says that what is called now is no part of the story, and recording that the run is an undisturbed one.
	checking, recording bool
	counts              map[string]int // by call.what
	calls               []*call
	passes              int
	limit               int
	minute              time.Time // the present one
	inMinute            int       // calls in it
	trace               []fmt.Stringer
	said_               []saying
	told                []*call          // the calls of the story, without those of the checks after it
	rests               map[int][]string // what the cluster was like at rest, by the step that came next
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

// freeze is a cache of a kind that lags behind.
type freeze struct {
	revision int
	until    time.Time
	held     []change
}

// saying is what somebody may read who must not see secrets.
type saying struct{ where, text string }

// base is a new cluster, filled once: objects that are stored do not change any more.
var base = sync.OnceValue(func() *world {
	w := bareWorld()
	w.setUp()
	for _, versions := range w.versions {
		shown(versions[0])
	}
	return w
})

// newWorld is a world of its own with what is there in each.
func newWorld() *world {
	w, b := bareWorld(), base()
	w.revision, w.changes, w.trace = b.revision, slices.Clone(b.changes), slices.Clone(b.trace)
	for k, versions := range b.versions {
		w.versions[k], w.made[k] = slices.Clone(versions), b.made[k]
	}
	for kind, keys := range b.kinds {
		w.kinds[kind] = slices.Clone(keys)
	}
	maps.Copy(w.Foreign, b.Foreign)
	maps.Copy(w.Parts, b.Parts)
	return w
}

// manyCalls are far more than any undisturbed story has, and manyInAMinute are more than there is reason for in one minute of
// any history: a cache that lags for cacheLag may cost ten passes, and a series of failures as many.
const manyCalls, manyInAMinute = 1_000_000, 2_000

func bareWorld() *world {
	w := &world{flagServer: "https://api.example.com:6443", clock: clocktesting.NewFakePassiveClock(begin), counts: map[string]int{}, refused: map[string]time.Time{}, spoiledUntil: map[string]time.Time{}, limit: manyCalls, rests: map[int][]string{}}
	w.store = newStore(func() time.Time { return w.clock.Now().Add(w.skew) })
	w.changed, w.admits = w.onChange, w.admit
	w.rules = w.newRules()
	return w
}

// seen is the revision that a cache of a kind is at.
func (w *world) seen(kind string) int {
	if f := w.frozen[kind]; f != nil {
		return f.revision
	}
	return w.revision
}

// freeze has the cache of a kind stay as it was at a revision for cacheLag.
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
	w.passes++
	w.trace = append(w.trace, note(fmt.Sprintf("   pass %d: %s %s", w.passes, i.controller, i.name)))
	w.passBegins()
}

func (w *world) ends(i item, err error) { w.passEnds(i, err) }

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

// run lets time go by, from one thing that is due to the next.
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

// nextDue is when something happens by itself.
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

// must fails the run: the story itself went wrong.
func (w *world) must(err error) {
	if err != nil {
		panic(fmt.Errorf("in the story: %w", err))
	}
}

func (w *world) add(author string, o client.Object) { w.must(w.create(author, o)) }

// remove deletes what may be gone.
func (w *world) remove(author string, k key) {
	w.must(client.IgnoreNotFound(w.delete(author, k, nil)))
}

// history is all that happened, for people.
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
