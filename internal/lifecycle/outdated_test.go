// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

// wantsReissue sets the annotation for a reissue.
func wantsReissue(value string) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) {
		f.NodeBootstrap.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: value}
	}
}

// Last year's annotation, applied again with the NodeBootstrap, created a new credential for a healthy member.
func TestOldReissueReopensNoMember(t *testing.T) {
	stamp := func(age time.Duration) string { return nodetest.Now.Add(-age).Format(time.RFC3339) }
	created := time.Hour // ago
	works := nodetest.WorksSince(nodetest.Minutes(5))
	reported := func(f *lifecycle.Facts) {
		meta.SetStatusCondition(&f.NodeBootstrap.Status.Conditions, *meta.FindStatusCondition(nodetest.JoinedBefore().NodeBootstrap.Status.Conditions, v1alpha1.ConditionJoined))
		f.NodeBootstrap.Status.NodeUID = f.Node.UID
	}
	tests := map[string]struct {
		edit func(*lifecycle.Facts)
		due  bool
	}{
		"older, a member":                    {nodetest.Edits(works, wantsReissue(stamp(2*created))), false},
		"older by a second":                  {nodetest.Edits(works, wantsReissue(stamp(created+time.Second))), false},
		"in another zone":                    {nodetest.Edits(works, wantsReissue(nodetest.Now.Add(-2*created).In(time.FixedZone("", 7*3600)).Format(time.RFC3339))), false},
		"of the same second":                 {nodetest.Edits(works, wantsReissue(stamp(created))), true},
		"newer":                              {nodetest.Edits(works, wantsReissue(stamp(time.Minute))), true},
		"in the future":                      {nodetest.Edits(works, wantsReissue(stamp(-time.Hour))), true},
		"no time":                            {nodetest.Edits(works, wantsReissue("once more")), true},
		"a date only":                        {nodetest.Edits(works, wantsReissue("2020-01-01")), true},
		"older, and no Node":                 {wantsReissue(stamp(2 * created)), true},
		"older, and a Node created by hand":  {nodetest.Edits(works, func(f *lifecycle.Facts) { f.NodeReported = false }, wantsReissue(stamp(2*created))), true},
		"older, and no Lease":                {nodetest.Edits(works, func(f *lifecycle.Facts) { f.LeaseRenewed = time.Time{} }, wantsReissue(stamp(2*created))), true},
		"older, of a member that was known":  {nodetest.Edits(works, reported, wantsReissue(stamp(2*created))), true},
		"older, and another one was handled": {nodetest.Edits(works, func(f *lifecycle.Facts) { f.NodeBootstrap.Status.LastHandledReissueAt = "x" }, wantsReissue(stamp(2*created))), true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Fresh()
			tt.edit(f)
			if got := f.ReissueDue(); got != tt.due {
				t.Fatalf("the reissue is due: %t, want %t", got, tt.due)
			}
			if tt.due {
				return
			}
			if !f.NeedsLive() {
				t.Error("the Node is not read")
			}
			p := nodetest.Decide(f, nodetest.Now)
			if p.Phase != lifecycle.Joined || p.MintReason != "" || p.Reissue {
				t.Fatalf("the plan is %+v", nodetest.OutlineOf(&p))
			}
			s := status.Report(f, &p, &status.Outcome{}, nodetest.Now)
			if s.LastHandledReissueAt != f.NodeBootstrap.Annotations[v1alpha1.ReissueRequestedAtAnnotation] || s.AwaitingSince != nil {
				t.Errorf("handled is %q, awaited since %v", s.LastHandledReissueAt, s.AwaitingSince)
			}
			var notes []string
			for _, e := range status.Events(&f.NodeBootstrap.Status, s) {
				notes = append(notes, e.Reason+" "+e.Note)
			}
			if got := strings.Join(notes, "\n"); !strings.Contains(got, "ReissueOutdated the reissue requested at "+s.LastHandledReissueAt) {
				t.Errorf("the events are %s", got)
			}
			f.NodeBootstrap.Status = *s
			f.Node = nil // the Node is deleted later: the annotation stays handled
			if f.ReissueDue() {
				t.Error("it is due again")
			}
		})
	}
}
