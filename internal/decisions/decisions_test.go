// SPDX-License-Identifier: Apache-2.0

package decisions_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
)

// "kubectl certificate approve" stamps the approval with the clock of the machine that runs it.
func TestApprovalIsStampedByTheAPIServer(t *testing.T) {
	r := nodetest.Request("csr-a", 1, nodetest.Minutes(10), nodetest.Approved(nodetest.Minutes(9)))
	r.Status.Conditions[0].LastTransitionTime = nodetest.Ago(nodetest.Minutes(9))
	r.Status.Conditions[0].LastUpdateTime = metav1.NewTime(nodetest.Now.Add(time.Hour))
	if at, ok := csr.ApprovedAt(r); !ok || !at.Equal(new(nodetest.Ago(nodetest.Minutes(9)))) {
		t.Errorf("approved at %s", at)
	}
	if d, ok := decisions.ServingDecision(&certificatesv1.CertificateSigningRequest{Status: r.Status}); !ok || !d.Time.Equal(new(nodetest.Ago(nodetest.Minutes(9)))) {
		t.Errorf("recorded at %s", d.Time)
	}
}

func TestRecordIssued(t *testing.T) {
	type made = []v1alpha1.CertificateDecision
	unissued := nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(2))
	unissued.IssuedTime = nil
	mine := nodetest.Request("csr-a", 1, nodetest.Minutes(3), nodetest.Approved(nodetest.Minutes(1)), nodetest.WithCertificate)
	elsewhere := v1alpha1.CertificateDecision{
		Name: "csr-b", UID: "csr-b", SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName, TokenID: nodetest.NthID(1),
		Verdict: v1alpha1.VerdictApproved, Reason: "ApprovedElsewhere", Time: nodetest.Ago(nodetest.Minutes(1)), IssuedTime: new(nodetest.Ago(nodetest.Minutes(1))),
	}
	noted := unissued
	noted.IssuedTime = new(nodetest.Ago(nodetest.Minutes(1)))
	serving := nodetest.History("ssss") // takes none of the room
	for i := range serving {
		serving[i].Time = nodetest.Ago(0)
	}
	with := func(d v1alpha1.CertificateDecision, verdict v1alpha1.Verdict, reason string) made {
		d.Verdict, d.Reason = verdict, reason
		return made{d}
	}
	junk := nodetest.Request("csr-b", 1, nodetest.Minutes(3), nodetest.Approved(nodetest.Minutes(1)), nodetest.WithCertificate)
	junk.Spec.Request = []byte("junk")
	full := nodetest.History("aaaaaaaaaaaa") // an hour old
	pushed := append(made{}, full[1:]...)
	pushed = append(pushed, elsewhere)
	tests := map[string]struct {
		history made
		request *certificatesv1.CertificateSigningRequest
		want    made
	}{
		"the decision is ours":          {made{unissued}, mine, made{noted}},
		"it was recorded before":        {made{noted}, mine, made{noted}},
		"it is not issued":              {made{unissued}, nodetest.Request("csr-a", 1, 0, nodetest.Approved(0)), made{unissued}},
		"it is not approved":            {made{unissued}, nodetest.Request("csr-a", 1, 0, nodetest.WithCertificate), made{unissued}},
		"another approved it":           {nil, junk, made{elsewhere}},
		"an approval pushes one out":    {full, junk, pushed},
		"not in their place":            {slices.Concat(full, serving), junk, slices.Concat(pushed, serving)},
		"nor because of them":           {slices.Concat(full, serving), nodetest.Request("csr-z", 1, nodetest.Old, nodetest.Approved(nodetest.Old), nodetest.WithCertificate), slices.Concat(full, serving)},
		"room for one more":             {full[1:], junk, pushed},
		"but not newer ones":            {full, nodetest.Request("csr-z", 1, nodetest.Old, nodetest.Approved(nodetest.Old), nodetest.WithCertificate), full},
		"nor one as old":                {full, nodetest.Request("-csr", 1, nodetest.Old, nodetest.Approved(nodetest.Minutes(60)), nodetest.WithCertificate), full},
		"another one's is not recorded": {made{unissued}, nodetest.Request("csr-b", 1, 0), made{unissued}},
		"a second key stays one":        {with(unissued, v1alpha1.VerdictApproved, csr.ReasonSecondKey), mine, with(noted, v1alpha1.VerdictApproved, csr.ReasonSecondKey)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := v1alpha1.NodeBootstrapStatus{Certificates: slices.Clone(tt.history)}
			decisions.RecordIssued(&s, []*certificatesv1.CertificateSigningRequest{tt.request})
			if !reflect.DeepEqual(s.Certificates, tt.want) {
				t.Errorf("got  %v\nwant %v", s.Certificates, tt.want)
			}
		})
	}
}

// A cache lists CSRs in any order: the log is sorted by time.
func TestRecordIssuedGoesByTime(t *testing.T) {
	var s v1alpha1.NodeBootstrapStatus
	decisions.RecordIssued(&s, []*certificatesv1.CertificateSigningRequest{
		nodetest.Request("csr-a", 1, nodetest.Minutes(1), nodetest.Approved(nodetest.Minutes(1)), nodetest.WithCertificate),
		nodetest.Request("csr-c", 1, nodetest.Minutes(3), nodetest.Approved(nodetest.Minutes(3)), nodetest.WithCertificate),
		nodetest.Request("csr-b", 1, nodetest.Minutes(2), nodetest.Approved(nodetest.Minutes(2)), nodetest.WithCertificate),
	})
	if got, want := strings.Join(nodetest.Names(s.Certificates), " "), "csr-c csr-b csr-a"; got != want {
		t.Errorf("got %v, want %s", got, want)
	}
}
