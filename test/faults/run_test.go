// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
		w.checkOutliving()
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

var (
	replayStory = flag.String("faults.story", "", "the story of TestReplay")
	replayAt    = flag.String("faults.at", "", "the faults of TestReplay, separated by semicolons; empty for none")
)

// TestReplay runs a story with given faults and prints everything that happens.
func TestReplay(t *testing.T) {
	if *replayStory == "" {
		t.Skip("replays what -faults.story and -faults.at say")
	}
	for _, s := range allStories {
		if s.name != *replayStory {
			continue
		}
		var plan []at
		for text := range strings.SplitSeq(*replayAt, "; ") {
			var a at
			if text == "" {
				continue
			}
			if err := a.parse(text); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, a)
		}
		w, failure := undisturbed(t, s).disturbed(plan...)
		t.Log(w.history())
		if failure != "" {
			t.Error(failure)
		}
	}
}

var allFaults = flag.Bool("faults.all", false, "whether TestSingleFaults does all runs, and not a quarter of those of each story but the main one")

// TestSingleFaults disturbs each call of each story in each way that applies to it.
func TestSingleFaults(t *testing.T) {
	total, secrets := 0, map[string]string{}
	var all tally
	random := seeded()
	for _, s := range allStories {
		t.Run(s.name, func(t *testing.T) {
			r := undisturbed(t, s)
			plan := r.plan(r.calls, faultsOf)
			switch {
			case *allFaults:
			case testing.Short():
				plan = sample(random, plan, len(plan)/100)
			case s.name != mainStory.name:
				plan = sample(random, plan, len(plan)/4)
			}
			report := reporter{t: t}
			inParallel(plan, func(a at) { report.ran(r.disturbed(a)) })
			total += report.runs
			all.join(&report.tally)
			maps.Copy(secrets, report.secrets)
			t.Logf("%d calls of the operator, %d runs with a fault, %d failed", len(r.calls), report.runs, report.failed)
		})
	}
	text := gathered(t)
	for _, found := range invariants.CanariesOf(secrets).In([]byte(text)) {
		t.Error(invariants.Secrets.Violated("the metrics have %s: %s", found.Name, found.Around))
	}
	t.Logf("%d stories, %d runs, %d tokens whose secret parts are in no log, event, status, metric or error; -faults.seed=%d", len(allStories), total, len(secrets), *seed)
	t.Logf("runs with each fault, and those in which an invariant had something to check:\n%s", &all)
}

// gathered is the text of all metrics.
func gathered(t *testing.T) string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, f := range families {
		out.WriteString(f.String() + "\n")
	}
	if !strings.Contains(out.String(), "nodebootstrap_certificate_decisions_total") {
		t.Error("there are no metrics of the operator's own: is this the right registry?")
	}
	return out.String()
}

// plan is each fault of each call that is to be tested.
func (r *reference) plan(calls []*call, faultsOf func(*call) []fault) []at {
	var out []at
	for _, c := range calls {
		for _, f := range faultsOf(c) {
			if a := (at{c.id, f}); r.story.except == nil || !r.story.except(a) {
				out = append(out, a)
			}
		}
	}
	return out
}

var (
	pairs = flag.Int("faults.pairs", 600, "how many pairs of faults TestPairsOfFaults tries; all with -1")
	seed  = flag.Uint64("faults.seed", 0, "what samples are chosen by; 0 chooses again")
)

// seeded chooses samples by -faults.seed.
func seeded() *rand.Rand {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	return rand.New(rand.NewPCG(*seed, 0))
}

// sample chooses n of a plan, which it shuffles.
func sample[T any](random *rand.Rand, plan []T, n int) []T {
	random.Shuffle(len(plan), func(i, j int) { plan[i], plan[j] = plan[j], plan[i] })
	return plan[:min(len(plan), n)]
}

// fewer is a fortieth of a number of runs in make test-fast.
func fewer(runs int) int {
	if testing.Short() {
		return runs / 40
	}
	return runs
}

// someFailuresOf are the faults of a call that pairs consist of.
func someFailuresOf(c *call) []fault { return some(c, failuresOf(c)) }

// TestPairsOfFaults disturbs two calls of the main story: one of the undisturbed run, and then one of the following calls
// of the disturbed run, which may be others.
func TestPairsOfFaults(t *testing.T) {
	random := seeded()
	r := undisturbed(t, mainStory)
	first := r.plan(r.calls, someFailuresOf)
	each := -1
	if *pairs >= 0 {
		const ofOne = 4
		first, each = sample(random, first, fewer(*pairs)/ofOne), ofOne
	}
	type job struct {
		first at
		seed  uint64
	}
	var jobs []job
	for _, a := range first {
		jobs = append(jobs, job{a, random.Uint64()})
	}
	report := reporter{t: t}
	var all atomic.Int64
	inParallel(jobs, func(j job) {
		w, failure := r.disturbed(j.first)
		if failure != "" { // TestSingleFaults reports it
			return
		}
		begun := slices.IndexFunc(w.storyCalls, func(c *call) bool { return c.id == j.first.id })
		second := r.plan(w.storyCalls[begun+1:], someFailuresOf)
		all.Add(int64(len(second)))
		if each >= 0 {
			random := rand.New(rand.NewPCG(j.seed, 0))
			random.Shuffle(len(second), func(i, k int) { second[i], second[k] = second[k], second[i] })
			second = second[:min(each, len(second))]
		}
		for _, a := range second {
			report.ran(r.disturbed(j.first, a))
		}
	})
	t.Logf("%d faults that come first, %d of %d runs with two faults, %d failed; -faults.seed=%d", len(first), report.runs, all.Load(), report.failed, *seed)
	t.Logf("runs with each fault, and those in which an invariant had something to check:\n%s", &report.tally)
}
