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
