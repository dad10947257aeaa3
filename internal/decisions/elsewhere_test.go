// SPDX-License-Identifier: Apache-2.0

package decisions_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

func TestNotRecordedAsDeniedElsewhere(t *testing.T) {
	for name, r := range map[string]*certificatesv1.CertificateSigningRequest{
		"the operator's own":          nodetest.Request("csr-a", 1, nodetest.Minutes(3), nodetest.Judged(certificatesv1.CertificateDenied, csr.ReasonSecondKey, "x", nodetest.Minutes(2))),
		"revoked with its token":      nodetest.Request("csr-a", 1, nodetest.Minutes(3), nodetest.Judged(certificatesv1.CertificateDenied, decisions.ReasonTokenRevoked, "x", nodetest.Minutes(2))),
		"of a token that is not live": nodetest.Request("csr-a", 2, nodetest.Minutes(90), nodetest.KubectlDeny(nodetest.Minutes(80))),
		"another signer's":            nodetest.Request("csr-a", 1, nodetest.Minutes(3), nodetest.Asks("example.com/signer"), nodetest.KubectlDeny(nodetest.Minutes(2))),
		"not denied":                  nodetest.Request("csr-a", 1, nodetest.Minutes(3), nodetest.Approved(nodetest.Minutes(2)), nodetest.WithCertificate),
	} {
		t.Run(name, func(t *testing.T) {
			s := nodetest.StatusOf(1, nodetest.Young)
			decisions.SetTokens(&s, []token.Token{nodetest.Token(1, nodetest.Young)})
			if decisions.RecordDenied(&s, []*certificatesv1.CertificateSigningRequest{r}); s.Certificates != nil {
				t.Errorf("recorded as %+v", s.Certificates)
			}
		})
	}
}

func TestMessagesAreShortened(t *testing.T) {
	for _, message := range []string{"", "short", strings.Repeat("é", 256), strings.Repeat("é", 257), "bad \xff byte"} {
		got := decisions.Shortened(message)
		if n := utf8.RuneCountInString(got); n > 256 || !utf8.ValidString(got) || len(message) < 256 && utf8.ValidString(message) && got != message {
			t.Errorf("%q is shortened to %q", message, got)
		}
	}
}
