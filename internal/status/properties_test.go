// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// settle carries plans out until they are empty. The second reconcile may find that the node has joined, by the status that the first one
// stored; a third must not be needed.
func settle(t *testing.T, seed int, f *lifecycle.Facts) (lifecycle.Plan, *status.Outcome) {
	t.Helper()
	var p lifecycle.Plan
	var o *status.Outcome
	var outlines []nodetest.Outline
	for n := range 3 {
		var before *v1alpha1.NodeBootstrapStatus
		if f.NodeBootstrap != nil {
			before = f.NodeBootstrap.Status.DeepCopy()
		}
		var events []status.Event
		p, o, events = reconcile(f)
		outlines = append(outlines, nodetest.OutlineOf(&p))
		if live := liveTokens(f); live > 2 {
			t.Errorf("seed %d: %d tokens live after %+v", seed, live, outlines)
		}
		if before != nil {
			checkAlarm(t, fmt.Sprintf("seed %d, reconcile %d", seed, n), before, &f.NodeBootstrap.Status, &p, events)
		}
	}
	last := outlines[2]
	done := nodetest.Outline{Phase: last.Phase, Problem: last.Problem, Token: last.Token, Reissue: last.Problem != "" && last.Reissue}
	if p.Serving != nil && p.Serving.Verdict == csr.Wait {
		done.Serving = last.Serving
	}
	if last != done {
		t.Errorf("seed %d: it does not end: %+v", seed, outlines)
	}
	return p, o
}

// Carrying out plans ends with nothing left to do, from any state of the cluster.
func TestDecideEndsWhereNothingIsLeftToDo(t *testing.T) {
	nodetest.States(nodetest.ManyStates, func(seed int, f *lifecycle.Facts) {
		p, o := settle(t, seed, f)
		if f.NodeBootstrap == nil {
			if len(f.TokenSecrets) > 0 {
				t.Errorf("seed %d: a token is left without a NodeBootstrap", seed)
			}
			return
		}
		live := liveTokens(f)
		switch {
		case p.Phase == lifecycle.Awaited && p.Problem == nil && !p.MayBeMember && (live < 1 || live > 2 || !o.Published),
			p.Phase != lifecycle.Awaited && live > 0, p.Phase == lifecycle.Withdrawn && f.Kubeconfig != nil && owned.Ours(f.Kubeconfig, f.Name):
			t.Errorf("seed %d: %d tokens are live at the end: %+v", seed, live, nodetest.OutlineOf(&p))
		}
		before := f.NodeBootstrap.Status.DeepCopy()
		after := status.Report(f, &p, o, nodetest.Now)
		if got, want := nodetest.AsJSON(after), nodetest.AsJSON(before); got != want {
			t.Errorf("seed %d: the status flaps from\n%s to\n%s", seed, want, got)
		}
		if events := status.Events(before, after); len(events) > 0 {
			t.Errorf("seed %d: reported again: %v", seed, events)
		}
	})
}

// checkAlarm fails unless an alarm is raised only for evidence, stays as it was first raised until a reissue is handled, and is reported
// once. It checks one reconcile.
func checkAlarm(t *testing.T, where string, before, after *v1alpha1.NodeBootstrapStatus, p *lifecycle.Plan, events []status.Event) {
	t.Helper()
	was, is := nodetest.AlarmOf(before), nodetest.AlarmOf(after)
	handled := after.LastHandledReissueAt != before.LastHandledReissueAt
	switch {
	case is != nil && (is.Status != metav1.ConditionTrue || is.Message == "" || !decisions.Misuse(is.Reason)):
		t.Errorf("%s: the alarm is incomplete: %+v", where, is)
	case p.Misuse != nil && is == nil:
		t.Errorf("%s: evidence but no alarm", where)
	case was != nil && !handled && (is == nil || *is != *was):
		t.Errorf("%s: a raised alarm became %+v", where, is)
	case handled && p.Misuse == nil && is != nil:
		t.Errorf("%s: a reissue was handled and the alarm is still raised", where)
	case was == nil && p.Misuse == nil && is != nil:
		t.Errorf("%s: an alarm without evidence: %+v", where, is)
	}
	raisedEvents := 0
	for _, e := range events {
		if e.Reason == v1alpha1.ReasonTokenMisused {
			raisedEvents++
		}
	}
	if raised := was == nil && is != nil; raised && raisedEvents != 1 || !raised && raisedEvents > 0 && was == nil {
		t.Errorf("%s: %d events for an alarm that was %v and is %v", where, raisedEvents, was != nil, is != nil)
	}
}

// end describes the final state in words that do not depend on the steps to it.
func end(f *lifecycle.Facts) string {
	out := []string{fmt.Sprint("tokens: ", len(f.TokenSecrets))}
	for _, r := range slices.Concat(f.Requests, f.ServingRequests) {
		_, approved := csr.ApprovedAt(r)
		if approved || csr.Undecided(r) { // CSRs of a deleted token may have been denied or deleted: both are fine
			out = append(out, fmt.Sprint(r.Name, " approved: ", approved))
		}
	}
	s := f.NodeBootstrap.Status
	for _, c := range s.Conditions {
		out = append(out, fmt.Sprint(c.Type, " ", c.Status, " ", c.Reason))
	}
	for _, d := range s.Certificates {
		out = append(out, d.Name+" "+string(d.Verdict)+" "+d.Reason)
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// A crash between two steps of carrying out a plan leads to the same end state as an undisturbed run.
func TestCrashesLeadToTheSameEnd(t *testing.T) {
	steps := []func(*lifecycle.Facts, *lifecycle.Plan){nodetest.Claim, revoke, func(_ *lifecycle.Facts, p *lifecycle.Plan) { carryOutVerdicts(p) }}
	for seed := range nodetest.ManyStates / 4 {
		f := nodetest.State(seed)
		if f.NodeBootstrap == nil {
			continue
		}
		for range 4 {
			reconcile(f)
		}
		want := end(f)
		done := 1 + seed%len(steps) // how many steps are done before the crash
		f = nodetest.State(seed)
		p := nodetest.Decide(f, nodetest.Now)
		for _, step := range steps[:done] {
			step(f, &p)
		}
		for range 4 {
			reconcile(f)
		}
		if got := end(f); got != want {
			t.Errorf("seed %d, crashed after %d steps of %+v: got\n%s\n\nwant\n%s", seed, done, nodetest.OutlineOf(&p), got, want)
		}
	}
}

// A second report on the same facts is the same: the first one was complete.
func TestReportSaysTheSameTwice(t *testing.T) {
	for seed := range nodetest.ManyStates / 4 {
		f := nodetest.State(seed)
		if f.NodeBootstrap == nil {
			continue
		}
		p := nodetest.Decide(f, nodetest.Now)
		if p.Reissue { // which is handled once
			continue
		}
		o := &status.Outcome{Token: p.Token, Published: p.Token != nil, Acceptance: status.Accepted}
		first := status.Report(f, &p, o, nodetest.Now)
		f.NodeBootstrap.Status = *first
		slices.Reverse(f.Requests)
		slices.Reverse(f.ServingRequests)
		if got, want := nodetest.AsJSON(status.Report(f, &p, o, nodetest.Now)), nodetest.AsJSON(first); got != want {
			t.Errorf("seed %d: after %+v the status goes from\n%s to\n%s", seed, nodetest.OutlineOf(&p), want, got)
		}
	}
}

func liveTokens(f *lifecycle.Facts) int {
	live := 0
	for _, s := range f.TokenSecrets {
		if made, ok := token.Parse(s); ok && made.Live(nodetest.Now) {
			live++
		}
	}
	return live
}
