// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// maxMessage is the limit of a condition or an event: events.k8s.io rejects longer notes.
const maxMessage = 1024

func TestMessagesAreBounded(t *testing.T) {
	subject := func(text string) func(*Request) {
		return func(r *Request) {
			r.CSR.Spec.Request = raw{key: p256(), subject: pkix.RDNSequence{nodes(), one(utf8(oidCommonName, text))}}.pem()
		}
	}
	tests := map[string]func(*Request){
		"a long common name":               subject("system:node:" + strings.Repeat("n", 4000)),
		"a common name of quotation marks": subject(strings.Repeat(`"`, 4000)),
		"a long signer of long characters": func(r *Request) { r.CSR.Spec.SignerName = strings.Repeat("\u20ac", 1000) },
		"the same, a byte further":         func(r *Request) { r.CSR.Spec.SignerName = "x" + strings.Repeat("\u20ac", 1000) },
		"the same, two bytes further":      func(r *Request) { r.CSR.Spec.SignerName = "xx" + strings.Repeat("\u20ac", 1000) },
		"a large request":                  func(r *Request) { r.CSR.Spec.Request = make([]byte, 1<<20) },
		"the longest node name, another one asked": func(r *Request) {
			r.NodeName = strings.Repeat("n", 232)
			subject("system:node:" + strings.Repeat("m", 232))(r)
		},
		"the longest node name, another key": func(r *Request) {
			r.NodeName = strings.Repeat("n", 232)
			r.CSR.Spec.Request = kubeletPEM(otherKey(), r.NodeName)
			r.ClaimedKeys = []string{must(Fingerprint(goodRequest().CSR))}
		},
		"the longest node names, one key": func(r *Request) {
			r.NodeName, r.OtherNode = strings.Repeat("n", 232), strings.Repeat("m", 232)
			r.CSR.Spec.Request = kubeletPEM(p256(), r.NodeName)
		},
		"another node of a name that is too long": func(r *Request) { r.OtherNode = strings.Repeat("\u20ac", 1000) },
		"long finalizers":                         func(r *Request) { r.CSR.Finalizers = []string{strings.Repeat("f", 1<<20)} },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			r := goodRequest()
			spoil(&r)
			got := Evaluate(r)
			if strings.ToValidUTF8(got.Message, "") != got.Message {
				t.Errorf("a character is cut in two: %q", got.Message)
			}
			if got.Verdict != Deny || len(got.Message) > maxMessage {
				t.Errorf("got verdict %d and %d bytes: %.200s", got.Verdict, len(got.Message), got.Message)
			}
		})
	}
}

// The instructions are not cut off, whatever the names of two nodes with one key.
func TestKeyOfAnotherNodeMessageIsWhole(t *testing.T) {
	r := goodRequest()
	r.NodeName, r.OtherNode = strings.Repeat("n", 232), strings.Repeat("m", 232)
	r.CSR.Spec.Request = kubeletPEM(p256(), r.NodeName)
	if got := Evaluate(r); got.Reason != ReasonKeyOfAnotherNode || !strings.HasSuffix(got.Message, "and start the kubelet again") {
		t.Errorf("got %s with %d bytes: %s", got.Reason, len(got.Message), got.Message)
	}
}

func TestFingerprint(t *testing.T) {
	sum := sha256.Sum256(must(x509.MarshalPKIXPublicKey(p256().Public())))
	want := "SHA256:" + hex.EncodeToString(sum[:])
	tests := map[string]struct {
		request []byte
		want    string
	}{
		"a kubelet's":       {kubeletPEM(p256(), testNode), want},
		"of another name":   {kubeletPEM(p256(), "worker-2"), want},
		"nothing":           {nil, ""},
		"no PEM":            {[]byte("junk"), ""},
		"junk in the block": {encode([]byte("junk")), ""},
		"too large":         {append(kubeletPEM(p256(), testNode), make([]byte, 8<<10)...), ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Fingerprint(requestOf(tt.request))
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("got %q and %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestRequestedNode(t *testing.T) {
	tests := map[string]struct {
		request []byte
		want    string
	}{
		"a kubelet's":           {kubeletPEM(p256(), testNode), testNode},
		"with a bad signature":  {raw{key: p256(), signer: otherKey()}.pem(), testNode},
		"a person's":            {raw{key: p256(), subject: pkix.RDNSequence{one(value(oidCommonName, "alice"))}}.pem(), ""},
		"of a node of no name":  {kubeletPEM(p256(), ""), ""},
		"without a common name": {raw{key: p256(), subject: pkix.RDNSequence{nodes()}}.pem(), ""},
		"nothing":               {nil, ""},
		"no PEM":                {[]byte("system:node:worker-1"), ""},
		"junk in the block":     {encode([]byte("junk")), ""},
		"too large":             {append(kubeletPEM(p256(), testNode), make([]byte, 8<<10)...), ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := RequestedNode(requestOf(tt.request)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func requestOf(data []byte) *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{Request: data}}
}

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
