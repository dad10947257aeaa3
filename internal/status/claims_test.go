// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"reflect"
	"slices"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

// A crash, or a conflict, between the claim and the verdicts: the older CSR was pending when the newer one's key was claimed, in the same
// second, so it is not a second key.
func TestSupersededIsNoAlarmAfterACrash(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, 0), nodetest.Request("csr-b", 1, 0)}
	later := nodetest.Now.Add(700 * time.Millisecond)
	p := nodetest.Decide(f, later)
	f.NodeBootstrap.Status = *status.Claimed(&p, f, later)
	again := nodetest.Decide(f, later.Add(time.Second))
	if got, want := nodetest.OutlineOf(&again), nodetest.Alarmed("csr-b: Approved, csr-a: Denied", ""); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := again.Decisions[1].Record.Reason; got != csr.ReasonSuperseded {
		t.Errorf("it is denied for another reason now: %s", got)
	}
}

// A changed verdict replaces the first one: each CSR has one entry, which is not added repeatedly.
func TestClaimTakesThePlaceOfAnother(t *testing.T) {
	f := nodetest.Fresh()
	f.NodeBootstrap.Status.Certificates = []v1alpha1.CertificateDecision{nodetest.DeniedDecision("csr-a", 1, nodetest.Minutes(1)), nodetest.ApprovedDecision("csr-b", 1, nodetest.Minutes(1))}
	plan := &lifecycle.Plan{Decisions: []lifecycle.Decision{{Record: nodetest.ApprovedDecision("csr-a", 1, 0)}}}
	for range 3 {
		if claimed := status.Claimed(plan, f, nodetest.Now); claimed != nil {
			f.NodeBootstrap.Status = *claimed
		}
	}
	got := f.NodeBootstrap.Status.Certificates
	if len(got) != 2 || !slices.ContainsFunc(got, func(d v1alpha1.CertificateDecision) bool {
		return d.UID == "csr-a" && d.Verdict == v1alpha1.VerdictApproved
	}) {
		t.Errorf("got %s", nodetest.AsJSON(got))
	}
}

// A process that ends after the approval must not lose what it observed before.
func TestAliveIsStoredBeforeTheApproval(t *testing.T) {
	f := nodetest.Reissued()
	nodetest.Edits(nodetest.ReissuedSince(nodetest.Minutes(1)), nodetest.LeaseOf(5*time.Second), nodetest.Further(nodetest.Request("csr-b", 2, time.Second)))(f)
	p := nodetest.Decide(f, nodetest.Now)
	if claimed := status.Claimed(&p, f, nodetest.Now); claimed == nil || claimed.NodeAliveTime == nil || !claimed.NodeAliveTime.Equal(new(nodetest.Ago(5*time.Second))) {
		t.Fatalf("the claim is %+v", claimed)
	}
}

// A token that the status already names needs no write before it is deleted.
func TestATokenThatTheStatusNamesIsDeletedAtOnce(t *testing.T) {
	f := nodetest.JoinedBefore()
	f.TokenSecrets = nodetest.Awaited(1, nodetest.Young).TokenSecrets
	f.NodeBootstrap.Status.LastTokenID = nodetest.NthID(1)
	p := nodetest.Decide(f, nodetest.Now)
	if nodetest.OutlineOf(&p).DeleteToken != "#1" || status.Claimed(&p, f, nodetest.Now) != nil {
		t.Errorf("the plan is %+v, and the status is written first", nodetest.OutlineOf(&p))
	}
}

func TestDecisionRecord(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, 0), nodetest.Request("csr-b", 1, nodetest.Minutes(1))}
	later := nodetest.Now.Add(300e6) // a status has whole seconds; otherwise it would differ from the stored one
	p := nodetest.Decide(f, later)
	want := []v1alpha1.CertificateDecision{
		{Name: "csr-a", UID: "csr-a", SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName, TokenID: nodetest.NthID(1),
			KeyFingerprint: nodetest.Must(csr.Fingerprint(f.Requests[0])), Verdict: v1alpha1.VerdictApproved, Reason: csr.ReasonKubeletClient, Time: metav1.NewTime(nodetest.Now)},
		{Name: "csr-b", UID: "csr-b", SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName, TokenID: nodetest.NthID(1),
			KeyFingerprint: nodetest.Must(csr.Fingerprint(f.Requests[1])), Verdict: v1alpha1.VerdictDenied, Reason: csr.ReasonSuperseded, Time: metav1.NewTime(nodetest.Now),
			Message: p.Decisions[1].Result.Message},
	}
	if got := status.Claimed(&p, f, later).Certificates; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestClaims(t *testing.T) {
	made, known := nodetest.ApprovedDecision("csr-a", 1, 0), nodetest.ApprovedDecision("csr-b", 1, time.Hour)
	plan := &lifecycle.Plan{Decisions: []lifecycle.Decision{{Record: made}, {Record: known}}}
	tests := map[string]struct {
		history []v1alpha1.CertificateDecision
		want    []v1alpha1.CertificateDecision
	}{
		"nothing is known":        {nil, []v1alpha1.CertificateDecision{known, made}},
		"one is known":            {[]v1alpha1.CertificateDecision{known}, []v1alpha1.CertificateDecision{made}},
		"both are known":          {[]v1alpha1.CertificateDecision{known, made}, nil},
		"known with another time": {[]v1alpha1.CertificateDecision{nodetest.ApprovedDecision("csr-a", 1, time.Minute), known}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Fresh()
			f.NodeBootstrap.Status.Certificates = tt.history
			f.UpgradeStatus()
			var got []v1alpha1.CertificateDecision
			if s := status.Claimed(plan, f, nodetest.Now); s != nil {
				got = s.Certificates[len(tt.history):]
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestClaimingDoesNotChangeTheStatusInTheFacts(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	nb := f.NodeBootstrap
	before := nb.Status.DeepCopy()
	plan := &lifecycle.Plan{Decisions: []lifecycle.Decision{{Record: nodetest.ApprovedDecision("csr-a", 1, 0)}}, Misuse: &problem.Problem{Reason: csr.ReasonSecondKey, Message: "misused"}}
	got := status.Claimed(plan, f, nodetest.Now)
	want := before.DeepCopy()
	want.Certificates = []v1alpha1.CertificateDecision{nodetest.ApprovedDecision("csr-a", 1, 0)}
	want.KeyFingerprints, want.FirstApprovalTime, want.Tokens = []string{"SHA256:00"}, &metav1.Time{Time: nodetest.Now}, []v1alpha1.LiveToken{}
	want.Conditions = append(want.Conditions, metav1.Condition{Type: v1alpha1.ConditionTokenMisused, Status: metav1.ConditionTrue,
		Reason: csr.ReasonSecondKey, Message: "misused", ObservedGeneration: nb.Generation, LastTransitionTime: metav1.NewTime(nodetest.Now)})
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if !reflect.DeepEqual(&nb.Status, before) {
		t.Error("the status in the facts is changed, which may be in a cache")
	}
}

// An approval of a serving certificate binds no key, so nothing is claimed.
func TestServingCertificatesAreNotClaimed(t *testing.T) {
	f := nodetest.JoinedBefore()
	nodetest.Edits(nodetest.Declares(), nodetest.Serves(nodetest.ServingRequest("serving-a", 0), nodetest.ServingRequest("serving-b", 0, nodetest.Naming())))(f)
	p := nodetest.Decide(f, nodetest.Now)
	if len(p.Decisions) != 2 || p.Misuse != nil {
		t.Fatalf("got %+v", nodetest.OutlineOf(&p))
	}
	for _, d := range p.Decisions {
		if d.Record != (v1alpha1.CertificateDecision{}) || d.Result.Message == "" {
			t.Errorf("got %+v", d)
		}
	}
	if claimed := status.Claimed(&p, f, nodetest.Now); claimed != nil {
		t.Errorf("got %s", nodetest.AsJSON(claimed))
	}
}
