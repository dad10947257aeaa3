// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// A request in another node's name that somebody had denied before the operator saw it raised no alarm: the token stayed live, in
// whose hands it may have been.
func TestEvidenceThatOthersHaveSettled(t *testing.T) {
	const failed = certificatesv1.CertificateFailed
	other, claim := forNode("worker-2"), claimed("csr-c") // a minute ago
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) func(*Facts) {
		return further(request("csr-a", 1, 0, edit...))
	}
	byUs := func(reason string) func(*certificatesv1.CertificateSigningRequest) {
		return judged(certificatesv1.CertificateDenied, reason, "x", 0)
	}
	first := outline{phase: Awaited, token: "#1"}
	testPlans(t, map[string]planned{
		"another node":                        {awaited(1, young), a(other, kubectlDeny(0)), withdrawn("csr-a: Denied", "WrongSubject")},
		"another node, failed":                {awaited(1, young), a(other, decided(failed, 0)), withdrawn("csr-a: Denied", "WrongSubject")},
		"another node, issued":                {awaited(1, young), a(other, withCertificate), withdrawn("csr-a: Approved", "WrongSubject")},
		"another node, a key is approved":     {awaited(1, young), edits(claim, a(other, kubectlDeny(0))), alarmed("csr-a: Denied", "WrongSubject")},
		"another node, and a sound one":       {awaited(1, young), edits(a(other, kubectlDeny(0)), further(request("csr-b", 1, 0))), withdrawn("csr-a: Denied", "WrongSubject")},
		"another signer":                      {awaited(1, young), a(anotherSigner, kubectlDeny(0)), withdrawn("csr-a: Denied", "WrongSigner")},
		"a second key, the first is not used": {awaited(1, young), edits(claim, a(kubectlDeny(0))), alarmed("csr-a: Denied", "")},
		"a second key, the first is used":     {awaited(1, young), edits(claim, registered(0), a(kubectlDeny(0))), alarmed("csr-a: Denied", "SecondKey")},
		"with approval Manual":                {awaited(1, young), edits(approval(v1alpha1.ApprovalManual), a(other, kubectlDeny(0))), withdrawn("csr-a: Denied", "WrongSubject")},
		"no evidence":                         {awaited(1, young), a(kubectlDeny(0)), first},
		"no evidence: too long":               {awaited(1, young), a(tooLong, kubectlDeny(0)), first},
		"no evidence: with ClusterWide":       {awaited(1, young), edits(approval(v1alpha1.ApprovalClusterWide), a(other, kubectlDeny(0))), first.repairing("#1")},
		"the operator's own":                  {awaited(1, young), a(other, byUs(csr.ReasonWrongSubject)), first},
		"the operator's own, for the token":   {awaited(1, young), a(other, byUs(ReasonTokenRevoked)), first},
		"on record":                           {awaited(1, young), edits(claim, a(other, kubectlDeny(0)), onRecord("csr-a", reasonDeniedElsewhere)), first},
		"the token is gone":                   {awaited(1, young), further(request("csr-a", 7, minutes(1), other, kubectlDeny(0))), first},
		"before the token":                    {awaited(1, young), further(request("csr-a", 1, minutes(61), other, kubectlDeny(0))), first},
		"a reissue is due":                    {awaited(1, young), edits(a(other, kubectlDeny(0)), askReissue), outline{phase: Awaited, reissue: true, mint: "#2", deleteToken: "#1"}},
		"joined":                              {joinedBefore(), a(other, kubectlDeny(0)), outline{phase: Joined}},
		"deleted":                             {awaited(1, young), edits(a(other, kubectlDeny(0)), func(f *Facts) { f.NodeBootstrap = nil }), outline{phase: Gone, deleteToken: "#1", dropConfig: true}},
		"an alarm stands: recorded the same":  {awaited(1, young), edits(claim, raised("SecondKey"), a(other, kubectlDeny(0))), alarmed("csr-a: Denied", "WrongSubject")},
	})
}

// onRecord has a denial of a request in the record.
func onRecord(name, reason string) func(*Facts) {
	return func(f *Facts) {
		d := deniedDecision(name, 1, 0)
		d.Reason = reason
		f.NodeBootstrap.Status.Certificates = append(f.NodeBootstrap.Status.Certificates, d)
	}
}

// The record, the alarm and the event say who decided; the report that a claim was not stored for leaves the evidence to the next one.
func TestSettledEvidenceIsReportedOnce(t *testing.T) {
	f := awaited(1, young)
	f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, minutes(3), forNode("worker-2"), kubectlDeny(minutes(2)))}
	if got := reportOf(f).Certificates; len(got) > 0 {
		t.Errorf("without its claim it is recorded as %+v", got)
	}
	before := f.NodeBootstrap.Status.DeepCopy()
	p := decide(f, now)
	f.NodeBootstrap.Status = *p.Claimed(f, now)
	status := reportOf(f)
	if len(status.Certificates) != 1 {
		t.Fatalf("the record is %+v", status.Certificates)
	}
	const text = "someone else denied it first: the subject asked for is"
	d := status.Certificates[0]
	if d.Verdict != v1alpha1.VerdictDenied || d.Reason != csr.ReasonWrongSubject || !strings.HasPrefix(d.Message, text) {
		t.Errorf("the record is %+v", d)
	}
	if alarm := alarmOf(status); alarm == nil || alarm.Reason != csr.ReasonWrongSubject || !strings.Contains(alarm.Message, text) {
		t.Errorf("the alarm is %+v", alarm)
	}
	events := Events(before, status)
	if len(events) == 0 || events[0].Type != corev1.EventTypeWarning || !strings.Contains(events[0].Note, "csr-a") || !strings.Contains(events[0].Note, text) {
		t.Errorf("the events are %+v", events)
	}
	for _, e := range events {
		if strings.Contains(e.Note, "denying") || strings.Contains(e.Note, "approv") {
			t.Errorf("an event says %q", e.Note)
		}
	}
	f.NodeBootstrap.Status = *status
	if again := reportOf(f); !reflect.DeepEqual(again, status) {
		t.Errorf("it is written again:\n%+v\n%+v", status, again)
	}
}

// However many there are, and whoever denied them, a token has its eight decisions and the record comes to rest.
func TestSettledEvidenceIsBounded(t *testing.T) {
	for _, claims := range []int{0, 1, 6, 12} {
		f := awaited(1, young)
		claimed("csr-c")(f)
		for i := range claims {
			f.NodeBootstrap.Status.Certificates = append(f.NodeBootstrap.Status.Certificates, approvedDecision(fmt.Sprint("old-", i), 2+i, minutes(59-i)))
		}
		for i := range 40 {
			f.Requests = append(f.Requests, request(fmt.Sprint("csr-", i), 1, minutes(0), forNode("worker-2"), kubectlDeny(0)))
		}
		rounds := 0
		for ; rounds < 5; rounds++ {
			p := decide(f, now)
			if len(p.Decisions) == 0 {
				break
			}
			status := p.Claimed(f, now)
			if status == nil {
				t.Fatalf("%d claims: %d decisions change nothing", claims, len(p.Decisions))
			}
			f.NodeBootstrap.Status = *status
			f.NodeBootstrap.Status = *reportOf(f)
		}
		if rounds == 0 || rounds > 2 {
			t.Errorf("%d claims: it came to rest after %d rounds", claims, rounds)
		}
		if alarmOf(&f.NodeBootstrap.Status) == nil {
			t.Errorf("%d claims: there is no alarm", claims)
		}
		if n := len(f.decidedWith(nthID(1))); n > maxDecisionsPerToken+1 {
			t.Errorf("%d claims: %d decisions on one token", claims, n)
		}
	}
}
