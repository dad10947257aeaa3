// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

// A reissue is handled when its token is created. If that token is misused before the status names it, the same reissue must not clear
// the alarm.
func TestReissueDoesNotClearTheAlarmOfItsOwnToken(t *testing.T) {
	for name, crash := range map[string]func(*lifecycle.Facts, *lifecycle.Plan){
		"no crash":          func(f *lifecycle.Facts, p *lifecycle.Plan) { carryOut(f, p) },
		"after the claim":   nodetest.Claim,
		"after the denials": func(f *lifecycle.Facts, p *lifecycle.Plan) { nodetest.Claim(f, p); revoke(f, p); carryOutVerdicts(p) },
	} {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Awaited(1, nodetest.Young)
			nodetest.AskReissue(f)
			f.TokenSecrets = nil
			nodetest.AddToken(f, 2, 0) // created before the operator crashed
			f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 2, 0, nodetest.ForNode("worker-2"))}
			p := nodetest.Decide(f, nodetest.Now)
			crash(f, &p)
			f.Requests = append(f.Requests, nodetest.Request("csr-b", 2, 0))
			if p = nodetest.Decide(f, nodetest.Now); name != "no crash" && nodetest.OutlineOf(&p).Phase != lifecycle.Withdrawn {
				t.Errorf("the token is trusted again: %+v", nodetest.OutlineOf(&p))
			}
			for range 3 {
				p, _, _ = reconcile(f)
			}
			if nodetest.AlarmOf(&f.NodeBootstrap.Status) == nil || p.Phase != lifecycle.Withdrawn {
				t.Errorf("the alarm is %v and the plan %+v", nodetest.AlarmOf(&f.NodeBootstrap.Status), nodetest.OutlineOf(&p))
			}
		})
	}
}

// From a reissue for a working node to the join, and to the next reissue.
func TestReissueForALiveNode(t *testing.T) {
	f := nodetest.Reissued()
	nodetest.Edits(nodetest.ReissuedSince(nodetest.Minutes(5)), nodetest.LeaseOf(0))(f)
	var warnings []string
	passes := func(what string, status metav1.ConditionStatus, reason, says string) {
		t.Helper()
		for range 3 {
			_, _, events := reconcile(f)
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
	nodetest.ApprovedSince(30 * time.Second)(f)
	passes("a certificate is approved", metav1.ConditionFalse, v1alpha1.ReasonNodeAlive, "stop the old kubelet")
	nodetest.ApprovedSince(90 * time.Second)(f)
	passes("the Lease is renewed a minute later", metav1.ConditionTrue, v1alpha1.ReasonNodeHasCertificate, "it was alive at the reissue")
	f.NodeBootstrap.Annotations[v1alpha1.ReissueRequestedAtAnnotation] = "again"
	f.LeaseRenewed = nodetest.Now.Add(-nodetest.Minutes(5))
	passes("the next reissue", metav1.ConditionFalse, v1alpha1.ReasonReissued, "has not used")
	if f.NodeBootstrap.Status.NodeAliveTime != nil {
		t.Error("the next wait starts with an observation of the last one")
	}
	if got := strings.Join(warnings, " "); got != v1alpha1.ReasonNodeAlive {
		t.Errorf("the warnings are %q", got)
	}
}

// A handled reissue with which the node joins is not reported as outdated.
func TestHandledReissueIsNotCalledOutdated(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	nodetest.AskReissue(f)
	before := f.NodeBootstrap.Status.DeepCopy()
	p := nodetest.Decide(f, nodetest.Now)
	o := published(2, 0)
	for _, e := range status.Events(before, status.Report(f, &p, &o, nodetest.Now)) {
		if e.Reason == v1alpha1.ReasonReissueOutdated {
			t.Error(e.Note)
		}
	}
}

func TestReissueIsNotHandledWithThePredecessor(t *testing.T) {
	f := nodetest.Awaited(2, nodetest.Young)
	nodetest.AddToken(f, 1, nodetest.Due)
	nodetest.AskReissue(f)
	nodetest.NoCluster(f)
	p := nodetest.Decide(f, nodetest.Now)
	carryOut(f, &p)
	if s := f.NodeBootstrap.Status; s.LastHandledReissueAt != "" || s.Token != nil {
		t.Errorf("the reissue counts as handled (%q) with the token %+v, an older one", s.LastHandledReissueAt, s.Token)
	}
}

// The first reconcile could not delete the token: the second must still not trust it.
func TestReissueSurvivesAFailedRevocation(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	nodetest.AskReissue(f)
	p := nodetest.Decide(f, nodetest.Now)
	f.NodeBootstrap.Status = *status.Report(f, &p, &status.Outcome{Err: nodetest.ErrWrite}, nodetest.Now) // apply stopped at the delete
	nodetest.Plans(t, map[string]nodetest.Planned{
		"the old token still exists": {Facts: f, Edit: nil, Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Mint: "#2", DeleteToken: "#1"}},
	})
}

// The status cannot be stored for a while: the token for the reissue must not be replaced in each reconcile.
func TestReissueIsMintedForOnce(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	nodetest.AskReissue(f)
	p := nodetest.Decide(f, nodetest.Now)
	status := f.NodeBootstrap.Status
	carryOut(f, &p)
	f.NodeBootstrap.Status = status
	nodetest.Plans(t, map[string]nodetest.Planned{
		"the second reconcile": {Facts: f, Edit: nil, Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Token: "#2"}},
	})
}

// The operator was down from the approval until the CSR was deleted and the token had expired. The claim disappears with the token; that
// the certificate was issued, which a renewal of the Lease will prove to be in use, does not.
func TestProofOfTheJoinOutlivesTheToken(t *testing.T) {
	const day = 24 * time.Hour
	for name, edit := range map[string]func(*lifecycle.Facts){
		"the report drops the token": nodetest.Unchanged,
		"a claim does":               nodetest.Further(nodetest.Request("csr-b", 3, nodetest.Minutes(1))),
	} {
		f := nodetest.Reissued()
		f.NodeBootstrap.Status.AwaitingSince = new(nodetest.Ago(2*day + time.Hour))
		f.NodeBootstrap.Status.Token.ExpirationTime = nodetest.Ago(2 * day)
		f.NodeBootstrap.Status.Tokens = []v1alpha1.LiveToken{{ID: nodetest.NthID(2), CSRs: []v1alpha1.DecidedCSR{{
			Name: "csr-a", UID: "csr-a", KeyFingerprint: "SHA256:00", Verdict: v1alpha1.VerdictApproved, Reason: csr.ReasonKubeletClient, Time: nodetest.Ago(2 * day)}}}}
		f.TokenSecrets, f.Requests = []*corev1.Secret{nodetest.TokenSecret(2, 3*day), nodetest.TokenSecret(3, nodetest.Minutes(2))}, nil
		f.LeaseRenewed = nodetest.Now.Add(-3 * day)
		edit(f)
		if p, _, _ := reconcile(f); p.Phase != lifecycle.Awaited {
			t.Fatalf("%s: got %+v", name, nodetest.OutlineOf(&p))
		}
		if decisions.LiveToken(&f.NodeBootstrap.Status, nodetest.NthID(2)) != nil {
			t.Errorf("%s: the status still names the token", name)
		}
		f.LeaseRenewed = nodetest.Now
		if p := nodetest.Decide(f, nodetest.Now); p.Phase != lifecycle.Joined {
			t.Errorf("%s: got %+v", name, nodetest.OutlineOf(&p))
		}
	}
}
