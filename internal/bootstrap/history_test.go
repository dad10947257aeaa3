// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
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

func TestAppendDecisions(t *testing.T) {
	tests := map[string]struct {
		history, more string
		gone          string // the names of those that go
	}{
		"nothing to nothing":       {"", "", ""},
		"the first":                {"", "a", ""},
		"the twelfth":              {"aaaaaaaaaaa", "d", ""},
		"approvals alone":          {"aaaaaaaaaaaa", "a", "0"},
		"a denial among approvals": {"aaaaaaaaaaaa", "d", "0"},
		"two for two":              {"aaaaaaaaaaaa", "da", "0 1"},

		"the newest token's denials outlive its older approvals": {"dadadadadada", "d", "1"},
		"not its last approval":                                  {"ddaddddddddd", "d", "0"},
		"the same for another one":                               {"addddddddddd", "dd", "1 2"},
		"an approval is no denial":                               {"dddddddddddd", "a", "0"},
		"a flood of denials":                                     {"a", "ddddddddddddddd", "new0 new1 new2 new3"},
		"what was ignored is one":                                {"aiiiiiiiiiii", "i", "1"},

		"denials of an older token":      {"addddAdaaaaa", "D", "1"},
		"what it ignored too":            {"aaaaaaaaaiAa", "D", "9"},
		"a newer token's too":            {"aADDaaaaaaaa", "d", "2"},
		"all of them, before approvals":  {"adddddddaAaa", "DDDDDDDD", "1 2 3 4 5 6 7 0"},
		"what is approved with a newer":  {"aAdddddddddd", "DDDDDDDDDDD", "2 3 4 5 6 7 8 9 10 11 new0"},
		"what is approved with an older": {"AaDDDDDDDDDD", "dddddddddd", "2 3 4 5 6 7 8 9 10 11"},

		"an approval by another signer":     {"oaaaaaaaaaaa", "d", "1"},
		"its second":                        {"oaoddddddddd", "d", "0"},
		"the approval of a second key":      {"madddddddddd", "d", "2"},
		"it does not replace the first one": {"amdddddddddd", "d", "2"},
		"its second one":                    {"mamddddddddd", "d", "0"},

		"four serving certificates":          {"sss", "s", ""},
		"the fifth":                          {"ssss", "s", "0"},
		"denied ones first":                  {"sxss", "s", "0"},
		"not the last approval":              {"sxxx", "x", "1"},
		"the oldest of denials":              {"xxxx", "x", "0"},
		"they leave room for tokens":         {"ssss", "addddddddddd", ""},
		"tokens leave room for them":         {"addddddddddd", "ssss", ""},
		"nor do they go for those of tokens": {"sasdsdsddddddddd", "d", "3"},
		"nor the other way round":            {"sasdsdsddddddddd", "x", "0"},
		"both are too many":                  {"sasdsdsddddddddd", "xd", "0 3"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			have, more := history(tt.history), history(tt.more)
			for i := range more {
				more[i].Name, more[i].UID = "new"+more[i].Name, "new-"+more[i].UID
			}
			before := slices.Clone(have)
			all := names(slices.Concat(have, more))
			stay := names(appendDecisions(have, more...))
			gone := strings.Fields(tt.gone)
			want := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return slices.Contains(gone, name) })
			if !slices.Equal(stay, want) {
				t.Errorf("got  %v\nwant %v", stay, want)
			}
			if !reflect.DeepEqual(have, before) {
				t.Error("the history that was read is changed")
			}
		})
	}
}

// Of three tokens that a key was approved with, two may be live.
func TestApprovalsOfTokensLongGoneAreExpendable(t *testing.T) {
	var have []v1alpha1.CertificateDecision
	for n := 1; n <= 3; n++ {
		have = append(have, approvedDecision(fmt.Sprint("claim-", n), n, time.Hour))
	}
	have = appendDecisions(have, denials(3, 9)...)
	for i, want := range []string{"claim-1", "denied-3-0", "denied-3-1"} { // in this order they go
		before := names(have)
		have = appendDecisions(have, because(csr.ReasonWrongDuration, deniedDecision(fmt.Sprint("new-", i), 3, 0)))
		if !slices.Contains(before, want) || slices.Contains(names(have), want) {
			t.Errorf("%s does not go from %v to %v", want, before, names(have))
		}
	}
}

// A history of nothing but what must stay loses the oldest, and not the newest.
func TestNewestEntryStays(t *testing.T) {
	var have []v1alpha1.CertificateDecision
	for i := range maxDecisions - maxServing {
		d := decision('o', fmt.Sprint(i))
		d.SignerName = fmt.Sprint("example.com/", i)
		have = append(have, d)
	}
	for i, letter := range "dio" {
		have = appendDecisions(have, decision(letter, fmt.Sprint("new", i)))
		if last := have[len(have)-1].Name; last != fmt.Sprint("new", i) {
			t.Errorf("after %c the newest is %s", letter, last)
		}
	}
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
