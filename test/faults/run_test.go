// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// reference is an undisturbed run.
type reference struct {
	story story
	calls []*call
	ends  map[int][]string
	// hopeless are the moments at which the next step of the story is not possible yet.
	hopeless sync.Map
}

// moment is a point at which nothing has changed since: the calls of one moment differ only in earlier reads.
type moment struct{ revision, next int }

// undisturbed runs a story without faults, which must succeed.
func undisturbed(t *testing.T, s story) *reference {
	t.Helper()
	w := runStory(s, nil, manyCalls, nil)
	if len(w.violations) > 0 {
		t.Fatalf("%s, undisturbed: %s\n%s", s.name, strings.Join(w.violations, "\n"), w.history())
	}
	return &reference{story: s, calls: w.storyCalls, ends: w.rests}
}

// A run with faults can have so many times as many calls as the undisturbed one, plus some: a cache that lags for
// cacheLag costs ten reconciles after a conflict.
const manyTimes, someMore = 2, 400

// runStory runs a story with faults and checks the invariants; want is the end state of the undisturbed run.
func runStory(s story, plan []at, limit int, want map[int][]string) *world {
	w := newWorld()
	w.limit = limit
	w.recording = len(plan) == 0
	w.plan = map[string]fault{}
	for _, p := range plan {
		w.plan[p.id] = p.fault
	}
	if slices.ContainsFunc(plan, at.leadsElsewhere) {
		want = nil
	}
	w.caught(func() {
		w.play(s)
		w.storyCalls = slices.Clone(w.calls)
		for step, state := range w.rests {
			if d := difference(want[step], state); want != nil && d != "" {
				w.violated(invariants.SameEnd.Violated("before step %d\n%s", step+1, d))
			}
		}
		w.CheckNothingLeft(int64(w.revision))
		w.checkLeaks()
		w.checkRecord()
		w.checkCaches()
	})
	return w
}

// caught runs a function and recovers its panic.
func (w *world) caught(do func()) {
	defer func() {
		switch r := thrown(recover()); r {
		case nil:
		case pointless{}:
			w.pointless = true
		case endless{}:
			w.violated(invariants.Bounded.Violated("there are more than %d, or %d in a minute", w.limit, manyInAMinute))
		default:
			w.violated(fmt.Sprintf("the operator panics: %v", r))
		}
	}()
	do()
}

// disturbed runs a story with faults and returns the first violation.
func (r *reference) disturbed(plan ...at) (*world, string) {
	var now moment
	if i := slices.IndexFunc(r.calls, func(c *call) bool { return len(plan) > 0 && plan[0].fault == ahead && c.id == plan[0].id }); i >= 0 {
		now = moment{r.calls[i].at, r.calls[i].next}
	}
	if _, ok := r.hopeless.Load(now); ok {
		return &world{pointless: true}, ""
	}
	w := runStory(r.story, plan, manyTimes*len(r.calls)+someMore, r.ends)
	if w.pointless && len(plan) == 1 && now != (moment{}) {
		r.hopeless.Store(now, true)
	}
	if len(w.violations) == 0 || w.pointless {
		return w, ""
	}
	var out strings.Builder
	fmt.Fprintf(&out, "story %q with", r.story.name)
	for _, p := range plan {
		fmt.Fprintf(&out, " [%s]", p)
	}
	fmt.Fprintf(&out, ":\n%s\n", strings.Join(w.violations, "\n"))
	var args []string
	for _, p := range plan {
		args = append(args, p.String())
	}
	fmt.Fprintf(&out, "again: go test ./test/faults -run TestReplay -faults.story='%s' -faults.at='%s'\n", r.story.name, strings.Join(args, "; "))
	return w, out.String()
}

// maxReported is how many failures of a test are printed, because one bug causes many.
const maxReported = 20

// reporter counts runs of many goroutines and prints the first failures.
type reporter struct {
	t            *testing.T
	mu           sync.Mutex
	runs, failed int
	secrets      map[string]string // of all runs
	tally        tally
}

func (r *reporter) ran(w *world, failure string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.secrets == nil {
		r.secrets = map[string]string{}
	}
	if !w.pointless {
		r.runs++
		r.tally.add(w)
		maps.Copy(r.secrets, w.Parts)
	}
	if failure == "" {
		return
	}
	if r.failed++; r.failed <= maxReported {
		r.t.Error(failure)
	}
}

// inParallel runs jobs on all processors.
func inParallel[T any](jobs []T, do func(T)) {
	todo := make(chan T)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for job := range todo {
				do(job)
			}
		})
	}
	for _, job := range jobs {
		todo <- job
	}
	close(todo)
	workers.Wait()
}
