// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	_ "crypto/sha1" // for CSRs with an obsolete signature
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"net"
	"net/url"
	"slices"
	"testing"
)

// content is a finding in spec.request.
func content(reason string, make func() []byte) finding {
	return finding{func(r *Request) { r.CSR.Spec.Request = make() }, Deny, reason}
}

func TestEvaluateLooksAtTheEncoding(t *testing.T) {
	good := func() []byte { return kubeletPEM(p256(), testNode) }
	malformed := func(make func() []byte) finding { return content(ReasonMalformed, make) }
	block := func(change func(*pem.Block)) finding {
		return malformed(func() []byte {
			b, _ := pem.Decode(good())
			change(b)
			return pem.EncodeToMemory(b)
		})
	}
	testFindings(t, map[string]finding{
		"nothing":                  malformed(func() []byte { return nil }),
		"no PEM":                   malformed(func() []byte { return []byte("certificate, please") }),
		"DER without PEM":          malformed(raw{key: p256()}.der),
		"PEM headers":              block(func(b *pem.Block) { b.Headers = map[string]string{"Proc-Type": "4,ENCRYPTED"} }),
		"the older block type":     block(func(b *pem.Block) { b.Type = "NEW CERTIFICATE REQUEST" }),
		"the block type of a key":  block(func(b *pem.Block) { b.Type = "EC PRIVATE KEY" }),
		"an empty block":           block(func(b *pem.Block) { b.Bytes = nil }),
		"junk in the block":        block(func(b *pem.Block) { b.Bytes = []byte("junk") }),
		"an empty SEQUENCE":        block(func(b *pem.Block) { b.Bytes = sequence() }),
		"half of the DER":          block(func(b *pem.Block) { b.Bytes = b.Bytes[:len(b.Bytes)/2] }),
		"a byte after the DER":     block(func(b *pem.Block) { b.Bytes = append(b.Bytes, 0) }),
		"a second DER":             block(func(b *pem.Block) { b.Bytes = slices.Concat(b.Bytes, b.Bytes) }),
		"text before the block":    malformed(func() []byte { return append([]byte("see below\n"), good()...) }),
		"text after the block":     malformed(func() []byte { return append(good(), "see above\n"...) }),
		"a line before the block":  malformed(func() []byte { return append([]byte("\n"), good()...) }),
		"a line after the block":   malformed(func() []byte { return append(good(), '\n') }),
		"two blocks":               malformed(func() []byte { return append(good(), good()...) }),
		"a certificate in front":   malformed(func() []byte { return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"}), good()...) }),
		"CRLF":                     malformed(func() []byte { return bytes.ReplaceAll(good(), []byte("\n"), []byte("\r\n")) }),
		"no newline at the end":    malformed(func() []byte { return bytes.TrimSuffix(good(), []byte("\n")) }),
		"a space at a line's end":  malformed(func() []byte { return bytes.Replace(good(), []byte("\n"), []byte(" \n"), 1) }),
		"base64 in one line":       malformed(func() []byte { return oneLine(good()) }),
		"more than eight KiB":      content(ReasonTooLarge, func() []byte { return append(good(), make([]byte, 8<<10)...) }),
		"just more than eight KiB": content(ReasonTooLarge, func() []byte { return make([]byte, 8<<10+1) }),
		"eight KiB of nothing":     malformed(func() []byte { return make([]byte, 8<<10) }),
	})
}

func oneLine(pemData []byte) []byte {
	b, _ := pem.Decode(pemData)
	return []byte("-----BEGIN CERTIFICATE REQUEST-----\n" + base64.StdEncoding.EncodeToString(b.Bytes) + "\n-----END CERTIFICATE REQUEST-----\n")
}

func TestEvaluateLooksAtTheSignature(t *testing.T) {
	bad := func(make func() []byte) finding { return content(ReasonBadSignature, make) }
	sha1RSA := pkix.AlgorithmIdentifier{Algorithm: oidSHA1WithRSA, Parameters: asn1.NullRawValue}
	testFindings(t, map[string]finding{
		"a bit of the signature turned over": bad(func() []byte {
			der := raw{key: p256()}.der()
			der[len(der)-1] ^= 1
			return encode(der)
		}),
		"signed with another key":    bad(raw{key: p256(), signer: otherKey()}.pem),
		"another algorithm named":    bad(raw{key: p256(), hash: crypto.SHA384}.pem),
		"an unknown algorithm named": bad(raw{key: p256(), algorithm: pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 3}}}.pem),
		"SHA-1 with ECDSA":           bad(raw{key: p256(), hash: crypto.SHA1, algorithm: pkix.AlgorithmIdentifier{Algorithm: oidECDSAWithSHA1}}.pem),
		"SHA-1 with RSA": {func(r *Request) {
			useRSA(r, rsa2048())
			r.CSR.Spec.Request = raw{key: rsa2048(), hash: crypto.SHA1, algorithm: sha1RSA}.pem()
		}, Deny, ReasonBadSignature},
		"RSA-PSS": {func(r *Request) {
			useRSA(r, rsa2048())
			r.CSR.Spec.Request = stdlib(rsa2048(), func(c *x509.CertificateRequest) { c.SignatureAlgorithm = x509.SHA256WithRSAPSS })()
		}, Deny, ReasonBadSignature},
		"Ed25519": bad(func() []byte {
			_, key, _ := ed25519.GenerateKey(rand.Reader)
			return stdlib(key, func(*x509.CertificateRequest) {})()
		}),
	})
}

func TestEvaluateLooksAtTheKey(t *testing.T) {
	weak := func(key func() crypto.Signer) finding {
		return finding{func(r *Request) { useRSA(r, key()) }, Deny, ReasonWrongKey}
	}
	testFindings(t, map[string]finding{
		"RSA of 1024 bits": weak(rsa1024),
		"RSA of 2047 bits": weak(rsa2047),
		"RSA of 8704 bits": weak(rsa8704),
		"ECDSA on P-224":   content(ReasonWrongKey, func() []byte { return raw{key: ecdsaKey(elliptic.P224())}.pem() }),
	})
}

// stdlib is a certificate request that crypto/x509 creates from the good template with a change.
func stdlib(key crypto.Signer, change func(*x509.CertificateRequest)) func() []byte {
	return func() []byte {
		template := &x509.CertificateRequest{RawSubject: must(asn1.Marshal(pkix.RDNSequence{nodes(), workerOne()}))}
		change(template)
		return encode(must(x509.CreateCertificateRequest(rand.Reader, template, key)))
	}
}

func TestEvaluateLooksAtTheSubject(t *testing.T) {
	subject := func(parts ...pkix.RelativeDistinguishedNameSET) finding {
		return content(ReasonWrongSubject, raw{key: p256(), subject: append(pkix.RDNSequence{}, parts...)}.pem)
	}
	otherwise := func(parts ...pkix.RelativeDistinguishedNameSET) finding { // the right subject in another encoding is no theft
		return content(ReasonUnexpectedAttributes, raw{key: p256(), subject: append(pkix.RDNSequence{}, parts...)}.pem)
	}
	commonName := func(text string) finding { return subject(nodes(), one(utf8(oidCommonName, text))) }
	testFindings(t, map[string]finding{
		"another node":                     content(ReasonWrongSubject, func() []byte { return kubeletPEM(p256(), "worker-2") }),
		"a node that begins alike":         content(ReasonWrongSubject, func() []byte { return kubeletPEM(p256(), testNode+"0") }),
		"no node":                          content(ReasonWrongSubject, func() []byte { return kubeletPEM(p256(), "") }),
		"upper case":                       content(ReasonWrongSubject, func() []byte { return kubeletPEM(p256(), "WORKER-1") }),
		"a dot at the end":                 content(ReasonWrongSubject, func() []byte { return kubeletPEM(p256(), testNode+".") }),
		"a space at the end":               content(ReasonWrongSubject, func() []byte { return kubeletPEM(p256(), testNode+" ") }),
		"a Cyrillic o":                     commonName("system:node:w\u043erker-1"),
		"a full-width digit":               commonName("system:node:worker-\uff11"),
		"a zero-width space":               commonName("system:node:worker-1\u200b"),
		"a NUL at the end":                 commonName("system:node:worker-1\x00"),
		"a NUL and another name":           commonName("system:node:worker-1\x00.example.com"),
		"the name without the prefix":      commonName(testNode),
		"the common name as a UTF8String":  otherwise(nodes(), one(utf8(oidCommonName, "system:node:"+testNode))),
		"the organization as a UTF8String": otherwise(one(utf8(oidOrganization, "system:nodes")), workerOne()),
		"another common name in front":     subject(nodes(), one(value(oidCommonName, "system:node:worker-2")), workerOne()),
		"another common name behind":       subject(nodes(), workerOne(), one(value(oidCommonName, "system:node:worker-2"))),
		"the common name twice":            subject(nodes(), workerOne(), workerOne()),
		"another organization in front":    subject(one(value(oidOrganization, "system:masters")), nodes(), workerOne()),
		"another organization behind":      subject(nodes(), one(value(oidOrganization, "system:masters")), workerOne()),
		"another organization instead":     subject(one(value(oidOrganization, "system:masters")), workerOne()),
		"two organizations in one part":    subject(append(nodes(), value(oidOrganization, "system:masters")), workerOne()),
		"an organizational unit":           subject(nodes(), one(value(oidUnit, "rack-7")), workerOne()),
		"the parts in reverse order":       otherwise(workerOne(), nodes()),
		"both in one part":                 otherwise(append(workerOne(), nodes()...)),
		"a user id":                        subject(nodes(), workerOne(), one(value(oidUserID, "root"))),
		"an unknown attribute":             subject(nodes(), workerOne(), one(value(asn1.ObjectIdentifier{1, 2, 3, 4}, "x"))),
		"no organization":                  subject(workerOne()),
		"no common name":                   subject(nodes()),
		"nothing":                          subject(),
	})
}

func TestEvaluateLooksAtAttributes(t *testing.T) {
	template := func(change func(*x509.CertificateRequest)) finding {
		return content(ReasonUnexpectedAttributes, stdlib(p256(), change))
	}
	extension := func(oid asn1.ObjectIdentifier, value []byte) finding {
		return template(func(c *x509.CertificateRequest) {
			c.ExtraExtensions = []pkix.Extension{{Id: oid, Value: value}}
		})
	}
	attribute := func(oid asn1.ObjectIdentifier, values ...[]byte) finding {
		set := must(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: slices.Concat(values...)}))
		return content(ReasonUnexpectedAttributes, raw{key: p256(), attributes: sequence(must(asn1.Marshal(oid)), set)}.pem)
	}
	otherName := sequence(must(asn1.Marshal(asn1.RawValue{
		Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true,
		Bytes: slices.Concat(must(asn1.Marshal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3})),
			must(asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: must(asn1.Marshal("root"))}))),
	})))
	testFindings(t, map[string]finding{
		"a DNS name":         template(func(c *x509.CertificateRequest) { c.DNSNames = []string{testNode} }),
		"an IP address":      template(func(c *x509.CertificateRequest) { c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 7)} }),
		"a mail address":     template(func(c *x509.CertificateRequest) { c.EmailAddresses = []string{"root@example.com"} }),
		"a URI":              template(func(c *x509.CertificateRequest) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.com"}} }),
		"another name":       extension(asn1.ObjectIdentifier{2, 5, 29, 17}, otherName),
		"a CA certificate":   extension(asn1.ObjectIdentifier{2, 5, 29, 19}, sequence(must(asn1.Marshal(true)))),
		"key usages":         extension(asn1.ObjectIdentifier{2, 5, 29, 15}, must(asn1.Marshal(asn1.BitString{Bytes: []byte{0x04}, BitLength: 6}))),
		"unknown extension":  extension(asn1.ObjectIdentifier{1, 2, 3, 4}, []byte("x")),
		"no extensions":      attribute(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}, sequence()),
		"a password":         attribute(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}, must(asn1.Marshal("secret"))),
		"an unknown one":     attribute(asn1.ObjectIdentifier{1, 2, 3, 4}, must(asn1.Marshal("x"))),
		"one without values": attribute(asn1.ObjectIdentifier{1, 2, 3, 4}),
	})
}
