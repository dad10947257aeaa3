// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// wantsReissue has the annotation for a reissue.
func wantsReissue(value string) func(*Facts) {
	return func(f *Facts) {
		f.NodeBootstrap.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: value}
	}
}

// Last year's annotation, applied again with the NodeBootstrap, made a new credential for a healthy member.
func TestOldReissueReopensNoMember(t *testing.T) {
	stamp := func(age time.Duration) string { return now.Add(-age).Format(time.RFC3339) }
	created := time.Hour // ago
	works := worksSince(minutes(5))
	reported := func(f *Facts) {
		meta.SetStatusCondition(&f.NodeBootstrap.Status.Conditions, *meta.FindStatusCondition(joinedBefore().NodeBootstrap.Status.Conditions, v1alpha1.ConditionJoined))
		f.NodeBootstrap.Status.NodeUID = f.Node.UID
	}
	tests := map[string]struct {
		edit func(*Facts)
		due  bool
	}{
		"older, a member":                    {edits(works, wantsReissue(stamp(2*created))), false},
		"older by a second":                  {edits(works, wantsReissue(stamp(created+time.Second))), false},
		"in another zone":                    {edits(works, wantsReissue(now.Add(-2*created).In(time.FixedZone("", 7*3600)).Format(time.RFC3339))), false},
		"of the same second":                 {edits(works, wantsReissue(stamp(created))), true},
		"newer":                              {edits(works, wantsReissue(stamp(time.Minute))), true},
		"in the future":                      {edits(works, wantsReissue(stamp(-time.Hour))), true},
		"no time":                            {edits(works, wantsReissue("once more")), true},
		"a date only":                        {edits(works, wantsReissue("2020-01-01")), true},
		"older, and no Node":                 {wantsReissue(stamp(2 * created)), true},
		"older, and a Node made by hand":     {edits(works, func(f *Facts) { f.NodeReported = false }, wantsReissue(stamp(2*created))), true},
		"older, and no Lease":                {edits(works, func(f *Facts) { f.LeaseRenewed = time.Time{} }, wantsReissue(stamp(2*created))), true},
		"older, of a member that was known":  {edits(works, reported, wantsReissue(stamp(2*created))), true},
		"older, and another one was handled": {edits(works, func(f *Facts) { f.NodeBootstrap.Status.LastHandledReissueAt = "x" }, wantsReissue(stamp(2*created))), true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := fresh()
			tt.edit(f)
			if got := f.reissueDue(); got != tt.due {
				t.Fatalf("the reissue is due: %t, want %t", got, tt.due)
			}
			if tt.due {
				return
			}
			if !f.NeedsLive() {
				t.Error("the node is not looked at")
			}
			p := decide(f, now)
			if p.Phase != Joined || p.MintAfter != nil || p.Reissue {
				t.Fatalf("the plan is %+v", outlineOf(&p))
			}
			status := Report(f, &p, &Outcome{}, now)
			if status.LastHandledReissueAt != f.NodeBootstrap.Annotations[v1alpha1.ReissueRequestedAtAnnotation] || status.AwaitingSince != nil {
				t.Errorf("handled is %q, awaited since %v", status.LastHandledReissueAt, status.AwaitingSince)
			}
			var notes []string
			for _, e := range Events(&f.NodeBootstrap.Status, status) {
				notes = append(notes, e.Reason+" "+e.Note)
			}
			if got := strings.Join(notes, "\n"); !strings.Contains(got, "ReissueOutdated the reissue requested at "+status.LastHandledReissueAt) {
				t.Errorf("the events are %s", got)
			}
			f.NodeBootstrap.Status = *status
			f.Node = nil // the member is gone later: the annotation stays handled
			if f.reissueDue() {
				t.Error("it is due again")
			}
		})
	}
}

// A handled reissue of which the node joins says nothing of an outdated one.
func TestHandledReissueIsNotCalledOutdated(t *testing.T) {
	f := awaited(1, young)
	askReissue(f)
	before := f.NodeBootstrap.Status.DeepCopy()
	p := decide(f, now)
	o := published(2, 0)
	for _, e := range Events(before, Report(f, &p, &o, now)) {
		if e.Reason == v1alpha1.ReasonReissueOutdated {
			t.Error(e.Note)
		}
	}
}
