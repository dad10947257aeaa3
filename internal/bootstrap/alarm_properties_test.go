// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

func alarmOf(s *v1alpha1.NodeBootstrapStatus) *metav1.Condition {
	return meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionTokenMisused)
}

// checkAlarm fails unless an alarm is raised for evidence alone, stays as it was first raised until a reissue is handled, and
// people are told of it once. It looks at one pass.
func checkAlarm(t *testing.T, where string, before, after *v1alpha1.NodeBootstrapStatus, p *Plan, events []Event) {
	t.Helper()
	was, is := alarmOf(before), alarmOf(after)
	handled := after.LastHandledReissueAt != before.LastHandledReissueAt
	switch {
	case is != nil && (is.Status != metav1.ConditionTrue || is.Message == "" || !Misuse(is.Reason)):
		t.Errorf("%s: the alarm is incomplete: %+v", where, is)
	case p.Misuse != nil && is == nil:
		t.Errorf("%s: there is evidence and no alarm", where)
	case was != nil && !handled && (is == nil || *is != *was):
		t.Errorf("%s: an alarm stood and is %+v", where, is)
	case handled && p.Misuse == nil && is != nil:
		t.Errorf("%s: a reissue was handled and the alarm stands", where)
	case was == nil && p.Misuse == nil && is != nil:
		t.Errorf("%s: an alarm without evidence: %+v", where, is)
	}
	told := 0
	for _, e := range events {
		if e.Reason == v1alpha1.ReasonTokenMisused {
			told++
		}
	}
	if raised := was == nil && is != nil; raised && told != 1 || !raised && told > 0 && was == nil {
		t.Errorf("%s: told %d times of an alarm that was %v and is %v", where, told, was != nil, is != nil)
	}
}

// end is what there is when nothing is left to do, in words that do not depend on the way there.
func end(f *Facts) string {
	out := []string{fmt.Sprint("tokens: ", len(f.TokenSecrets))}
	for _, r := range slices.Concat(f.Requests, f.ServingRequests) {
		_, approved := approvedAt(r)
		if approved || undecided(r) { // those of a token that is gone may have been denied or deleted: it is the same
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

// A crash between two steps of carrying out a plan leads to the same end as an undisturbed run.
func TestCrashesLeadToTheSameEnd(t *testing.T) {
	steps := []func(*Facts, *Plan){claim, revoke, func(_ *Facts, p *Plan) { carryOutVerdicts(p) }}
	for seed := range manyStates / 4 {
		f := state(seed)
		if f.NodeBootstrap == nil {
			continue
		}
		for range 4 {
			pass(f)
		}
		want := end(f)
		done := 1 + seed%len(steps) // how many steps are done before the crash
		f = state(seed)
		p := decide(f, now)
		for _, step := range steps[:done] {
			step(f, &p)
		}
		for range 4 {
			pass(f)
		}
		if got := end(f); got != want {
			t.Errorf("seed %d, crashed after %d steps of %+v: got\n%s\n\nwant\n%s", seed, done, outlineOf(&p), got, want)
		}
	}
}

// What a crash after the claim leaves is not decided on differently, whatever became of the token since.
func TestClaimsSurviveTheirToken(t *testing.T) {
	for seed := range manyStates / 4 {
		f := state(seed)
		if f.NodeBootstrap == nil {
			continue
		}
		p := decide(f, now)
		claim(f, &p)
		f.TokenSecrets = []*corev1.Secret{}
		again := decide(f, now)
		if n := len(ofTokens(&again)); n > 0 || again.Misuse != nil {
			t.Errorf("seed %d: no token is left and %d requests are decided on: %+v", seed, n, outlineOf(&again))
		}
		if was := alarmOf(&f.NodeBootstrap.Status); was != nil && !f.reissueDue() && !clusterWide(f) && again.Phase == Awaited {
			t.Errorf("seed %d: an alarm stands and there is to be a token: %+v", seed, outlineOf(&again))
		}
	}
}

// A report on the same facts says the same: what it wrote is all that there is to say.
func TestReportSaysTheSameTwice(t *testing.T) {
	for seed := range manyStates / 4 {
		f := state(seed)
		if f.NodeBootstrap == nil {
			continue
		}
		p := decide(f, now)
		if p.Reissue { // which is handled once
			continue
		}
		o := &Outcome{Token: p.Token, Published: p.Token != nil, Acceptance: Accepted}
		first := Report(f, &p, o, now)
		f.NodeBootstrap.Status = *first
		slices.Reverse(f.Requests)
		slices.Reverse(f.ServingRequests)
		if got, want := asJSON(Report(f, &p, o, now)), asJSON(first); got != want {
			t.Errorf("seed %d: after %+v the status goes from\n%s to\n%s", seed, outlineOf(&p), want, got)
		}
	}
}
