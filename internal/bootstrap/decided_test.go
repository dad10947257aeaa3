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

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// decision is one of a kind, made an hour ago: a for an approval, d for a denial, i for what was ignored, m for the approval
// of a second key by someone else, o for that of another signer's certificate; of the first token in lower case, of the
// second one in upper case. s is the approval of a serving certificate, and x its denial.
func decision(letter rune, name string) v1alpha1.CertificateDecision {
	n := 1
	if lower := letter | 0x20; lower != letter {
		letter, n = lower, 2
	}
	d := approvedDecision(name, n, time.Hour)
	switch letter {
	case 'd':
		d = deniedDecision(name, n, time.Hour)
	case 'i':
		d.Verdict, d.Reason, d.IssuedTime = v1alpha1.VerdictIgnored, ReasonTooManyRequests, nil
	case 'm':
		d.Reason = csr.ReasonSecondKey
	case 'o':
		d.Reason, d.SignerName, d.IssuedTime = csr.ReasonWrongSigner, certificatesv1.KubeAPIServerClientSignerName, nil
	case 's':
		d = servingEntry(name, v1alpha1.VerdictApproved, csr.ReasonKubeletServing, time.Hour)
	case 'x':
		d = servingEntry(name, v1alpha1.VerdictDenied, csr.ReasonNoAddress, time.Hour)
	}
	return d
}

// history is one letter for each decision, the newest last, numbered from the oldest.
func history(letters string) []v1alpha1.CertificateDecision {
	var out []v1alpha1.CertificateDecision
	for i, letter := range letters {
		out = append(out, decision(letter, fmt.Sprint(i)))
	}
	return out
}

func names(history []v1alpha1.CertificateDecision) []string {
	var out []string
	for _, d := range history {
		out = append(out, d.Name)
	}
	return out
}

func TestNewDecisions(t *testing.T) {
	unissued := approvedDecision("0", 1, time.Hour)
	unissued.IssuedTime = nil
	tests := map[string]struct {
		old, new []v1alpha1.CertificateDecision
		want     string
	}{
		"none":                   {nil, nil, ""},
		"the first":              {nil, history("ad"), "0 1"},
		"known":                  {history("ad"), history("ad"), ""},
		"one more":               {history("a"), history("ad"), "1"},
		"in another order":       {history("ad"), slices.Concat(history("ad")[1:], history("a")), ""},
		"gone":                   {history("ad"), history("a"), ""},
		"one for another":        {history("ad")[:1], history("ad")[1:], "1"},
		"issued since":           {[]v1alpha1.CertificateDecision{unissued}, history("a"), ""},
		"with another verdict":   {history("d"), history("a"), ""},
		"of a name that was had": {history("a"), []v1alpha1.CertificateDecision{{Name: "0", UID: "another"}}, "0"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			old, now := v1alpha1.NodeBootstrapStatus{Certificates: tt.old}, v1alpha1.NodeBootstrapStatus{Certificates: tt.new}
			before := now.DeepCopy()
			if got := strings.Join(names(NewDecisions(&old, &now)), " "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if !reflect.DeepEqual(before, &now) {
				t.Error("the status is changed")
			}
		})
	}
}

func TestMisuseIsEvidence(t *testing.T) {
	evidence := []string{csr.ReasonWrongSubject, csr.ReasonWrongSigner, csr.ReasonSecondKey, ReasonTooManyRequests}
	others := []string{csr.ReasonSuperseded, csr.ReasonKubeletClient, csr.ReasonWrongRequester, csr.ReasonWrongUsages, csr.ReasonWrongDuration,
		csr.ReasonTooLarge, csr.ReasonMalformed, csr.ReasonBadSignature, csr.ReasonWrongKey, csr.ReasonUnexpectedAttributes, csr.ReasonOlderThanToken,
		csr.ReasonTokenExpired, csr.ReasonNotOurs, reasonApprovedElsewhere, reasonDeniedElsewhere, ""}
	for _, reason := range evidence {
		if !Misuse(reason) {
			t.Errorf("%s is no evidence", reason)
		}
	}
	for _, reason := range others {
		if Misuse(reason) {
			t.Errorf("%s is evidence", reason)
		}
	}
}

func TestEvidenceIsAboutTokens(t *testing.T) {
	for letter, want := range map[rune]bool{'a': false, 'd': true, 'i': true, 'm': true, 'o': true, 's': false, 'x': false} {
		if d := decision(letter, "csr-a"); Evidence(d) != want {
			t.Errorf("%+v: got %v", d, !want)
		}
	}
	if Evidence(servingEntry("serving-a", v1alpha1.VerdictDenied, csr.ReasonWrongSubject, 0)) {
		t.Error("a node that asks for another one's serving certificate has misused no token")
	}
}

// tokenStatus names the first token.
func tokenStatus() *v1alpha1.NodeBootstrapStatus {
	s := statusOf(1, young)
	setTokens(&s, []Token{token(1, young)})
	return &s
}

// What comes later pushes out nothing that a token is bound to: a full list takes no more, while the log goes on.
func TestFullListOfATokenTakesNoMore(t *testing.T) {
	s := tokenStatus()
	for i := range 2 * maxCSRsPerToken {
		d := because(reasonApprovedElsewhere, approvedDecision(fmt.Sprintf("csr-%02d", i), 1, time.Duration(60-i)*time.Second))
		d.KeyFingerprint = fmt.Sprint("key-", i)
		recordDecision(s, d)
		recordDecision(s, d) // once
	}
	csrs := s.Tokens[0].CSRs
	if len(csrs) != maxCSRsPerToken || csrs[0].Name != "csr-00" || csrs[maxCSRsPerToken-1].Name != "csr-15" {
		t.Errorf("the token has %d decisions, from %s to %s", len(csrs), csrs[0].Name, csrs[len(csrs)-1].Name)
	}
	if got := names(s.Certificates); len(got) != maxTokenEntries || got[0] != "csr-20" || got[len(got)-1] != "csr-31" {
		t.Errorf("the log has %v", got)
	}
	if keys := s.KeyFingerprints; len(keys) != maxKeyFingerprints || keys[len(keys)-1] != "key-31" {
		t.Errorf("the keys are %v", keys)
	}
	if first := s.FirstApprovalTime; first == nil || !first.Time.Equal(now.Add(-time.Minute)) {
		t.Errorf("the first approval is at %v", first)
	}
}

// What a full log has dropped does not come back while its CSR exists, in whatever order a cache lists CSRs.
func TestLogKeepsTheNewestOfEachKind(t *testing.T) {
	for seed := range uint64(100) {
		random := rand.New(rand.NewPCG(seed, 0))
		var all []v1alpha1.CertificateDecision
		for i := range 40 {
			letter := rune("adimosx"[random.IntN(7)])
			d := decision(letter, fmt.Sprintf("%02d", i))
			d.Time = ago(time.Duration(random.IntN(6)) * time.Second)
			all = append(all, d)
		}
		want := slices.SortedFunc(slices.Values(all), byTime)
		for kind, most := range map[bool]int{true: maxServingEntries, false: maxTokenEntries} {
			of := slices.DeleteFunc(slices.Clone(want), func(d v1alpha1.CertificateDecision) bool { return ofServing(d) != kind })
			newest := of[max(0, len(of)-most):]
			var s v1alpha1.NodeBootstrapStatus
			for range 3 {
				random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
				for _, d := range all {
					logDecision(&s, d)
				}
				have := slices.DeleteFunc(slices.Clone(s.Certificates), func(d v1alpha1.CertificateDecision) bool { return ofServing(d) != kind })
				slices.SortFunc(have, byTime)
				if !slices.Equal(names(have), names(newest)) {
					t.Fatalf("seed %d: got %v, want %v", seed, names(have), names(newest))
				}
			}
		}
	}
}

// A decision with another verdict takes the place of the first one, in the state and in the log.
func TestRecordDecisionReplacesTheVerdict(t *testing.T) {
	s := tokenStatus()
	recordDecision(s, deniedDecision("csr-a", 1, minutes(1)))
	recordDecision(s, approvedDecision("csr-a", 1, 0))
	if csrs := s.Tokens[0].CSRs; len(csrs) != 1 || csrs[0].Verdict != v1alpha1.VerdictApproved || len(s.Certificates) != 1 || s.Certificates[0].Verdict != v1alpha1.VerdictApproved {
		t.Errorf("got %s", asJSON(s))
	}
}

// A decision leaves the status with its token; the key stays the node's.
func TestDecisionsDisappearWithTheirToken(t *testing.T) {
	s := tokenStatus()
	recordDecision(s, approvedDecision("csr-a", 1, 0))
	setTokens(s, []Token{token(2, young)})
	if len(s.Tokens) != 1 || s.Tokens[0].ID != nthID(2) || len(s.Tokens[0].CSRs) > 0 || !slices.Equal(s.KeyFingerprints, []string{"SHA256:00"}) {
		t.Errorf("got %s", asJSON(s))
	}
	recordDecision(s, approvedDecision("csr-b", 1, 0))
	if len(s.Tokens) != 1 || len(s.Tokens[0].CSRs) > 0 || len(s.Certificates) != 2 {
		t.Errorf("a decision with a token that is not live: got %s", asJSON(s))
	}
}

// Of many certificates that are not revoked those stay that expire last.
func TestUnrevokedCertificatesAreBounded(t *testing.T) {
	var s v1alpha1.NodeBootstrapStatus
	for range 3 {
		for i := range 2 * maxUnrevoked {
			r := request(fmt.Sprintf("key/%02d", i), 1, minutes(5), approved(time.Duration(i)*time.Minute), withCertificate)
			recordUnrevoked(&s, r, v1alpha1.ReasonIssuedBeforeRevocation)
		}
		if got := s.UnrevokedCertificates; len(got) != maxUnrevoked || got[0].Name != "key/07" || got[maxUnrevoked-1].Name != "key/00" {
			t.Errorf("got %s", asJSON(got))
		}
	}
}
