// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
)

func TestMessagesAreBoundedToo(t *testing.T) {
	long := strings.Repeat("x", 4000)
	tests := map[string]func(*Request){
		"a long group":  func(r *Request) { r.CSR.Spec.Groups = append(r.CSR.Spec.Groups, long) },
		"a long signer": func(r *Request) { r.CSR.Spec.SignerName = long },
		"many usages": func(r *Request) {
			for range 100 {
				r.CSR.Spec.Usages = append(r.CSR.Spec.Usages, certificatesv1.UsageServerAuth)
			}
		},
		"a long usage": func(r *Request) { r.CSR.Spec.Usages = []certificatesv1.KeyUsage{certificatesv1.KeyUsage(long)} },
		"a common name that cannot be printed": func(r *Request) {
			r.CSR.Spec.Request = raw{key: p256(), subject: pkix.RDNSequence{nodes(), one(utf8(oidCommonName, strings.Repeat("\U000e0001", 300)))}}.pem()
		},
		"a URI that cannot be parsed": func(r *Request) {
			r.CSR.Spec.Request = stdlib(p256(), func(c *x509.CertificateRequest) {
				san := sequence(must(asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte("a:%" + strings.Repeat("\x01", 4000))})))
				c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: san}}
			})()
		},
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			r := goodRequest()
			spoil(&r)
			got := Evaluate(r)
			if got.Verdict != Deny || len(got.Message) > maxMessage {
				t.Errorf("got verdict %d and %d bytes: %.200s", got.Verdict, len(got.Message), got.Message)
			}
		})
	}
}
