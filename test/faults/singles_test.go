// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"flag"
	"maps"
	"strings"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

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
			if !*allFaults && s.name != mainStory.name {
				random.Shuffle(len(plan), func(i, j int) { plan[i], plan[j] = plan[j], plan[i] })
				plan = plan[:len(plan)/4]
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
