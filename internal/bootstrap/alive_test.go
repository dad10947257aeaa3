// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// approvedSince has the request of the reissued credential approved a while ago by the operator, and issued.
func approvedSince(age time.Duration) func(*Facts) {
	return func(f *Facts) {
		d := approvedDecision("csr-b", 2, age)
		d.IssuedTime = nil
		f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-b", 2, age+time.Second, approved(age), withCertificate)}
		d.KeyFingerprint = must(csr.Fingerprint(f.Requests[0]))
		f.NodeBootstrap.Status.Certificates = append(f.NodeBootstrap.Status.Certificates, d)
	}
}

func leaseOf(age time.Duration) func(*Facts) {
	return func(f *Facts) { f.LeaseRenewed = now.Add(-age) }
}

// reissuedSince has the reissue handled a while ago.
func reissuedSince(age time.Duration) func(*Facts) {
	return func(f *Facts) { f.NodeBootstrap.Status.AwaitingSince = new(ago(age)) }
}

func TestAlive(t *testing.T) {
	byOthers := func(age time.Duration) func(*Facts) {
		return func(f *Facts) {
			f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-b", 2, age, approved(age), withCertificate)}
		}
	}
	manual := approval(v1alpha1.ApprovalManual)
	wait := reissuedSince(minutes(1))
	tests := map[string]struct {
		edit func(*Facts)
		want bool
	}{
		"renewed since, nobody has asked":      {edits(wait, leaseOf(minutes(1)-time.Second)), true},
		"renewed in the second of the reissue": {edits(wait, leaseOf(minutes(1)-999*time.Millisecond)), false},
		"renewed before":                       {edits(wait, leaseOf(2*time.Minute)), false},
		"never renewed":                        {edits(wait, func(f *Facts) { f.LeaseRenewed = time.Time{} }), false},
		"renewed before the approval":          {edits(wait, leaseOf(31*time.Second), approvedSince(30*time.Second)), true},
		"renewed in the approval's second":     {edits(wait, leaseOf(30*time.Second), approvedSince(30*time.Second)), false},
		"renewed after it":                     {edits(wait, leaseOf(20*time.Second), approvedSince(30*time.Second)), false},
		"claimed, and not approved yet":        {edits(wait, leaseOf(20*time.Second), approvedSince(30*time.Second), noRequests), false},
		"approved by others before":            {edits(wait, manual, leaseOf(20*time.Second), byOthers(30*time.Second)), false},
		"approved by others after":             {edits(wait, manual, leaseOf(40*time.Second), byOthers(30*time.Second)), true},
		"Manual, the cache may be behind":      {edits(wait, manual, leaseOf(2*time.Second)), false},
		"Manual, it is not":                    {edits(wait, manual, leaseOf(10*time.Second)), true},
		"noted before":                         {edits(wait, leaseOf(0), approvedSince(30*time.Second), func(f *Facts) { f.NodeBootstrap.Status.NodeAliveTime = new(ago(minutes(1))) }), true},
		"another reissue is due":               {edits(wait, leaseOf(10*time.Second), func(f *Facts) { f.NodeBootstrap.Annotations[v1alpha1.ReissueRequestedAtAnnotation] = "again" }), false},
		"another Node":                         {edits(wait, leaseOf(10*time.Second), func(f *Facts) { f.Node = nodeMade(minutes(5)) }), false},
		"no Node":                              {edits(wait, leaseOf(10*time.Second), func(f *Facts) { f.Node = nil }), false},
		"no reissue":                           {edits(wait, leaseOf(10*time.Second), func(f *Facts) { f.NodeBootstrap.Status.LastHandledReissueAt = "" }), false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := reissued()
			tt.edit(f)
			f.UpgradeStatus()
			if got := f.alive(now); (got != nil) != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// The old kubelet's Lease does not report whether the new certificate is used.
func TestJoinedAfterAReissue(t *testing.T) {
	alive := func(f *Facts) { f.NodeBootstrap.Status.NodeAliveTime = new(ago(minutes(4))) }
	long, short := reissuedSince(minutes(5)), reissuedSince(minutes(2)+19*time.Second)
	byOthers := func(f *Facts) { f.NodeBootstrap.Status.Certificates = nil }
	another := func(f *Facts) { f.Node = nodeMade(minutes(2)) }
	tests := map[string]struct {
		edit func(*Facts)
		want bool
	}{
		"silent, a second after":               {edits(long, approvedSince(minutes(2)), leaseOf(minutes(2)-time.Second)), true},
		"silent, the same second":              {edits(long, approvedSince(minutes(2)), leaseOf(minutes(2))), false},
		"silent for 20 seconds":                {edits(reissuedSince(minutes(2)+20*time.Second), approvedSince(minutes(2)), leaseOf(minutes(1)+time.Second)), true},
		"approved too soon to tell":            {edits(short, approvedSince(minutes(2)), leaseOf(minutes(1)+time.Second)), false},
		"the same, a minute later":             {edits(short, approvedSince(minutes(2)), leaseOf(minutes(1))), true},
		"approved by others":                   {edits(long, approvedSince(minutes(2)), byOthers, leaseOf(minutes(1)+time.Second)), false},
		"the same, a minute later than that":   {edits(long, approvedSince(minutes(2)), byOthers, leaseOf(minutes(1))), true},
		"alive, a second after":                {edits(long, alive, approvedSince(minutes(2)), leaseOf(minutes(2)-time.Second)), false},
		"alive, within a minute":               {edits(long, alive, approvedSince(minutes(2)), leaseOf(minutes(1)+time.Second)), false},
		"alive, a minute after":                {edits(long, alive, approvedSince(minutes(2)), leaseOf(minutes(1))), true},
		"alive, and another Node since":        {edits(long, alive, another, approvedSince(minutes(2)), leaseOf(minutes(2)-time.Second)), true},
		"alive, nothing approved":              {edits(long, alive, leaseOf(0)), false},
		"alive, approved and not issued":       {edits(long, alive, approvedSince(minutes(2)), leaseOf(0), func(f *Facts) { f.Requests[0].Status.Certificate = nil }), false},
		"alive, the record tells of it":        {edits(long, alive, records(approvedDecision("csr-b", 2, minutes(2))), leaseOf(minutes(1))), true},
		"alive, the record tells of it, early": {edits(long, alive, records(approvedDecision("csr-b", 2, minutes(2))), leaseOf(minutes(1)+time.Second)), false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := reissued()
			tt.edit(f)
			if p := decide(f, now); (p.Phase == Joined) != tt.want {
				t.Errorf("got %+v", outlineOf(&p))
			}
		})
	}
}

// A process that ends after the approval must not forget what it saw before.
func TestAliveIsNotedBeforeTheApproval(t *testing.T) {
	f := reissued()
	edits(reissuedSince(minutes(1)), leaseOf(5*time.Second), further(request("csr-b", 2, time.Second)))(f)
	p := decide(f, now)
	if claimed := p.Claimed(f, now); claimed == nil || claimed.NodeAliveTime == nil || !claimed.NodeAliveTime.Equal(new(ago(5*time.Second))) {
		t.Fatalf("the claim is %+v", claimed)
	}
}

// From a reissue for a node that is alive to the join, and to the next reissue.
func TestReissueForALiveNode(t *testing.T) {
	f := reissued()
	edits(reissuedSince(minutes(5)), leaseOf(0))(f)
	var warnings []string
	passes := func(what string, status metav1.ConditionStatus, reason, says string) {
		t.Helper()
		for range 3 {
			_, _, events := pass(f)
			for _, e := range events {
				if e.Type == "Warning" {
					warnings = append(warnings, e.Reason)
				}
			}
		}
		c := meta.FindStatusCondition(f.NodeBootstrap.Status.Conditions, v1alpha1.ConditionJoined)
		if c.Status != status || c.Reason != reason || !strings.Contains(c.Message, says) {
			t.Errorf("%s: Joined is %+v", what, c)
		}
	}
	passes("the old kubelet renews its Lease", metav1.ConditionFalse, v1alpha1.ReasonNodeAlive, "the node is alive; the reissued credential may not be its own")
	approvedSince(30 * time.Second)(f)
	passes("a certificate is approved", metav1.ConditionFalse, v1alpha1.ReasonNodeAlive, "stop the old kubelet")
	approvedSince(90 * time.Second)(f)
	passes("the Lease is renewed a minute later", metav1.ConditionTrue, v1alpha1.ReasonNodeHasCertificate, "it was alive at the reissue")
	f.NodeBootstrap.Annotations[v1alpha1.ReissueRequestedAtAnnotation] = "again"
	f.LeaseRenewed = now.Add(-minutes(5))
	passes("the next reissue", metav1.ConditionFalse, v1alpha1.ReasonReissued, "has not used")
	if f.NodeBootstrap.Status.NodeAliveTime != nil {
		t.Error("the next wait begins with what was seen in the last one")
	}
	if got := strings.Join(warnings, " "); got != v1alpha1.ReasonNodeAlive {
		t.Errorf("the warnings are %q", got)
	}
}

// The Lease is not watched: it has to be read while it tells something.
func TestLooksForTheOldKubelet(t *testing.T) {
	tests := map[string]struct {
		edit func(*Facts)
		want time.Duration
	}{
		"just reissued":         {edits(reissuedSince(0), leaseOf(minutes(2))), 10 * time.Second},
		"a while ago":           {edits(reissuedSince(minutes(10)), leaseOf(minutes(20))), minutes(1)},
		"known to be alive":     {edits(reissuedSince(minutes(1)), leaseOf(0)), minutes(10)},
		"approved a minute ago": {edits(reissuedSince(minutes(5)), leaseOf(minutes(6)), approvedSince(minutes(1))), 6 * time.Second},
		"approved just now":     {edits(reissuedSince(minutes(5)), leaseOf(0), approvedSince(0)), time.Second},
		"the same, known alive": {edits(reissuedSince(minutes(5)), leaseOf(30*time.Second), func(f *Facts) { f.NodeBootstrap.Status.NodeAliveTime = new(ago(0)) }, approvedSince(minutes(1))), 6 * time.Second},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := reissued()
			tt.edit(f)
			if p := decide(f, now); !p.RequeueAt.Equal(now.Add(tt.want)) {
				t.Errorf("got %s, want %s", p.RequeueAt.Sub(now), tt.want)
			}
		})
	}
}
