// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

// The node cannot have joined with a certificate for another name or of another signer.
func TestNodeDoesNotJoinWithAnothersCertificate(t *testing.T) {
	joins := map[string]func(*lifecycle.Facts){
		"a Lease renewed after": func(f *lifecycle.Facts) {
			f.Node, f.LeaseRenewed = nodetest.NodeMade(nodetest.Old), nodetest.Now.Add(-nodetest.Minutes(18))
		},
	}
	for how, join := range joins {
		f := nodetest.Asked()
		join(f)
		if !f.CertificateUsed() {
			t.Errorf("%s: the node's own certificate is not used", how)
		}
		for name, spoil := range nodetest.Spoilt {
			f := nodetest.Asked()
			spoil(f.Requests[0])
			join(f)
			if p := nodetest.Decide(f, nodetest.Now); f.CertificateUsed() || p.Phase == lifecycle.Joined {
				t.Errorf("%s, %s: it counts as the node's, and the plan is %+v", how, name, nodetest.OutlineOf(&p))
			}
		}
	}
}

// The same when only the log has the certificate.
func TestNodeDoesNotJoinWithAnothersRecord(t *testing.T) {
	unissued := nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(70))
	unissued.IssuedTime = nil
	another := nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(19))
	another.SignerName = certificatesv1.KubeAPIServerClientSignerName
	serving := nodetest.ServingEntry("csr-a", v1alpha1.VerdictApproved, csr.ReasonKubeletServing, nodetest.Minutes(19))
	serving.IssuedTime = new(nodetest.Ago(nodetest.Minutes(19)))
	mine := nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(19))
	tests := map[string]struct {
		record v1alpha1.CertificateDecision
		want   bool
	}{
		"its own":                     {mine, true},
		"approved elsewhere":          {nodetest.Because(decisions.ReasonApprovedElsewhere, mine), true},
		"another node's":              {nodetest.Because(csr.ReasonWrongSubject, mine), false},
		"a second key's":              {nodetest.Because(csr.ReasonSecondKey, mine), false},
		"one of too many":             {nodetest.Because(decisions.ReasonTooManyRequests, mine), false},
		"another signer's":            {another, false},
		"a serving certificate":       {serving, false},
		"issued unseen":               {unissued, true},
		"another node's, unseen":      {nodetest.Because(csr.ReasonWrongSubject, unissued), false},
		"denied, and the CSR deleted": {nodetest.Because(csr.ReasonSuperseded, nodetest.DeniedDecision("csr-a", 1, nodetest.Minutes(70))), false},
		"ignored, and the CSR deleted": {func() v1alpha1.CertificateDecision {
			d := nodetest.Decision('i', "csr-a")
			d.Time = nodetest.Ago(nodetest.Minutes(70))
			return d
		}(), false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Awaited(1, 2*time.Hour)
			f.NodeBootstrap.Status.AwaitingSince = new(nodetest.Ago(2 * time.Hour))
			f.Node, f.LeaseRenewed = nodetest.NodeMade(nodetest.Old), nodetest.Now
			nodetest.Records(tt.record)(f)
			f.UpgradeStatus()
			if got := f.CertificateUsed(); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestDecideTellsWhetherTheNodeHasJoined(t *testing.T) {
	lease := func(ago time.Duration) func(*lifecycle.Facts) {
		return func(f *lifecycle.Facts) { f.LeaseRenewed = nodetest.Now.Add(-ago) }
	}
	node := func(ago time.Duration) func(*lifecycle.Facts) {
		return func(f *lifecycle.Facts) { f.Node = nodetest.NodeMade(ago) }
	}
	reported := func(f *lifecycle.Facts) { f.NodeReported = true }
	works := func(f *lifecycle.Facts) { f.NodeReported, f.LeaseRenewed = true, f.Node.CreationTimestamp.Time }
	used := func(f *lifecycle.Facts) {
		f.Node, f.LeaseRenewed = nodetest.NodeMade(nodetest.Old), nodetest.Now.Add(-nodetest.Minutes(18))
	}
	both := func(edits ...func(*lifecycle.Facts)) func(*lifecycle.Facts) {
		return func(f *lifecycle.Facts) {
			for _, e := range edits {
				e(f)
			}
		}
	}
	clean := nodetest.Outline{Phase: lifecycle.Joined, DeleteToken: "#1", DropConfig: true}
	waits := nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1"}
	reissuedClean := nodetest.Outline{Phase: lifecycle.Joined, DeleteToken: "#2", DropConfig: true}
	reissuedWaits := nodetest.Outline{Phase: lifecycle.Awaited, Token: "#2"}
	nodetest.Plans(t, map[string]nodetest.Planned{
		"a member already":                 {Facts: nodetest.Fresh(), Edit: both(node(nodetest.Old), works), Want: nodetest.Outline{Phase: lifecycle.Joined}},
		"a member without a Lease":         {Facts: nodetest.Fresh(), Edit: both(node(nodetest.Old), reported), Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#1"}}, // created by another client that may create Nodes
		"a Lease of a former Node":         {Facts: nodetest.Fresh(), Edit: both(node(nodetest.Old), reported, lease(nodetest.Old+time.Second)), Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#1"}},
		"a member, but no kubelet's":       {Facts: nodetest.Fresh(), Edit: node(nodetest.Old), Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#1"}},
		"only a Lease":                     {Facts: nodetest.Fresh(), Edit: both(node(nodetest.Old), lease(time.Second)), Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#1"}},
		"a report without a Node":          {Facts: nodetest.Fresh(), Edit: reported, Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#1"}},
		"a member, wanted again":           {Facts: nodetest.Fresh(), Edit: both(node(nodetest.Old), reported, lease(time.Second), nodetest.AskReissue), Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Mint: "#1"}},
		"awaited, no Node":                 {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nil, Want: waits},
		"awaited, Node created in advance": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: node(nodetest.Minutes(5)), Want: waits},
		"joined in another way":            {Facts: nodetest.Awaited(1, nodetest.Young), Edit: both(node(nodetest.Minutes(5)), works), Want: clean},
		"issued, no Node":                  {Facts: nodetest.Asked(), Edit: nil, Want: waits},
		"issued, Node created after":       {Facts: nodetest.Asked(), Edit: node(nodetest.Minutes(18)), Want: waits}, // by an administrator
		"issued, and it has reported":      {Facts: nodetest.Asked(), Edit: both(node(nodetest.Minutes(18)), reported), Want: waits},
		"issued, Lease of that second":     {Facts: nodetest.Asked(), Edit: both(node(nodetest.Old), lease(nodetest.Minutes(19)-999*time.Millisecond)), Want: waits},
		"issued, Lease of the next":        {Facts: nodetest.Asked(), Edit: both(node(nodetest.Old), lease(nodetest.Minutes(19)-time.Second)), Want: clean},
		"issued, Node created before":      {Facts: nodetest.Asked(), Edit: node(nodetest.Minutes(21)), Want: waits},
		"issued, Lease renewed after":      {Facts: nodetest.Asked(), Edit: both(node(nodetest.Old), lease(nodetest.Minutes(18))), Want: clean},
		"approved, not issued":             {Facts: nodetest.Asked(), Edit: both(used, func(f *lifecycle.Facts) { f.Requests[0].Status.Certificate = nil }), Want: waits},
		"issued to a renewed token":        {Facts: nodetest.Asked(), Edit: both(used, func(f *lifecycle.Facts) { f.Requests[0].Spec.Username = "system:bootstrap:" + nodetest.NthID(7) }), Want: clean},
		"issued to it before the wait": {Facts: nodetest.Asked(), Edit: both(used, func(f *lifecycle.Facts) {
			f.Requests[0] = nodetest.Request("csr-a", 7, nodetest.Minutes(70), nodetest.Approved(nodetest.Minutes(61)), nodetest.WithCertificate)
		}), Want: waits},
		"issued, the request cleaned":   {Facts: nodetest.Asked(), Edit: both(used, recorded(nodetest.Minutes(19), 1), nodetest.NoRequests), Want: clean},
		"the same, Node created before": {Facts: nodetest.Asked(), Edit: both(node(nodetest.Minutes(21)), recorded(nodetest.Minutes(19), 1), nodetest.NoRequests), Want: waits},
		"the same, with a later token":  {Facts: nodetest.Asked(), Edit: both(used, recorded(nodetest.Minutes(19), 7), nodetest.NoRequests), Want: clean},
		"issued before the wait":        {Facts: nodetest.Asked(), Edit: both(used, recorded(nodetest.Old, 7), nodetest.NoRequests), Want: waits},
		"denied, and renewed":           {Facts: nodetest.Asked(), Edit: both(used, denied(nodetest.Minutes(19)), nodetest.NoRequests), Want: waits},

		"issued, never approved": {Facts: nodetest.Asked(), Edit: both(lease(time.Second), node(nodetest.Old), func(f *lifecycle.Facts) { f.Requests[0].Status.Conditions = nil }), Want: waits},
		"approved in the second the wait began": {Facts: nodetest.Asked(), Edit: both(used, func(f *lifecycle.Facts) {
			f.NodeBootstrap.Status.AwaitingSince = new(nodetest.Ago(nodetest.Minutes(19)))
		}), Want: clean},
		"the same, with another token": {Facts: nodetest.Asked(), Edit: both(used, func(f *lifecycle.Facts) {
			f.NodeBootstrap.Status.AwaitingSince = new(nodetest.Ago(nodetest.Minutes(19)))
			f.Requests[0].Spec.Username = "system:bootstrap:" + nodetest.NthID(7)
		}), Want: waits},
		"a known Node that was missed": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: both(node(nodetest.Old), works, func(f *lifecycle.Facts) { f.NodeBootstrap.Status.NodeUID = f.Node.UID }), Want: clean},

		"joined before": {Facts: nodetest.JoinedBefore(), Edit: nil, Want: nodetest.Outline{Phase: lifecycle.Joined}},
		"joined before, a token is left": {Facts: nodetest.JoinedBefore(), Edit: func(f *lifecycle.Facts) {
			nodetest.AddToken(f, 1, nodetest.Young)
			f.Kubeconfig = nodetest.KubeconfigSecret(1)
		}, Want: clean},
		"joined before, another's Secret":  {Facts: nodetest.JoinedBefore(), Edit: func(f *lifecycle.Facts) { f.Kubeconfig = nodetest.ForeignKubeconfig() }, Want: nodetest.Outline{Phase: lifecycle.Joined}},
		"joined before, no cluster":        {Facts: nodetest.JoinedBefore(), Edit: nodetest.NoCluster, Want: nodetest.Outline{Phase: lifecycle.Joined}},
		"joined before, past the deadline": {Facts: nodetest.JoinedBefore(), Edit: nodetest.DeadlineAfter(time.Minute), Want: nodetest.Outline{Phase: lifecycle.Joined}},
		"deleted after it joined":          {Facts: nodetest.JoinedBefore(), Edit: func(f *lifecycle.Facts) { f.Node = nil }, Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#2"}},
		"another Node after it joined":     {Facts: nodetest.JoinedBefore(), Edit: node(nodetest.Minutes(5)), Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#2"}},
		"the same, and it has reported":    {Facts: nodetest.JoinedBefore(), Edit: both(node(nodetest.Minutes(5)), works), Want: nodetest.Outline{Phase: lifecycle.Joined}},

		"reissued, the old Node reports":          {Facts: nodetest.Reissued(), Edit: nil, Want: reissuedWaits},
		"reissued, the Lease is renewed":          {Facts: nodetest.Reissued(), Edit: lease(time.Second), Want: reissuedWaits},
		"reissued, a new Node":                    {Facts: nodetest.Reissued(), Edit: both(node(nodetest.Minutes(5)), works), Want: reissuedClean},
		"reissued, a new Node created in advance": {Facts: nodetest.Reissued(), Edit: both(node(nodetest.Minutes(5)), func(f *lifecycle.Facts) { f.NodeReported = false }), Want: reissuedWaits},
		"reissued, asked and renewed": {Facts: nodetest.Reissued(), Edit: func(f *lifecycle.Facts) {
			f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-b", 2, nodetest.Minutes(20), nodetest.Approved(nodetest.Minutes(19)), nodetest.WithCertificate)}
			f.LeaseRenewed = nodetest.Now.Add(-nodetest.Minutes(18))
		}, Want: reissuedClean},
		"reissued, asked and not renewed": {Facts: nodetest.Reissued(), Edit: func(f *lifecycle.Facts) {
			f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-b", 2, nodetest.Minutes(20), nodetest.Approved(nodetest.Minutes(19)), nodetest.WithCertificate)}
			f.LeaseRenewed = nodetest.Now.Add(-nodetest.Minutes(19))
		}, Want: reissuedWaits},
		"reissued, the old CSR still exists": {Facts: nodetest.Reissued(), Edit: func(f *lifecycle.Facts) {
			f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-1", 1, nodetest.Old, nodetest.Approved(nodetest.Old), nodetest.WithCertificate)}
		}, Want: reissuedWaits},
	})
}

// A kubelet's first Lease comes some seconds after its Node. A member gets no credential in between. A faked Node delays only the first
// credential, and only for a moment.
func TestNewNodeMayBeAMember(t *testing.T) {
	reported := func(age time.Duration) func(*lifecycle.Facts) {
		return func(f *lifecycle.Facts) { f.Node, f.NodeReported = nodetest.NodeMade(age), true }
	}
	for name, c := range map[string]struct {
		facts *lifecycle.Facts
		edit  func(*lifecycle.Facts)
		mints bool
		ready string
	}{
		"new":                  {nodetest.Fresh(), reported(time.Second), false, "False Verifying"},
		"almost old":           {nodetest.Fresh(), reported(lifecycle.FirstLease - time.Second), false, "False Verifying"},
		"old":                  {nodetest.Fresh(), reported(lifecycle.FirstLease), true, "False Verifying"},
		"no kubelet reported":  {nodetest.Fresh(), func(f *lifecycle.Facts) { f.Node = nodetest.NodeMade(time.Second) }, true, "False Verifying"},
		"its Lease came":       {nodetest.Fresh(), nodetest.Edits(reported(time.Second), nodetest.LeaseOf(0)), false, "True Joined"},
		"a credential is live": {nodetest.Awaited(1, nodetest.Young), reported(time.Second), false, "True AwaitingNode"},
	} {
		t.Run(name, func(t *testing.T) {
			c.edit(c.facts)
			p := nodetest.Decide(c.facts, nodetest.Now)
			if (p.MintReason != "") != c.mints {
				t.Errorf("it creates a token: %v, want %v", p.MintReason != "", c.mints)
			}
			o := status.Outcome{Token: p.Token, Published: p.Token != nil, Acceptance: status.Accepted}
			if p.Token == nil {
				o = status.Outcome{}
			}
			if got := nodetest.Short(status.Report(c.facts, &p, &o, nodetest.Now), v1alpha1.ConditionReady); got != c.ready {
				t.Errorf("Ready is %s, want %s", got, c.ready)
			}
			if p.MayBeMember && (p.RequeueAt.IsZero() || p.RequeueAt.Sub(nodetest.Now) > 5*time.Second) {
				t.Errorf("it requeues at %s", p.RequeueAt)
			}
		})
	}
}
