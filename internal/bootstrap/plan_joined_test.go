// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// minutes is so many minutes before now.
func minutes(n int) time.Duration { return time.Duration(n) * time.Minute }

// asked is a node that waits with its first token, with which its kubelet has asked for a certificate 20 minutes ago, got
// it a minute later, and has neither made nor renewed anything since.
func asked() *Facts {
	f := awaited(1, young)
	f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, minutes(20), approved(minutes(19)), withCertificate)}
	return f
}

// reissued is a node that was a member for a day, for which a credential was reissued an hour ago.
func reissued() *Facts {
	f := awaited(2, young)
	askReissue(f)
	f.NodeBootstrap.Status.LastHandledReissueAt = reissueAt
	f.NodeBootstrap.Status.Certificates = []v1alpha1.CertificateDecision{approvedDecision("csr-1", 1, old)}
	f.Node = nodeMade(24 * time.Hour)
	f.NodeBootstrap.Status.NodeUID = f.Node.UID
	f.NodeReported, f.LeaseRenewed = true, now.Add(-2*time.Hour)
	return f
}

func TestDecideTellsWhetherTheNodeHasJoined(t *testing.T) {
	lease := func(ago time.Duration) func(*Facts) { return func(f *Facts) { f.LeaseRenewed = now.Add(-ago) } }
	node := func(ago time.Duration) func(*Facts) { return func(f *Facts) { f.Node = nodeMade(ago) } }
	reported := func(f *Facts) { f.NodeReported = true }
	works := func(f *Facts) { f.NodeReported, f.LeaseRenewed = true, f.Node.CreationTimestamp.Time }
	used := func(f *Facts) { f.Node, f.LeaseRenewed = nodeMade(old), now.Add(-minutes(18)) }
	both := func(edits ...func(*Facts)) func(*Facts) {
		return func(f *Facts) {
			for _, e := range edits {
				e(f)
			}
		}
	}
	clean := outline{phase: Joined, deleteToken: "#1", dropConfig: true}
	waits := outline{phase: Awaited, token: "#1"}
	reissuedClean := outline{phase: Joined, deleteToken: "#2", dropConfig: true}
	reissuedWaits := outline{phase: Awaited, token: "#2"}
	testPlans(t, map[string]planned{
		"a member already":             {fresh(), both(node(old), works), outline{phase: Joined}},
		"a member without a Lease":     {fresh(), both(node(old), reported), outline{phase: Awaited, mint: "#1"}}, // made by somebody who may create nodes
		"a Lease of a former Node":     {fresh(), both(node(old), reported, lease(old+time.Second)), outline{phase: Awaited, mint: "#1"}},
		"a member, but no kubelet's":   {fresh(), node(old), outline{phase: Awaited, mint: "#1"}},
		"a Lease alone":                {fresh(), both(node(old), lease(time.Second)), outline{phase: Awaited, mint: "#1"}},
		"a report without a Node":      {fresh(), reported, outline{phase: Awaited, mint: "#1"}},
		"a member, wanted again":       {fresh(), both(node(old), reported, lease(time.Second), askReissue), outline{phase: Awaited, reissue: true, mint: "#1"}},
		"waited for, no Node":          {awaited(1, young), nil, waits},
		"waited for, Node made ahead":  {awaited(1, young), node(minutes(5)), waits},
		"joined in another way":        {awaited(1, young), both(node(minutes(5)), works), clean},
		"issued, no Node":              {asked(), nil, waits},
		"issued, Node made after":      {asked(), node(minutes(18)), waits}, // by an administrator
		"issued, and it has reported":  {asked(), both(node(minutes(18)), reported), waits},
		"issued, Lease of that second": {asked(), both(node(old), lease(minutes(19)-999*time.Millisecond)), waits},
		"issued, Lease of the next":    {asked(), both(node(old), lease(minutes(19)-time.Second)), clean},
		"issued, Node made before":     {asked(), node(minutes(21)), waits},
		"issued, Lease renewed after":  {asked(), both(node(old), lease(minutes(18))), clean},
		"approved, not issued":         {asked(), both(used, func(f *Facts) { f.Requests[0].Status.Certificate = nil }), waits},
		"issued to a renewed token":    {asked(), both(used, func(f *Facts) { f.Requests[0].Spec.Username = "system:bootstrap:" + nthID(7) }), clean},
		"issued to it before the wait": {asked(), both(used, func(f *Facts) {
			f.Requests[0] = request("csr-a", 7, minutes(70), approved(minutes(61)), withCertificate)
		}), waits},
		"issued, the request cleaned":  {asked(), both(used, recorded(minutes(19), 1), noRequests), clean},
		"the same, Node made before":   {asked(), both(node(minutes(21)), recorded(minutes(19), 1), noRequests), waits},
		"the same, with a later token": {asked(), both(used, recorded(minutes(19), 7), noRequests), clean},
		"issued before the wait":       {asked(), both(used, recorded(old, 7), noRequests), waits},
		"denied, and renewed":          {asked(), both(used, denied(minutes(19)), noRequests), waits},

		"issued, never approved":                {asked(), both(lease(time.Second), node(old), func(f *Facts) { f.Requests[0].Status.Conditions = nil }), waits},
		"approved in the second the wait began": {asked(), both(used, func(f *Facts) { f.NodeBootstrap.Status.AwaitingSince = new(ago(minutes(19))) }), clean},
		"the same, with another token": {asked(), both(used, func(f *Facts) {
			f.NodeBootstrap.Status.AwaitingSince = new(ago(minutes(19)))
			f.Requests[0].Spec.Username = "system:bootstrap:" + nthID(7)
		}), waits},
		"a known Node that was missed": {awaited(1, young), both(node(old), works, func(f *Facts) { f.NodeBootstrap.Status.NodeUID = f.Node.UID }), clean},

		"joined before":                    {joinedBefore(), nil, outline{phase: Joined}},
		"joined before, a token is left":   {joinedBefore(), func(f *Facts) { f.addToken(1, young); f.Kubeconfig = kubeconfigSecret(1) }, clean},
		"joined before, another's Secret":  {joinedBefore(), func(f *Facts) { f.Kubeconfig = foreignKubeconfig() }, outline{phase: Joined}},
		"joined before, no cluster":        {joinedBefore(), noCluster, outline{phase: Joined}},
		"joined before, past the deadline": {joinedBefore(), deadlineAfter(time.Minute), outline{phase: Joined}},
		"gone after it joined":             {joinedBefore(), func(f *Facts) { f.Node = nil }, outline{phase: Awaited, mint: "#2"}},
		"another Node after it joined":     {joinedBefore(), node(minutes(5)), outline{phase: Awaited, mint: "#2"}},
		"the same, and it has reported":    {joinedBefore(), both(node(minutes(5)), works), outline{phase: Joined}},

		"reissued, the old Node reports":  {reissued(), nil, reissuedWaits},
		"reissued, the Lease is renewed":  {reissued(), lease(time.Second), reissuedWaits},
		"reissued, a new Node":            {reissued(), both(node(minutes(5)), works), reissuedClean},
		"reissued, a new Node made ahead": {reissued(), both(node(minutes(5)), func(f *Facts) { f.NodeReported = false }), reissuedWaits},
		"reissued, asked and renewed": {reissued(), func(f *Facts) {
			f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-b", 2, minutes(20), approved(minutes(19)), withCertificate)}
			f.LeaseRenewed = now.Add(-minutes(18))
		}, reissuedClean},
		"reissued, asked and not renewed": {reissued(), func(f *Facts) {
			f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-b", 2, minutes(20), approved(minutes(19)), withCertificate)}
			f.LeaseRenewed = now.Add(-minutes(19))
		}, reissuedWaits},
		"reissued, the old request is still there": {reissued(), func(f *Facts) {
			f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-1", 1, old, approved(old), withCertificate)}
		}, reissuedWaits},
	})
}

func recorded(age time.Duration, n int) func(*Facts) {
	return func(f *Facts) {
		f.NodeBootstrap.Status.Certificates = []v1alpha1.CertificateDecision{approvedDecision("csr-a", n, age)}
	}
}

func denied(age time.Duration) func(*Facts) {
	return func(f *Facts) {
		f.NodeBootstrap.Status.Certificates = []v1alpha1.CertificateDecision{deniedDecision("csr-a", 1, age)}
	}
}

func noRequests(f *Facts) { f.Requests = nil }

func TestNeedsLive(t *testing.T) {
	tests := map[string]struct {
		facts *Facts
		edit  func(*Facts)
		want  bool
	}{
		"waited for, with a Node":    {awaited(1, young), func(f *Facts) { f.Node = nodeMade(young) }, true},
		"waited for, without a Node": {awaited(1, young), func(*Facts) {}, false},
		"no NodeBootstrap":           {awaited(1, young), func(f *Facts) { f.Node = nodeMade(young); f.NodeBootstrap = nil }, false},
		"a reissue is due":           {awaited(1, young), func(f *Facts) { f.Node = nodeMade(young); askReissue(f) }, false},
		"joined before":              {joinedBefore(), func(*Facts) {}, false},
		"another Node since":         {joinedBefore(), func(f *Facts) { f.Node = nodeMade(0) }, true},
		"issued, with a Node":        {asked(), func(f *Facts) { f.Node = nodeMade(minutes(18)) }, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.edit(tt.facts)
			if got := tt.facts.NeedsLive(); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestDecideLooksAgain(t *testing.T) {
	renewal := token(1, young).renewAt(nodeBootstrap())
	tests := map[string]struct {
		facts *Facts
		edit  func(*Facts)
		want  time.Time
	}{
		"at the renewal":               {awaited(1, young), nil, renewal},
		"at the CA's end":              {awaited(1, young), func(f *Facts) { f.Cluster.CAExpires = now.Add(time.Hour) }, now.Add(time.Hour)},
		"at the deadline":              {awaited(1, young), deadlineAfter(90 * time.Minute), now.Add(30 * time.Minute)},
		"past the deadline, its end":   {awaited(1, due), deadlineAfter(30 * time.Minute), token(1, due).Expires},
		"no cluster, its end":          {awaited(1, young), noCluster, token(1, young).Expires},
		"the predecessor's end":        {awaited(2, young), func(f *Facts) { f.addToken(1, 22*time.Hour) }, token(1, 22*time.Hour).Expires},
		"never, once joined":           {joinedBefore(), nil, time.Time{}},
		"never, without NodeBootstrap": {fresh(), func(f *Facts) { f.NodeBootstrap = nil }, time.Time{}},
		"a minute after an approval": {awaited(1, young), func(f *Facts) {
			f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, minutes(1), approved(10*time.Second))}
		}, now.Add(50 * time.Second)},
		"for its Node once it is issued": {awaited(1, young), func(f *Facts) {
			f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, minutes(1), approved(10*time.Second), withCertificate)}
		}, now.Add(5 * time.Second)},
		"not long after it is issued": {awaited(1, young), func(f *Facts) {
			f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, minutes(1), approved(20*time.Second), withCertificate)}
		}, renewal},
		"nor long after an approval": {awaited(1, young), func(f *Facts) {
			f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, minutes(3), approved(minutes(2)))}
		}, renewal},
		"a young Node, in a second":       {awaited(1, young), func(f *Facts) { f.Node = nodeMade(time.Second) }, now.Add(time.Second)},
		"a Node of 100 s, in 10":          {awaited(1, young), func(f *Facts) { f.Node = nodeMade(100 * time.Second) }, now.Add(10 * time.Second)},
		"an old Node, in ten minutes":     {awaited(1, young), func(f *Facts) { f.Node = nodeMade(old) }, now.Add(10 * time.Minute)},
		"the same, issued 100 s ago":      {awaited(1, young), func(f *Facts) { f.Node = nodeMade(old); recorded(101*time.Second, 1)(f) }, now.Add(10 * time.Second)},
		"an old Node, the deadline nears": {awaited(1, young), func(f *Facts) { f.Node = nodeMade(old); deadlineAfter(61 * time.Minute)(f) }, now.Add(time.Minute)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.edit != nil {
				tt.edit(tt.facts)
			}
			if p := decide(tt.facts, now); !p.RequeueAt.Equal(tt.want) {
				t.Errorf("got %s, want %s", p.RequeueAt, tt.want)
			}
		})
	}
}

func TestPlanSince(t *testing.T) {
	tests := map[string]struct {
		facts *Facts
		edit  func(*Facts)
		want  time.Time
	}{
		"never seen before":       {fresh(), nil, now.Add(-time.Hour)},
		"waited for":              {awaited(1, young), func(f *Facts) { f.NodeBootstrap.Status.AwaitingSince = new(ago(minutes(7))) }, now.Add(-minutes(7))},
		"a reissue is due":        {awaited(1, young), askReissue, now},
		"gone after it joined":    {joinedBefore(), func(f *Facts) { f.Node = nil }, now},
		"joined":                  {joinedBefore(), nil, time.Time{}},
		"there is nobody to wait": {fresh(), func(f *Facts) { f.NodeBootstrap = nil }, time.Time{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.edit != nil {
				tt.edit(tt.facts)
			}
			if p := decide(tt.facts, now); !p.Since.Equal(tt.want) {
				t.Errorf("got %s, want %s", p.Since, tt.want)
			}
		})
	}
}

func TestRequeueByTakesTheEarliest(t *testing.T) {
	var p Plan
	for _, at := range []time.Duration{2 * time.Hour, time.Hour, 3 * time.Hour} {
		p.RequeueBy(now.Add(at))
	}
	if want := now.Add(time.Hour); !p.RequeueAt.Equal(want) {
		t.Errorf("got %s, want %s", p.RequeueAt, want)
	}
}

// A kubelet's first Lease comes some seconds after its Node. A member gets no credential meanwhile; a Node that somebody made up holds
// up the first credential for a moment only, and none that is there.
func TestNewNodeMayBeAMember(t *testing.T) {
	reported := func(age time.Duration) func(*Facts) {
		return func(f *Facts) { f.Node, f.NodeReported = nodeMade(age), true }
	}
	for name, c := range map[string]struct {
		facts *Facts
		edit  func(*Facts)
		mints bool
		ready string
	}{
		"new":                  {fresh(), reported(time.Second), false, "False Verifying"},
		"almost old":           {fresh(), reported(firstLease - time.Second), false, "False Verifying"},
		"old":                  {fresh(), reported(firstLease), true, "False Verifying"},
		"no kubelet reported":  {fresh(), func(f *Facts) { f.Node = nodeMade(time.Second) }, true, "False Verifying"},
		"its Lease came":       {fresh(), edits(reported(time.Second), leaseOf(0)), false, "True Joined"},
		"a credential is live": {awaited(1, young), reported(time.Second), false, "True AwaitingNode"},
	} {
		t.Run(name, func(t *testing.T) {
			c.edit(c.facts)
			p := decide(c.facts, now)
			if (p.MintAfter != nil) != c.mints {
				t.Errorf("it makes a token: %v, want %v", p.MintAfter != nil, c.mints)
			}
			o := Outcome{Token: p.Token, Published: p.Token != nil, Acceptance: Accepted}
			if p.Token == nil {
				o = Outcome{}
			}
			if got := short(Report(c.facts, &p, &o, now), v1alpha1.ConditionReady); got != c.ready {
				t.Errorf("Ready is %s, want %s", got, c.ready)
			}
			if p.MayBeMember && (p.RequeueAt.IsZero() || p.RequeueAt.Sub(now) > 5*time.Second) {
				t.Errorf("it looks again at %s", p.RequeueAt)
			}
		})
	}
}
