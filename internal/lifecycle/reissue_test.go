// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
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

func TestAlive(t *testing.T) {
	byOthers := func(age time.Duration) func(*lifecycle.Facts) {
		return func(f *lifecycle.Facts) {
			f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-b", 2, age, nodetest.Approved(age), nodetest.WithCertificate)}
		}
	}
	manual := nodetest.Approval(v1alpha1.ApprovalManual)
	wait := nodetest.ReissuedSince(nodetest.Minutes(1))
	tests := map[string]struct {
		edit func(*lifecycle.Facts)
		want bool
	}{
		"renewed since, no CSR":                {nodetest.Edits(wait, nodetest.LeaseOf(nodetest.Minutes(1)-time.Second)), true},
		"renewed in the second of the reissue": {nodetest.Edits(wait, nodetest.LeaseOf(nodetest.Minutes(1)-999*time.Millisecond)), false},
		"renewed before":                       {nodetest.Edits(wait, nodetest.LeaseOf(2*time.Minute)), false},
		"never renewed":                        {nodetest.Edits(wait, func(f *lifecycle.Facts) { f.LeaseRenewed = time.Time{} }), false},
		"renewed before the approval":          {nodetest.Edits(wait, nodetest.LeaseOf(31*time.Second), nodetest.ApprovedSince(30*time.Second)), true},
		"renewed in the approval's second":     {nodetest.Edits(wait, nodetest.LeaseOf(30*time.Second), nodetest.ApprovedSince(30*time.Second)), false},
		"renewed after it":                     {nodetest.Edits(wait, nodetest.LeaseOf(20*time.Second), nodetest.ApprovedSince(30*time.Second)), false},
		"claimed, and not approved yet":        {nodetest.Edits(wait, nodetest.LeaseOf(20*time.Second), nodetest.ApprovedSince(30*time.Second), nodetest.NoRequests), false},
		"approved by others before":            {nodetest.Edits(wait, manual, nodetest.LeaseOf(20*time.Second), byOthers(30*time.Second)), false},
		"approved by others after":             {nodetest.Edits(wait, manual, nodetest.LeaseOf(40*time.Second), byOthers(30*time.Second)), true},
		"Manual, the cache may lag":            {nodetest.Edits(wait, manual, nodetest.LeaseOf(2*time.Second)), false},
		"Manual, it does not lag":              {nodetest.Edits(wait, manual, nodetest.LeaseOf(10*time.Second)), true},
		"noted before": {nodetest.Edits(wait, nodetest.LeaseOf(0), nodetest.ApprovedSince(30*time.Second), func(f *lifecycle.Facts) {
			f.NodeBootstrap.Status.NodeAliveTime = new(nodetest.Ago(nodetest.Minutes(1)))
		}), true},
		"another reissue is due": {nodetest.Edits(wait, nodetest.LeaseOf(10*time.Second), func(f *lifecycle.Facts) { f.NodeBootstrap.Annotations[v1alpha1.ReissueRequestedAtAnnotation] = "again" }), false},
		"another Node":           {nodetest.Edits(wait, nodetest.LeaseOf(10*time.Second), func(f *lifecycle.Facts) { f.Node = nodetest.NodeMade(nodetest.Minutes(5)) }), false},
		"no Node":                {nodetest.Edits(wait, nodetest.LeaseOf(10*time.Second), func(f *lifecycle.Facts) { f.Node = nil }), false},
		"no reissue":             {nodetest.Edits(wait, nodetest.LeaseOf(10*time.Second), func(f *lifecycle.Facts) { f.NodeBootstrap.Status.LastHandledReissueAt = "" }), false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Reissued()
			tt.edit(f)
			f.UpgradeStatus()
			if got := f.Alive(nodetest.Now); (got != nil) != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// The old kubelet's Lease does not prove that the new certificate is used.
func TestJoinedAfterAReissue(t *testing.T) {
	alive := func(f *lifecycle.Facts) {
		f.NodeBootstrap.Status.NodeAliveTime = new(nodetest.Ago(nodetest.Minutes(4)))
	}
	long, short := nodetest.ReissuedSince(nodetest.Minutes(5)), nodetest.ReissuedSince(nodetest.Minutes(2)+19*time.Second)
	byOthers := func(f *lifecycle.Facts) { f.NodeBootstrap.Status.Certificates = nil }
	another := func(f *lifecycle.Facts) { f.Node = nodetest.NodeMade(nodetest.Minutes(2)) }
	tests := map[string]struct {
		edit func(*lifecycle.Facts)
		want bool
	}{
		"silent, a second after":             {nodetest.Edits(long, nodetest.ApprovedSince(nodetest.Minutes(2)), nodetest.LeaseOf(nodetest.Minutes(2)-time.Second)), true},
		"silent, the same second":            {nodetest.Edits(long, nodetest.ApprovedSince(nodetest.Minutes(2)), nodetest.LeaseOf(nodetest.Minutes(2))), false},
		"silent for 20 seconds":              {nodetest.Edits(nodetest.ReissuedSince(nodetest.Minutes(2)+20*time.Second), nodetest.ApprovedSince(nodetest.Minutes(2)), nodetest.LeaseOf(nodetest.Minutes(1)+time.Second)), true},
		"silent, with a pinned key":          {nodetest.Edits(long, nodetest.Pins("csr-b"), nodetest.ApprovedSince(nodetest.Minutes(2)), nodetest.LeaseOf(nodetest.Minutes(1)+time.Second)), false},
		"the same, a minute after":           {nodetest.Edits(long, nodetest.Pins("csr-b"), nodetest.ApprovedSince(nodetest.Minutes(2)), nodetest.LeaseOf(nodetest.Minutes(1))), true},
		"approved too soon to know":          {nodetest.Edits(short, nodetest.ApprovedSince(nodetest.Minutes(2)), nodetest.LeaseOf(nodetest.Minutes(1)+time.Second)), false},
		"the same, a minute later":           {nodetest.Edits(short, nodetest.ApprovedSince(nodetest.Minutes(2)), nodetest.LeaseOf(nodetest.Minutes(1))), true},
		"approved by others":                 {nodetest.Edits(long, nodetest.ApprovedSince(nodetest.Minutes(2)), byOthers, nodetest.LeaseOf(nodetest.Minutes(1)+time.Second)), false},
		"the same, a minute later than that": {nodetest.Edits(long, nodetest.ApprovedSince(nodetest.Minutes(2)), byOthers, nodetest.LeaseOf(nodetest.Minutes(1))), true},
		"alive, a second after":              {nodetest.Edits(long, alive, nodetest.ApprovedSince(nodetest.Minutes(2)), nodetest.LeaseOf(nodetest.Minutes(2)-time.Second)), false},
		"alive, within a minute":             {nodetest.Edits(long, alive, nodetest.ApprovedSince(nodetest.Minutes(2)), nodetest.LeaseOf(nodetest.Minutes(1)+time.Second)), false},
		"alive, a minute after":              {nodetest.Edits(long, alive, nodetest.ApprovedSince(nodetest.Minutes(2)), nodetest.LeaseOf(nodetest.Minutes(1))), true},
		"alive, and another Node since":      {nodetest.Edits(long, alive, another, nodetest.ApprovedSince(nodetest.Minutes(2)), nodetest.LeaseOf(nodetest.Minutes(2)-time.Second)), true},
		"alive, nothing approved":            {nodetest.Edits(long, alive, nodetest.LeaseOf(0)), false},
		"alive, approved and not issued":     {nodetest.Edits(long, alive, nodetest.ApprovedSince(nodetest.Minutes(2)), nodetest.LeaseOf(0), func(f *lifecycle.Facts) { f.Requests[0].Status.Certificate = nil }), false},
		"alive, from the status":             {nodetest.Edits(long, alive, nodetest.Records(nodetest.ApprovedDecision("csr-b", 2, nodetest.Minutes(2))), nodetest.LeaseOf(nodetest.Minutes(1))), true},
		"alive, from the status, early":      {nodetest.Edits(long, alive, nodetest.Records(nodetest.ApprovedDecision("csr-b", 2, nodetest.Minutes(2))), nodetest.LeaseOf(nodetest.Minutes(1)+time.Second)), false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Reissued()
			tt.edit(f)
			if p := nodetest.Decide(f, nodetest.Now); (p.Phase == lifecycle.Joined) != tt.want {
				t.Errorf("got %+v", nodetest.OutlineOf(&p))
			}
		})
	}
}

// The Lease is not watched, so it must be read while it can change the decision.
func TestPollsForTheOldKubelet(t *testing.T) {
	tests := map[string]struct {
		edit func(*lifecycle.Facts)
		want time.Duration
	}{
		"just reissued":         {nodetest.Edits(nodetest.ReissuedSince(0), nodetest.LeaseOf(nodetest.Minutes(2))), 10 * time.Second},
		"a while ago":           {nodetest.Edits(nodetest.ReissuedSince(nodetest.Minutes(10)), nodetest.LeaseOf(nodetest.Minutes(20))), nodetest.Minutes(1)},
		"known to be alive":     {nodetest.Edits(nodetest.ReissuedSince(nodetest.Minutes(1)), nodetest.LeaseOf(0)), nodetest.Minutes(10)},
		"approved a minute ago": {nodetest.Edits(nodetest.ReissuedSince(nodetest.Minutes(5)), nodetest.LeaseOf(nodetest.Minutes(6)), nodetest.ApprovedSince(nodetest.Minutes(1))), 6 * time.Second},
		"approved just now":     {nodetest.Edits(nodetest.ReissuedSince(nodetest.Minutes(5)), nodetest.LeaseOf(0), nodetest.ApprovedSince(0)), time.Second},
		"the same, known alive": {nodetest.Edits(nodetest.ReissuedSince(nodetest.Minutes(5)), nodetest.LeaseOf(30*time.Second), func(f *lifecycle.Facts) { f.NodeBootstrap.Status.NodeAliveTime = new(nodetest.Ago(0)) }, nodetest.ApprovedSince(nodetest.Minutes(1))), 6 * time.Second},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Reissued()
			tt.edit(f)
			if p := nodetest.Decide(f, nodetest.Now); !p.RequeueAt.Equal(nodetest.Now.Add(tt.want)) {
				t.Errorf("got %s, want %s", p.RequeueAt.Sub(nodetest.Now), tt.want)
			}
		})
	}
}
