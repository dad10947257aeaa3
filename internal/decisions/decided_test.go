// SPDX-License-Identifier: Apache-2.0

package decisions_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

func TestNewDecisions(t *testing.T) {
	unissued := nodetest.ApprovedDecision("0", 1, time.Hour)
	unissued.IssuedTime = nil
	tests := map[string]struct {
		old, new []v1alpha1.CertificateDecision
		want     string
	}{
		"none":                   {nil, nil, ""},
		"the first":              {nil, nodetest.History("ad"), "0 1"},
		"known":                  {nodetest.History("ad"), nodetest.History("ad"), ""},
		"one more":               {nodetest.History("a"), nodetest.History("ad"), "1"},
		"in another order":       {nodetest.History("ad"), slices.Concat(nodetest.History("ad")[1:], nodetest.History("a")), ""},
		"removed":                {nodetest.History("ad"), nodetest.History("a"), ""},
		"one for another":        {nodetest.History("ad")[:1], nodetest.History("ad")[1:], "1"},
		"issued since":           {[]v1alpha1.CertificateDecision{unissued}, nodetest.History("a"), ""},
		"with another verdict":   {nodetest.History("d"), nodetest.History("a"), ""},
		"of a name that was had": {nodetest.History("a"), []v1alpha1.CertificateDecision{{Name: "0", UID: "another"}}, "0"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			old, now := v1alpha1.NodeBootstrapStatus{Certificates: tt.old}, v1alpha1.NodeBootstrapStatus{Certificates: tt.new}
			before := now.DeepCopy()
			if got := strings.Join(nodetest.Names(decisions.New(&old, &now)), " "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if !reflect.DeepEqual(before, &now) {
				t.Error("the status is changed")
			}
		})
	}
}

func TestMisuseIsEvidence(t *testing.T) {
	evidence := []string{csr.ReasonWrongSubject, csr.ReasonWrongSigner, csr.ReasonSecondKey, decisions.ReasonTooManyRequests}
	others := []string{csr.ReasonSuperseded, csr.ReasonKubeletClient, csr.ReasonWrongRequester, csr.ReasonWrongUsages, csr.ReasonWrongDuration,
		csr.ReasonTooLarge, csr.ReasonMalformed, csr.ReasonBadSignature, csr.ReasonWrongKey, csr.ReasonUnexpectedAttributes, csr.ReasonOlderThanToken,
		csr.ReasonTokenExpired, csr.ReasonNotOurs, decisions.ReasonApprovedElsewhere, decisions.ReasonDeniedElsewhere, ""}
	for _, reason := range evidence {
		if !decisions.Misuse(reason) {
			t.Errorf("%s is no evidence", reason)
		}
	}
	for _, reason := range others {
		if decisions.Misuse(reason) {
			t.Errorf("%s is evidence", reason)
		}
	}
}

func TestEvidenceIsAboutTokens(t *testing.T) {
	for letter, want := range map[rune]bool{'a': false, 'd': true, 'i': true, 'm': true, 'o': true, 's': false, 'x': false} {
		if d := nodetest.Decision(letter, "csr-a"); decisions.Evidence(d) != want {
			t.Errorf("%+v: got %v", d, !want)
		}
	}
	if decisions.Evidence(nodetest.ServingEntry("serving-a", v1alpha1.VerdictDenied, csr.ReasonWrongSubject, 0)) {
		t.Error("a node that asks for another one's serving certificate has misused no token")
	}
}

// tokenStatus names the first token.
func tokenStatus() *v1alpha1.NodeBootstrapStatus {
	s := nodetest.StatusOf(1, nodetest.Young)
	decisions.SetTokens(&s, []token.Token{nodetest.Token(1, nodetest.Young)})
	return &s
}

// The approval of a pinned key is recorded late: the decisions stay in the order of their times, and a key that was denied since then is
// still the newest.
func TestLateRecordKeepsTheOrder(t *testing.T) {
	s := tokenStatus()
	denied := nodetest.Because(csr.ReasonKeyReplaced, nodetest.DeniedDecision("csr-b", 1, 10*time.Second))
	denied.KeyFingerprint = "SHA256:11"
	decisions.Record(s, denied)
	decisions.Record(s, nodetest.ApprovedDecision("csr-a", 1, time.Minute))
	if csrs := s.Tokens[0].CSRs; len(csrs) != 2 || csrs[0].Name != "csr-a" || csrs[1].Name != "csr-b" {
		t.Errorf("the decisions are %+v", csrs)
	}
	if s.ReplacedKey == nil || s.ReplacedKey.Name != "csr-b" {
		t.Errorf("the replaced key is %+v", s.ReplacedKey)
	}
	decisions.Record(s, nodetest.ApprovedDecision("csr-c", 1, 0))
	if s.ReplacedKey == nil {
		t.Error("a known key ended the search for the newest one")
	}
	other := nodetest.ApprovedDecision("csr-d", 1, 0)
	other.KeyFingerprint = "SHA256:22"
	if decisions.Record(s, other); s.ReplacedKey != nil {
		t.Errorf("after a further approval the replaced key is %+v", s.ReplacedKey)
	}
}

// Copies of a CSR with a pinned key, which anyone with the token can send, cost no status writes for ever.
func TestCopiesOfAPinnedKeyAreRecordedUntilTheListIsFull(t *testing.T) {
	s := tokenStatus()
	ours := nodetest.Judged(certificatesv1.CertificateApproved, csr.ReasonKubeletClient, "", 0)
	var copies []*certificatesv1.CertificateSigningRequest
	for i := range 2 * decisions.MaxCSRsPerToken {
		copies = append(copies, nodetest.Request(fmt.Sprintf("pin/%02d", i), 1, time.Duration(60-i)*time.Second, ours))
	}
	decisions.RecordIssued(s, copies)
	before := nodetest.AsJSON(s)
	if n := len(s.Tokens[0].CSRs); n != decisions.MaxCSRsPerToken {
		t.Errorf("%d are recorded", n)
	}
	decisions.RecordIssued(s, append(copies, nodetest.Request("pin/later", 1, 0, ours)))
	if nodetest.AsJSON(s) != before {
		t.Error("a full list does not end the record")
	}
}

// Later CSRs push out nothing that a token is bound to: a full list takes no more, while the log goes on.
func TestFullListOfATokenTakesNoMore(t *testing.T) {
	s := tokenStatus()
	for i := range 2 * decisions.MaxCSRsPerToken {
		d := nodetest.Because(decisions.ReasonApprovedElsewhere, nodetest.ApprovedDecision(fmt.Sprintf("csr-%02d", i), 1, time.Duration(60-i)*time.Second))
		d.KeyFingerprint = fmt.Sprint("key-", i)
		decisions.Record(s, d)
		decisions.Record(s, d) // once
	}
	csrs := s.Tokens[0].CSRs
	if len(csrs) != decisions.MaxCSRsPerToken || csrs[0].Name != "csr-00" || csrs[decisions.MaxCSRsPerToken-1].Name != "csr-15" {
		t.Errorf("the token has %d decisions, from %s to %s", len(csrs), csrs[0].Name, csrs[len(csrs)-1].Name)
	}
	if got := nodetest.Names(s.Certificates); len(got) != decisions.MaxTokenEntries || got[0] != "csr-20" || got[len(got)-1] != "csr-31" {
		t.Errorf("the log has %v", got)
	}
	if keys := s.KeyFingerprints; len(keys) != decisions.MaxKeyFingerprints || keys[len(keys)-1] != "key-31" {
		t.Errorf("the keys are %v", keys)
	}
	if first := s.FirstApprovalTime; first == nil || !first.Time.Equal(nodetest.Now.Add(-time.Minute)) {
		t.Errorf("the first approval is at %v", first)
	}
}

// An entry that a full log has dropped does not come back while its CSR exists, in whatever order a cache lists CSRs.
func TestLogKeepsTheNewestOfEachKind(t *testing.T) {
	for seed := range uint64(100) {
		random := rand.New(rand.NewPCG(seed, 0))
		var all []v1alpha1.CertificateDecision
		for i := range 40 {
			letter := rune("adimosx"[random.IntN(7)])
			d := nodetest.Decision(letter, fmt.Sprintf("%02d", i))
			d.Time = nodetest.Ago(time.Duration(random.IntN(6)) * time.Second)
			all = append(all, d)
		}
		want := slices.SortedFunc(slices.Values(all), decisions.ByTime)
		for kind, most := range map[bool]int{true: decisions.MaxServingEntries, false: decisions.MaxTokenEntries} {
			of := slices.DeleteFunc(slices.Clone(want), func(d v1alpha1.CertificateDecision) bool { return decisions.OfServing(d) != kind })
			newest := of[max(0, len(of)-most):]
			var s v1alpha1.NodeBootstrapStatus
			for range 3 {
				random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
				for _, d := range all {
					decisions.Log(&s, d)
				}
				have := slices.DeleteFunc(slices.Clone(s.Certificates), func(d v1alpha1.CertificateDecision) bool { return decisions.OfServing(d) != kind })
				slices.SortFunc(have, decisions.ByTime)
				if !slices.Equal(nodetest.Names(have), nodetest.Names(newest)) {
					t.Fatalf("seed %d: got %v, want %v", seed, nodetest.Names(have), nodetest.Names(newest))
				}
			}
		}
	}
}

// A decision with another verdict replaces the first one, in the state and in the log.
func TestRecordDecisionReplacesTheVerdict(t *testing.T) {
	s := tokenStatus()
	decisions.Record(s, nodetest.DeniedDecision("csr-a", 1, nodetest.Minutes(1)))
	decisions.Record(s, nodetest.ApprovedDecision("csr-a", 1, 0))
	if csrs := s.Tokens[0].CSRs; len(csrs) != 1 || csrs[0].Verdict != v1alpha1.VerdictApproved || len(s.Certificates) != 1 || s.Certificates[0].Verdict != v1alpha1.VerdictApproved {
		t.Errorf("got %s", nodetest.AsJSON(s))
	}
}

// A decision leaves the status with its token; the key stays the node's.
func TestDecisionsDisappearWithTheirToken(t *testing.T) {
	s := tokenStatus()
	decisions.Record(s, nodetest.ApprovedDecision("csr-a", 1, 0))
	decisions.SetTokens(s, []token.Token{nodetest.Token(2, nodetest.Young)})
	if len(s.Tokens) != 1 || s.Tokens[0].ID != nodetest.NthID(2) || len(s.Tokens[0].CSRs) > 0 || !slices.Equal(s.KeyFingerprints, []string{"SHA256:00"}) {
		t.Errorf("got %s", nodetest.AsJSON(s))
	}
	decisions.Record(s, nodetest.ApprovedDecision("csr-b", 1, 0))
	if len(s.Tokens) != 1 || len(s.Tokens[0].CSRs) > 0 || len(s.Certificates) != 2 {
		t.Errorf("a decision with a token that is not live: got %s", nodetest.AsJSON(s))
	}
}

// Among many unrevoked certificates those that expire last are kept.
func TestUnrevokedCertificatesAreBounded(t *testing.T) {
	var s v1alpha1.NodeBootstrapStatus
	for range 3 {
		for i := range 2 * decisions.MaxUnrevoked {
			r := nodetest.Request(fmt.Sprintf("key/%02d", i), 1, nodetest.Minutes(5), nodetest.Approved(time.Duration(i)*time.Minute), nodetest.WithCertificate)
			decisions.RecordUnrevoked(&s, r, v1alpha1.ReasonIssuedBeforeRevocation)
		}
		if got := s.UnrevokedCertificates; len(got) != decisions.MaxUnrevoked || got[0].Name != "key/07" || got[decisions.MaxUnrevoked-1].Name != "key/00" {
			t.Errorf("got %s", nodetest.AsJSON(got))
		}
	}
}
