// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// ever is before everything.
var ever time.Time

func TestRecordServing(t *testing.T) {
	type requests = []*certificatesv1.CertificateSigningRequest
	type decisions = []v1alpha1.CertificateDecision
	const isDenied = certificatesv1.CertificateDenied
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return servingRequest("serving-a", minutes(5), edit...)
	}
	b := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return servingRequest("serving-b", minutes(4), edit...)
	}
	recorded := func(age time.Duration) v1alpha1.CertificateDecision {
		return servingEntry("recorded", v1alpha1.VerdictApproved, csr.ReasonKubeletServing, age)
	}
	ours := func(age time.Duration) func(*certificatesv1.CertificateSigningRequest) {
		return func(r *certificatesv1.CertificateSigningRequest) {
			approved(age)(r)
			reason(csr.ReasonKubeletServing)(r)
		}
	}
	deniedFor := func(text string) func(*certificatesv1.CertificateSigningRequest) {
		return func(r *certificatesv1.CertificateSigningRequest) {
			decided(isDenied, 0)(r)
			reason(text)(r)
		}
	}
	full := history("aosmxxxxxxxxxxxx") // an hour old
	tests := map[string]struct {
		history  decisions
		requests requests
		want     string // "name: verdict reason" of what is added
	}{
		"none":                           {nil, nil, ""},
		"none is decided on":             {nil, requests{a(), b()}, ""},
		"one failed":                     {nil, requests{a(decided(certificatesv1.CertificateFailed, 0))}, ""},
		"ours":                           {nil, requests{a(ours(0))}, "serving-a: Approved KubeletServingOfThisNode"},
		"issued":                         {nil, requests{a(ours(0), withCertificate)}, "serving-a: Approved KubeletServingOfThisNode"},
		"ours that failed":               {nil, requests{a(ours(0), decided(certificatesv1.CertificateFailed, 0))}, "serving-a: Approved KubeletServingOfThisNode"},
		"another's":                      {nil, requests{a(approved(0), reason("AutoApproved"))}, "serving-a: Approved ApprovedElsewhere"},
		"another's like a token's":       {nil, requests{a(approved(0), reason(csr.ReasonKubeletClient))}, "serving-a: Approved ApprovedElsewhere"},
		"another's like a theft's":       {nil, requests{a(approved(0), reason(csr.ReasonSecondKey))}, "serving-a: Approved ApprovedElsewhere"},
		"denied":                         {nil, requests{a(deniedFor(csr.ReasonNoAddress))}, "serving-a: Denied NoAddress"},
		"denied by another":              {nil, requests{a(deniedFor("Because"))}, "serving-a: Denied DeniedElsewhere"},
		"denied like a client's":         {nil, requests{a(deniedFor(csr.ReasonSecondKey))}, "serving-a: Denied DeniedElsewhere"},
		"denied for no reason":           {nil, requests{a(deniedFor(""))}, "serving-a: Denied DeniedElsewhere"},
		"two":                            {nil, requests{a(ours(minutes(3))), b(deniedFor("WrongKey"))}, "serving-a: Approved KubeletServingOfThisNode, serving-b: Denied WrongKey"},
		"in the order of the verdicts":   {nil, requests{a(ours(0)), b(ours(minutes(3)))}, "serving-b: Approved KubeletServingOfThisNode, serving-a: Approved KubeletServingOfThisNode"},
		"in a second, that of the names": {nil, requests{b(ours(0)), a(ours(0))}, "serving-a: Approved KubeletServingOfThisNode, serving-b: Approved KubeletServingOfThisNode"},
		"known":                          {decisions{servingEntry("serving-a", v1alpha1.VerdictApproved, csr.ReasonKubeletServing, 0)}, requests{a(ours(0))}, ""},
		"known, and one more":            {decisions{servingEntry("serving-a", v1alpha1.VerdictApproved, csr.ReasonKubeletServing, 0)}, requests{a(ours(0)), b(ours(0))}, "serving-b: Approved KubeletServingOfThisNode"},
		"older than the last known":      {decisions{recorded(minutes(2))}, requests{a(ours(minutes(3)))}, "serving-a: Approved KubeletServingOfThisNode"},
		"of its second":                  {decisions{recorded(minutes(3))}, requests{a(ours(minutes(3)))}, "serving-a: Approved KubeletServingOfThisNode"},
		"newer":                          {decisions{recorded(minutes(3))}, requests{a(ours(minutes(2)))}, "serving-a: Approved KubeletServingOfThisNode"},
		"newer than one of two":          {decisions{recorded(minutes(1)), recorded(minutes(3))}, requests{a(ours(minutes(2)))}, "serving-a: Approved KubeletServingOfThisNode"},
		"a token's do not count":         {decisions{approvedDecision("csr-a", 1, 0)}, requests{a(ours(minutes(3)))}, "serving-a: Approved KubeletServingOfThisNode"},
		"one for another":                {full, requests{a(deniedFor("WrongKey"))}, "serving-a: Denied WrongKey"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before, order := slices.Clone(tt.history), slices.Clone(tt.requests)
			s := v1alpha1.NodeBootstrapStatus{Certificates: slices.Clone(tt.history)}
			recordServing(&s, tt.requests, ever)
			got := slices.Clone(s.Certificates)
			var added []string
			for _, d := range got {
				if decisionOn(tt.history, d.UID) < 0 {
					added = append(added, fmt.Sprintf("%s: %s %s", d.Name, d.Verdict, d.Reason))
				}
			}
			if text := strings.Join(added, ", "); text != tt.want {
				t.Errorf("got  %s\nwant %s", text, tt.want)
			}
			if !reflect.DeepEqual(before, tt.history) || !slices.Equal(order, tt.requests) {
				t.Error("what was read is changed")
			}
			if recordServing(&s, tt.requests, ever); !reflect.DeepEqual(s.Certificates, got) {
				t.Errorf("it goes on to %s", asJSON(s.Certificates))
			}
		})
	}
}

// Who decided before there was a NodeBootstrap is none of its business.
func TestRecordServingSinceTheNodeBootstrap(t *testing.T) {
	for age, want := range map[time.Duration]int{minutes(59): 1, minutes(60): 1, minutes(61): 0} {
		f := joinedBefore() // an hour ago
		records()(f)
		edits(declares(), serves(servingRequest("serving-a", old, approved(age))))(f)
		if got := reported(f, Outcome{}).Certificates; len(got) != want {
			t.Errorf("decided on %s ago: got %v", age, names(got))
		}
	}
}

// Of very many at once the last few are recorded, however often.
func TestRecordServingTakesTheLastFew(t *testing.T) {
	for _, count := range []int{1, 2, 6, 40} {
		for known := range 3 {
			var s v1alpha1.NodeBootstrapStatus
			requests := servingRequests(count, approved(0))
			if known < count {
				recordServing(&s, requests[known:known+1], ever)
			}
			for n := range 3 {
				recordServing(&s, requests, ever)
				have := s.Certificates
				slices.Reverse(requests)
				last := fmt.Sprintf("serving/%02d", count-1)
				if len(have) > 4 || len(have) < min(count, 3) || have[len(have)-1].Name != last && decisionOn(have, types.UID(last)) < 0 {
					t.Errorf("of %d, the %dth time: got %v", count, n, names(have))
				}
			}
		}
	}
}

func TestServingEntriesAreComplete(t *testing.T) {
	r := servingRequest("serving-a", minutes(5), approved(minutes(1)), withCertificate)
	want := servingEntry("serving-a", v1alpha1.VerdictApproved, reasonApprovedElsewhere, minutes(1))
	want.KeyFingerprint = must(csr.Fingerprint(r))
	var s v1alpha1.NodeBootstrapStatus
	recordServing(&s, []*certificatesv1.CertificateSigningRequest{r}, ever)
	if got := s.Certificates; len(got) != 1 || !reflect.DeepEqual(got[0], want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// Twenty decisions of one pass have the same second, and a cache lists requests in any order. The status must come to rest
// at once, and nothing is told twice.
func TestStatusRestsWithManyServingDecisions(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		f := joinedBefore()
		declares()(f)
		letters := "adDixsmoA"
		var before strings.Builder
		for range random.IntN(maxTokenEntries + maxServingEntries + 1) {
			before.WriteByte(letters[random.IntN(len(letters))])
		}
		f.NodeBootstrap.Status.Certificates = history(before.String())
		seconds := 1 + random.IntN(3)
		for i := range 1 + random.IntN(40) {
			age := time.Duration(random.IntN(seconds)) * time.Second
			verdict := []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied}[random.IntN(2)]
			r := blank(fmt.Sprintf("serving-%02d", i))
			decided(verdict, age)(r)
			f.ServingRequests = append(f.ServingRequests, r)
		}
		told := map[string]int{}
		var first string
		for n := range 5 {
			random.Shuffle(len(f.ServingRequests), func(i, j int) {
				f.ServingRequests[i], f.ServingRequests[j] = f.ServingRequests[j], f.ServingRequests[i]
			})
			p := decide(f, now)
			status := Report(f, &p, &Outcome{}, now)
			for _, d := range NewDecisions(&f.NodeBootstrap.Status, status) {
				told[d.Name]++
			}
			f.NodeBootstrap.Status = *status
			if n == 0 {
				first = asJSON(status)
			} else if got := asJSON(status); got != first {
				t.Fatalf("seed %d, pass %d: after %s the status flaps from\n%s to\n%s", seed, n, before.String(), first, got)
			}
		}
		if len(told) > 4 || slices.ContainsFunc(f.ServingRequests, func(r *certificatesv1.CertificateSigningRequest) bool { return told[r.Name] > 1 }) {
			t.Errorf("seed %d: told of %v", seed, told)
		}
	}
}

// blank is a serving request without content, which takes no time to make.
func blank(name string) *certificatesv1.CertificateSigningRequest {
	r := &certificatesv1.CertificateSigningRequest{}
	r.Name, r.UID, r.Spec.SignerName = name, types.UID(name), certificatesv1.KubeletServingSignerName
	return r
}
