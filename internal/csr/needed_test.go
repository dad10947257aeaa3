// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"crypto/x509/pkix"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	certutil "k8s.io/client-go/util/cert"
)

// Dropping unneeded parts of a CSR changes no verdict: neither does more of anything turn it into someone else's, nor does cutting it.
func TestKeepNeededChangesNoVerdict(t *testing.T) {
	many := func(text string, n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf("%s%d", text, i))
		}
		return out
	}
	spoils := map[string]func(*certificatesv1.CertificateSigningRequestSpec){
		"nothing":            func(*certificatesv1.CertificateSigningRequestSpec) {},
		"a foreign group":    func(s *certificatesv1.CertificateSigningRequestSpec) { s.Groups = append(s.Groups, "x") },
		"many groups ahead":  func(s *certificatesv1.CertificateSigningRequestSpec) { s.Groups = append(many("x", 1000), s.Groups...) },
		"many groups behind": func(s *certificatesv1.CertificateSigningRequestSpec) { s.Groups = append(s.Groups, many("x", 1000)...) },
		"a long group": func(s *certificatesv1.CertificateSigningRequestSpec) {
			s.Groups = append(s.Groups, strings.Repeat("g", 1<<20))
		},
		"all groups, often":    func(s *certificatesv1.CertificateSigningRequestSpec) { s.Groups = slices.Repeat(s.Groups, 1000) },
		"one group twice":      func(s *certificatesv1.CertificateSigningRequestSpec) { s.Groups = append(s.Groups, s.Groups[0]) },
		"many of no such name": func(s *certificatesv1.CertificateSigningRequestSpec) { s.Groups = many("x", 1000) },
		"a group less":         func(s *certificatesv1.CertificateSigningRequestSpec) { s.Groups = s.Groups[1:] },
		"a group that begins like one of ours": func(s *certificatesv1.CertificateSigningRequestSpec) {
			s.Groups[len(s.Groups)-1] += strings.Repeat("x", 1<<20)
		},
		"extra data": func(s *certificatesv1.CertificateSigningRequestSpec) {
			s.Extra = map[string]certificatesv1.ExtraValue{"x": {"y"}}
		},
		"a credential id": func(s *certificatesv1.CertificateSigningRequestSpec) {
			s.Extra = map[string]certificatesv1.ExtraValue{credentialID: {strings.Repeat("x", 1<<20)}}
		},
		"a credential id and more": func(s *certificatesv1.CertificateSigningRequestSpec) {
			s.Extra = map[string]certificatesv1.ExtraValue{credentialID: {"x"}, "x": {"y"}, "z": nil}
		},
		"a long uid":    func(s *certificatesv1.CertificateSigningRequestSpec) { s.UID = strings.Repeat("u", 1<<20) },
		"a longer user": func(s *certificatesv1.CertificateSigningRequestSpec) { s.Username += strings.Repeat("u", 1<<20) },
		"many usages":   func(s *certificatesv1.CertificateSigningRequestSpec) { s.Usages = slices.Repeat(s.Usages, 1000) },
		"a long usage": func(s *certificatesv1.CertificateSigningRequestSpec) {
			s.Usages[0] += certificatesv1.KeyUsage(strings.Repeat("u", 1000))
		},
		"a long signer":   func(s *certificatesv1.CertificateSigningRequestSpec) { s.SignerName += strings.Repeat("s", 1<<20) },
		"a large request": func(s *certificatesv1.CertificateSigningRequestSpec) { s.Request = make([]byte, 1<<20) },
		"an ending to it": func(s *certificatesv1.CertificateSigningRequestSpec) {
			s.Request = append(s.Request, make([]byte, 1<<20)...)
		},
		"one of just enough": func(s *certificatesv1.CertificateSigningRequestSpec) { s.Request = make([]byte, MaxRequestBytes) },
	}
	for name, spoil := range spoils {
		client, serving := goodRequest(), goodServingRequest()
		for _, r := range []*certificatesv1.CertificateSigningRequest{client.CSR, serving.CSR} {
			spoil(&r.Spec)
		}
		verdicts := func() [2]Verdict {
			return [2]Verdict{Evaluate(client).Verdict, EvaluateServing(serving).Verdict}
		}
		reasons := func() [2]string { return [2]string{Evaluate(client).Reason, EvaluateServing(serving).Reason} }
		want, why := verdicts(), reasons()
		for _, r := range []*certificatesv1.CertificateSigningRequest{client.CSR, serving.CSR} {
			KeepNeeded(&r.Spec, testGroup, testClusterWide)
			once := r.Spec.DeepCopy()
			if KeepNeeded(&r.Spec, testGroup, testClusterWide); !reflect.DeepEqual(once, &r.Spec) {
				t.Errorf("%s: kept once it is %.300v, twice %.300v", name, once, r.Spec)
			}
			if n := r.Size(); n > 24<<10 {
				t.Errorf("%s: %d bytes are kept", name, n)
			}
		}
		if got, because := verdicts(), reasons(); got != want || because != why {
			t.Errorf("%s: got %v for %q, and %v for %q of the whole", name, got, because, want, why)
		}
	}
}

// goodServingRequest is approved.
func goodServingRequest() ServingRequest {
	key := p256()
	return ServingRequest{
		NodeName: testNode, Declared: []string{testNode},
		CSR: &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    must(certutil.MakeCSR(key, &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + testNode}, []string{testNode}, nil)),
			Username:   "system:node:" + testNode,
			Groups:     []string{nodesGroup, everyGroup},
			Extra:      map[string]certificatesv1.ExtraValue{credentialID: {"X509SHA256=00"}},
			SignerName: certificatesv1.KubeletServingSignerName,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		}},
	}
}

func TestGoodRequestsAreApprovedToBeginWith(t *testing.T) {
	if c, s := Evaluate(goodRequest()), EvaluateServing(goodServingRequest()); c.Verdict != Approve || s.Verdict != Approve {
		t.Errorf("got %+v and %+v", c, s)
	}
}
