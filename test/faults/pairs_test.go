// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"flag"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
)

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
		random.Shuffle(len(first), func(i, j int) { first[i], first[j] = first[j], first[i] })
		const ofOne = 4
		first, each = first[:min(len(first), *pairs/ofOne)], ofOne
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
