// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// looks are how often each invariant had something to check: approvals, tokens and kubeconfigs that were written,
// ends, other writes, texts, calls.
type looks [len(invariants.Names)]int

// tally counts, for each fault, the runs in which it happened, and those of them in which there was something to check.
type tally struct {
	mu   sync.Mutex
	runs map[fault]int
	with map[fault]*looks
	all  looks
}

// add counts a run.
func (t *tally) add(w *world) {
	run := tally{runs: map[fault]int{}, with: map[fault]*looks{}, all: w.Checked}
	for _, a := range w.happened {
		run.runs[a.fault], run.with[a.fault] = 1, &looks{}
		for i, n := range w.Checked {
			run.with[a.fault][i] = min(n, 1)
		}
	}
	t.join(&run)
}

// join adds the counts of another one.
func (t *tally) join(o *tally) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.runs == nil {
		t.runs, t.with = map[fault]int{}, map[fault]*looks{}
	}
	for f, n := range o.runs {
		if t.runs[f] += n; t.with[f] == nil {
			t.with[f] = &looks{}
		}
		for i, n := range o.with[f] {
			t.with[f][i] += n
		}
	}
	for i, n := range o.all {
		t.all[i] += n
	}
}

// String is a table for docs/reliability.md.
func (t *tally) String() string {
	var out strings.Builder
	out.WriteString("| fault | runs |")
	for i, name := range invariants.Names[1:] {
		fmt.Fprintf(&out, " %d %s |", i+1, name)
	}
	out.WriteString("\n|" + strings.Repeat(" --- |", len(invariants.Names)+1) + "\n")
	for _, f := range slices.Sorted(maps.Keys(t.runs)) {
		fmt.Fprintf(&out, "| %s | %d |", f, t.runs[f])
		for _, n := range t.with[f][1:] {
			fmt.Fprintf(&out, " %d |", n)
		}
		out.WriteString("\n")
	}
	out.WriteString("| looked at | |")
	for _, n := range t.all[1:] {
		fmt.Fprintf(&out, " %d |", n)
	}
	return out.String()
}
