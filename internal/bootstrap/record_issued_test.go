// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

func TestRecordIssued(t *testing.T) {
	type decisions = []v1alpha1.CertificateDecision
	unissued := approvedDecision("csr-a", 1, minutes(2))
	unissued.IssuedTime = nil
	mine := request("csr-a", 1, minutes(3), approved(minutes(1)), withCertificate)
	elsewhere := v1alpha1.CertificateDecision{
		Name: "csr-b", UID: "csr-b", SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName, TokenID: nthID(1),
		Verdict: v1alpha1.VerdictApproved, Reason: "ApprovedElsewhere", Time: ago(minutes(1)), IssuedTime: new(ago(minutes(1))),
	}
	noted := unissued
	noted.IssuedTime = new(ago(minutes(1)))
	serving := history("ssss") // takes none of the room
	for i := range serving {
		serving[i].Time = ago(0)
	}
	with := func(d v1alpha1.CertificateDecision, verdict v1alpha1.Verdict, reason string) decisions {
		d.Verdict, d.Reason = verdict, reason
		return decisions{d}
	}
	junk := request("csr-b", 1, minutes(3), approved(minutes(1)), withCertificate)
	junk.Spec.Request = []byte("junk")
	full := history("aaaaaaaaaaaa") // an hour old
	pushed := append(decisions{}, full[1:]...)
	pushed = append(pushed, elsewhere)
	tests := map[string]struct {
		history decisions
		request *certificatesv1.CertificateSigningRequest
		want    decisions
	}{
		"the decision is ours":       {decisions{unissued}, mine, decisions{noted}},
		"it was noted before":        {decisions{noted}, mine, decisions{noted}},
		"it is not issued":           {decisions{unissued}, request("csr-a", 1, 0, approved(0)), decisions{unissued}},
		"it is not approved":         {decisions{unissued}, request("csr-a", 1, 0, withCertificate), decisions{unissued}},
		"another approved it":        {nil, junk, decisions{elsewhere}},
		"an approval pushes one out": {full, junk, pushed},
		"not in their place":         {slices.Concat(full, serving), junk, slices.Concat(pushed, serving)},
		"nor because of them":        {slices.Concat(full, serving), request("csr-z", 1, old, approved(old), withCertificate), slices.Concat(full, serving)},
		"room for one more":          {full[1:], junk, pushed},
		"but not newer ones":         {full, request("csr-z", 1, old, approved(old), withCertificate), full},
		"nor one as old":             {full, request("-csr", 1, old, approved(minutes(60)), withCertificate), full},
		"another one's is not noted": {decisions{unissued}, request("csr-b", 1, 0), decisions{unissued}},
		"a second key stays one":     {with(unissued, v1alpha1.VerdictApproved, csr.ReasonSecondKey), mine, with(noted, v1alpha1.VerdictApproved, csr.ReasonSecondKey)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := v1alpha1.NodeBootstrapStatus{Certificates: slices.Clone(tt.history)}
			recordIssued(&s, []*certificatesv1.CertificateSigningRequest{tt.request})
			if !reflect.DeepEqual(s.Certificates, tt.want) {
				t.Errorf("got  %v\nwant %v", s.Certificates, tt.want)
			}
		})
	}
}

// A cache lists requests in any order: the history goes by time.
func TestRecordIssuedGoesByTime(t *testing.T) {
	var s v1alpha1.NodeBootstrapStatus
	recordIssued(&s, []*certificatesv1.CertificateSigningRequest{
		request("csr-a", 1, minutes(1), approved(minutes(1)), withCertificate),
		request("csr-c", 1, minutes(3), approved(minutes(3)), withCertificate),
		request("csr-b", 1, minutes(2), approved(minutes(2)), withCertificate),
	})
	if got, want := strings.Join(names(s.Certificates), " "), "csr-c csr-b csr-a"; got != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// Someone else was faster than a denial: a certificate is out, whatever is recorded of it.
func TestRecordOvertaken(t *testing.T) {
	mine := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return request("csr-a", 1, minutes(3), edit...)
	}
	tests := map[string]struct {
		letter  rune
		reason  string
		request *certificatesv1.CertificateSigningRequest
		want    string
	}{
		"denied":                      {'d', csr.ReasonSuperseded, mine(), "Denied Superseded"},
		"denied, and approved":        {'d', csr.ReasonSuperseded, mine(approved(0)), "Approved ApprovedElsewhere"},
		"denied, and issued":          {'d', csr.ReasonWrongUsages, mine(approved(0), withCertificate), "Approved ApprovedElsewhere"},
		"evidence, and approved":      {'d', csr.ReasonWrongSubject, mine(approved(0), forNode("worker-2")), "Approved WrongSubject"},
		"another signer's, approved":  {'d', csr.ReasonWrongSigner, mine(approved(0), anotherSigner), "Approved WrongSigner"},
		"ignored":                     {'i', ReasonTooManyRequests, mine(), "Ignored TooManyRequests"},
		"ignored, and approved":       {'i', ReasonTooManyRequests, mine(approved(0)), "Approved TooManyRequests"},
		"approved":                    {'a', csr.ReasonKubeletClient, mine(approved(0)), "Approved KubeletClientOfThisNode"},
		"denied, another is approved": {'d', csr.ReasonSuperseded, request("csr-b", 1, 0, approved(0)), "Denied Superseded"},
		"the request is gone":         {'d', csr.ReasonSuperseded, nil, "Denied Superseded"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := awaited(1, young)
			if tt.request != nil {
				with(tt.request)(f)
			}
			d := because(tt.reason, decision(tt.letter, "csr-a"))
			d.IssuedTime = nil
			records(d)(f)
			before := f.NodeBootstrap.Status.DeepCopy()
			got := Report(f, &Plan{Phase: Awaited}, &Outcome{}, now).Certificates
			if len(got) == 0 || string(got[0].Verdict)+" "+got[0].Reason != tt.want || got[0].KeyFingerprint != d.KeyFingerprint || got[0].Time != d.Time {
				t.Errorf("got %+v, want %s", got, tt.want)
			}
			if !reflect.DeepEqual(before, &f.NodeBootstrap.Status) {
				t.Error("the history that was read is changed")
			}
		})
	}
}

// That a certificate was issued is written down with the join, which follows soon: one write less for each node. If it does not
// follow, it is written down by itself.
func TestRecordThatACertificateWasIssuedWaitsForTheJoin(t *testing.T) {
	const since = 10 * time.Second
	claimed := approvedDecision("csr-a", 1, since)
	claimed.IssuedTime = nil
	facts := func(age time.Duration, history ...v1alpha1.CertificateDecision) *Facts {
		f := awaited(1, minutes(1))
		f.NodeBootstrap.Status.Certificates = history
		f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, age, approved(age), withCertificate)}
		return f
	}
	joining := facts(since, claimed)
	joining.Node, joining.LeaseRenewed = nodeMade(time.Second), now
	for name, tt := range map[string]struct {
		f     *Facts
		tells bool
		again time.Duration
	}{
		"it waits":                          {facts(since, claimed), false, joinSoon - since},
		"not for long":                      {facts(joinSoon, claimed), true, 0},
		"nor when the node has joined":      {joining, true, 0},
		"nor when someone else approved it": {facts(since), true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := decide(tt.f, now)
			status := Report(tt.f, &p, &Outcome{Token: p.Token, Published: p.Token != nil, Acceptance: Accepted}, now)
			if tells := len(status.Certificates) == 1 && status.Certificates[0].IssuedTime != nil; tells != tt.tells {
				t.Errorf("the status tells of it: %v", tells)
			}
			if tt.again > 0 && !p.RequeueAt.Equal(now.Add(tt.again)) {
				t.Errorf("it is looked at again at %s", p.RequeueAt)
			}
		})
	}
}
