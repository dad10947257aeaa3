// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"io"
	"math/big"
	"slices"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certutil "k8s.io/client-go/util/cert"
)

const (
	testNode        = "worker-1"
	testTokenID     = "abc123"
	testGroup       = "system:bootstrappers:nodebootstrap"
	testClusterWide = "system:bootstrappers:nodebootstrap:cluster-wide"
)

var testTime = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func ecdsaKey(curve elliptic.Curve) *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(curve, rand.Reader))
}

// The keys are created once: RSA takes a while.
var (
	p256     = sync.OnceValue(func() crypto.Signer { return ecdsaKey(elliptic.P256()) })
	otherKey = sync.OnceValue(func() crypto.Signer { return ecdsaKey(elliptic.P256()) })
	rsa1024  = sync.OnceValue(func() crypto.Signer { return must(rsa.GenerateKey(rand.Reader, 1024)) })
	rsa2047  = sync.OnceValue(func() crypto.Signer { return must(rsa.GenerateKey(rand.Reader, 2047)) })
	rsa2048  = sync.OnceValue(func() crypto.Signer { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	rsa8704  = sync.OnceValue(func() crypto.Signer { return newManyPrimes(17) })
)

// manyPrimes is an RSA key of many small primes: large, weak, and created in a moment, where crypto/rsa takes a minute.
type manyPrimes struct {
	public rsa.PublicKey
	d      *big.Int
}

func newManyPrimes(n int) *manyPrimes {
	one, e := big.NewInt(1), big.NewInt(65537)
	modulus, phi := big.NewInt(1), big.NewInt(1)
	for range n {
		p := must(rand.Prime(rand.Reader, 512))
		modulus.Mul(modulus, p)
		phi.Mul(phi, new(big.Int).Sub(p, one))
	}
	return &manyPrimes{public: rsa.PublicKey{N: modulus, E: 65537}, d: new(big.Int).ModInverse(e, phi)}
}

func (k *manyPrimes) Public() crypto.PublicKey { return &k.public }

// Sign is PKCS #1 v1.5 with SHA-256.
func (k *manyPrimes) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	sha256Info := []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}
	size := (k.public.N.BitLen() + 7) / 8
	info := slices.Concat(sha256Info, digest)
	padded := slices.Concat([]byte{0, 1}, bytes.Repeat([]byte{0xff}, size-len(info)-3), []byte{0}, info)
	m := new(big.Int).SetBytes(padded)
	return m.Exp(m, k.d, k.public.N).FillBytes(make([]byte, size)), nil
}

// kubeletPEM is a stock kubelet's certificate request, created with the function that the kubelet calls.
func kubeletPEM(key crypto.Signer, node string) []byte {
	return must(certutil.MakeCSR(key, &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node}, nil, nil))
}

// goodRequest is approved: each test case changes one thing in it.
func goodRequest() Request {
	return Request{
		CSR: &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{Name: "node-csr-1", CreationTimestamp: metav1.NewTime(testTime)},
			Spec: certificatesv1.CertificateSigningRequestSpec{
				Username:   "system:bootstrap:" + testTokenID,
				Groups:     []string{"system:bootstrappers", "system:authenticated", testGroup},
				SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
				Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
				Request:    kubeletPEM(p256(), testNode),
			},
		},
		NodeName:     testNode,
		TokenID:      testTokenID,
		TokenCreated: testTime.Add(-time.Minute), TokenExpires: testTime.Add(time.Hour), Now: testTime,
		TokenGroup: testGroup,
		MayHave:    []string{testClusterWide},
	}
}

// useRSA gives a CSR an RSA key and the usages for it.
func useRSA(r *Request, key crypto.Signer) {
	r.CSR.Spec.Request = raw{key: key}.pem()
	r.CSR.Spec.Usages = append(r.CSR.Spec.Usages, certificatesv1.UsageKeyEncipherment)
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

var (
	oidUnit   = asn1.ObjectIdentifier{2, 5, 4, 11}
	oidUserID = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}

	oidECDSAWithSHA1   = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}
	oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidSHA1WithRSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}
	oidSHA256WithRSA   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
)

// value is one attribute of a subject, as a PrintableString.
func value(oid asn1.ObjectIdentifier, text string) pkix.AttributeTypeAndValue {
	return pkix.AttributeTypeAndValue{Type: oid, Value: asn1.RawValue{Tag: asn1.TagPrintableString, Bytes: []byte(text)}}
}

// utf8 is one attribute of a subject, as a UTF8String.
func utf8(oid asn1.ObjectIdentifier, text string) pkix.AttributeTypeAndValue {
	return pkix.AttributeTypeAndValue{Type: oid, Value: asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(text)}}
}

// one is a part of a subject with one attribute, as in every usual subject.
func one(v pkix.AttributeTypeAndValue) pkix.RelativeDistinguishedNameSET {
	return pkix.RelativeDistinguishedNameSET{v}
}

// nodes and workerOne are the two parts of the good subject.
func nodes() pkix.RelativeDistinguishedNameSET { return one(value(oidOrganization, "system:nodes")) }

func workerOne() pkix.RelativeDistinguishedNameSET {
	return one(value(oidCommonName, "system:node:"+testNode))
}

// raw is a certificate request that crypto/x509 refuses to create. Its zero value with a key is a good one.
type raw struct {
	key     crypto.Signer
	signer  crypto.Signer // another key to sign with
	subject pkix.RDNSequence
	version int
	// attributes is the encoded content of the attributes.
	attributes []byte
	// tbsTail, keyTail and tail are appended to the signed part, to the key, and to the whole.
	tbsTail, keyTail, tail []byte
	algorithm              pkix.AlgorithmIdentifier
	hash                   crypto.Hash
}

// sequence is a DER SEQUENCE of encoded parts.
func sequence(parts ...[]byte) []byte {
	return must(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: slices.Concat(parts...)}))
}

func (c raw) der() []byte {
	if c.subject == nil {
		c.subject = pkix.RDNSequence{nodes(), workerOne()}
	}
	if c.signer == nil {
		c.signer = c.key
	}
	if c.hash == 0 {
		c.hash = crypto.SHA256
	}
	if c.algorithm.Algorithm == nil {
		c.algorithm.Algorithm = oidECDSAWithSHA256
		if _, ok := c.key.Public().(*rsa.PublicKey); ok {
			c.algorithm = pkix.AlgorithmIdentifier{Algorithm: oidSHA256WithRSA, Parameters: asn1.NullRawValue}
		}
	}
	key := must(x509.MarshalPKIXPublicKey(c.key.Public()))
	if c.keyTail != nil {
		var whole asn1.RawValue
		must(asn1.Unmarshal(key, &whole))
		key = sequence(whole.Bytes, c.keyTail)
	}
	tbs := sequence(
		must(asn1.Marshal(c.version)),
		must(asn1.Marshal(c.subject)),
		key,
		must(asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: c.attributes})),
		c.tbsTail,
	)
	h := c.hash.New()
	h.Write(tbs)
	signature := must(c.signer.Sign(rand.Reader, h.Sum(nil), c.hash))
	return sequence(tbs, must(asn1.Marshal(c.algorithm)), must(asn1.Marshal(asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)})), c.tail)
}

func (c raw) pem() []byte { return encode(c.der()) }
