// SPDX-License-Identifier: Apache-2.0

package decisions_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
)

// ever is before any time.
var ever time.Time

func TestRecordServing(t *testing.T) {
	type requests = []*certificatesv1.CertificateSigningRequest
	type made = []v1alpha1.CertificateDecision
	const isDenied = certificatesv1.CertificateDenied
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return nodetest.ServingRequest("serving-a", nodetest.Minutes(5), edit...)
	}
	b := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return nodetest.ServingRequest("serving-b", nodetest.Minutes(4), edit...)
	}
	recorded := func(age time.Duration) v1alpha1.CertificateDecision {
		return nodetest.ServingEntry("recorded", v1alpha1.VerdictApproved, csr.ReasonKubeletServing, age)
	}
	ours := func(age time.Duration) func(*certificatesv1.CertificateSigningRequest) {
		return func(r *certificatesv1.CertificateSigningRequest) {
			nodetest.Approved(age)(r)
			nodetest.Reason(csr.ReasonKubeletServing)(r)
		}
	}
	deniedFor := func(text string) func(*certificatesv1.CertificateSigningRequest) {
		return func(r *certificatesv1.CertificateSigningRequest) {
			nodetest.Decided(isDenied, 0)(r)
			nodetest.Reason(text)(r)
		}
	}
	full := nodetest.History("aosmxxxxxxxxxxxx") // an hour old
	tests := map[string]struct {
		history  made
		requests requests
		want     string // "name: verdict reason" of what is added
	}{
		"none":                           {nil, nil, ""},
		"none is decided on":             {nil, requests{a(), b()}, ""},
		"one failed":                     {nil, requests{a(nodetest.Decided(certificatesv1.CertificateFailed, 0))}, ""},
		"ours":                           {nil, requests{a(ours(0))}, "serving-a: Approved KubeletServingOfThisNode"},
		"issued":                         {nil, requests{a(ours(0), nodetest.WithCertificate)}, "serving-a: Approved KubeletServingOfThisNode"},
		"ours that failed":               {nil, requests{a(ours(0), nodetest.Decided(certificatesv1.CertificateFailed, 0))}, "serving-a: Approved KubeletServingOfThisNode"},
		"another's":                      {nil, requests{a(nodetest.Approved(0), nodetest.Reason("AutoApproved"))}, "serving-a: Approved ApprovedElsewhere"},
		"another's like a token's":       {nil, requests{a(nodetest.Approved(0), nodetest.Reason(csr.ReasonKubeletClient))}, "serving-a: Approved ApprovedElsewhere"},
		"another's like a theft's":       {nil, requests{a(nodetest.Approved(0), nodetest.Reason(csr.ReasonSecondKey))}, "serving-a: Approved ApprovedElsewhere"},
		"denied":                         {nil, requests{a(deniedFor(csr.ReasonNoAddress))}, "serving-a: Denied NoAddress"},
		"denied by another":              {nil, requests{a(deniedFor("Because"))}, "serving-a: Denied DeniedElsewhere"},
		"denied like a client's":         {nil, requests{a(deniedFor(csr.ReasonSecondKey))}, "serving-a: Denied DeniedElsewhere"},
		"denied for no reason":           {nil, requests{a(deniedFor(""))}, "serving-a: Denied DeniedElsewhere"},
		"two":                            {nil, requests{a(ours(nodetest.Minutes(3))), b(deniedFor("WrongKey"))}, "serving-a: Approved KubeletServingOfThisNode, serving-b: Denied WrongKey"},
		"in the order of the verdicts":   {nil, requests{a(ours(0)), b(ours(nodetest.Minutes(3)))}, "serving-b: Approved KubeletServingOfThisNode, serving-a: Approved KubeletServingOfThisNode"},
		"in a second, that of the names": {nil, requests{b(ours(0)), a(ours(0))}, "serving-a: Approved KubeletServingOfThisNode, serving-b: Approved KubeletServingOfThisNode"},
		"known":                          {made{nodetest.ServingEntry("serving-a", v1alpha1.VerdictApproved, csr.ReasonKubeletServing, 0)}, requests{a(ours(0))}, ""},
		"known, and one more":            {made{nodetest.ServingEntry("serving-a", v1alpha1.VerdictApproved, csr.ReasonKubeletServing, 0)}, requests{a(ours(0)), b(ours(0))}, "serving-b: Approved KubeletServingOfThisNode"},
		"older than the last known":      {made{recorded(nodetest.Minutes(2))}, requests{a(ours(nodetest.Minutes(3)))}, "serving-a: Approved KubeletServingOfThisNode"},
		"of its second":                  {made{recorded(nodetest.Minutes(3))}, requests{a(ours(nodetest.Minutes(3)))}, "serving-a: Approved KubeletServingOfThisNode"},
		"newer":                          {made{recorded(nodetest.Minutes(3))}, requests{a(ours(nodetest.Minutes(2)))}, "serving-a: Approved KubeletServingOfThisNode"},
		"newer than one of two":          {made{recorded(nodetest.Minutes(1)), recorded(nodetest.Minutes(3))}, requests{a(ours(nodetest.Minutes(2)))}, "serving-a: Approved KubeletServingOfThisNode"},
		"a token's do not count":         {made{nodetest.ApprovedDecision("csr-a", 1, 0)}, requests{a(ours(nodetest.Minutes(3)))}, "serving-a: Approved KubeletServingOfThisNode"},
		"one for another":                {full, requests{a(deniedFor("WrongKey"))}, "serving-a: Denied WrongKey"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before, order := slices.Clone(tt.history), slices.Clone(tt.requests)
			s := v1alpha1.NodeBootstrapStatus{Certificates: slices.Clone(tt.history)}
			decisions.RecordServing(&s, tt.requests, ever)
			got := slices.Clone(s.Certificates)
			var added []string
			for _, d := range got {
				if decisions.Find(tt.history, d.UID) < 0 {
					added = append(added, fmt.Sprintf("%s: %s %s", d.Name, d.Verdict, d.Reason))
				}
			}
			if text := strings.Join(added, ", "); text != tt.want {
				t.Errorf("got  %s\nwant %s", text, tt.want)
			}
			if !reflect.DeepEqual(before, tt.history) || !slices.Equal(order, tt.requests) {
				t.Error("the input is changed")
			}
			if decisions.RecordServing(&s, tt.requests, ever); !reflect.DeepEqual(s.Certificates, got) {
				t.Errorf("it goes on to %s", nodetest.AsJSON(s.Certificates))
			}
		})
	}
}

// Of very many decisions at once the last few are recorded, however often.
func TestRecordServingTakesTheLastFew(t *testing.T) {
	for _, count := range []int{1, 2, 6, 40} {
		for known := range 3 {
			var s v1alpha1.NodeBootstrapStatus
			requests := nodetest.ServingRequests(count, nodetest.Approved(0))
			if known < count {
				decisions.RecordServing(&s, requests[known:known+1], ever)
			}
			for n := range 3 {
				decisions.RecordServing(&s, requests, ever)
				have := s.Certificates
				slices.Reverse(requests)
				last := fmt.Sprintf("serving/%02d", count-1)
				if len(have) > 4 || len(have) < min(count, 3) || have[len(have)-1].Name != last && decisions.Find(have, types.UID(last)) < 0 {
					t.Errorf("of %d, the %dth time: got %v", count, n, nodetest.Names(have))
				}
			}
		}
	}
}

func TestServingEntriesAreComplete(t *testing.T) {
	r := nodetest.ServingRequest("serving-a", nodetest.Minutes(5), nodetest.Approved(nodetest.Minutes(1)), nodetest.WithCertificate)
	want := nodetest.ServingEntry("serving-a", v1alpha1.VerdictApproved, decisions.ReasonApprovedElsewhere, nodetest.Minutes(1))
	want.KeyFingerprint = nodetest.Must(csr.Fingerprint(r))
	var s v1alpha1.NodeBootstrapStatus
	decisions.RecordServing(&s, []*certificatesv1.CertificateSigningRequest{r}, ever)
	if got := s.Certificates; len(got) != 1 || !reflect.DeepEqual(got[0], want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
