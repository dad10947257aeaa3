// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"embed"
	"encoding/hex"
	"encoding/pem"
	"hash/crc32"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// testKeys are published keys, so they are worthless. With them the tests create no RSA keys, and are repeatable.
//
//go:embed testdata/keys/*.pem
var testKeys embed.FS

// goodKeys are of the kinds that a kubelet may have, badKeys of others. A fuzz target chooses one by its place in allKeys, which
// leaves out those that take long to sign with.
var (
	goodKeys = []string{"p256", "p384", "p521", "rsa2048", "rsa3072", "rsa4096", "rsa8192"}
	badKeys  = []string{"p224", "ed25519", "rsa1024", "rsa2040", "rsa8200", "rsa2048e3"}
	allKeys  = []string{"p256", "rsa2048", "p384", "p521", "p224", "ed25519", "rsa1024", "rsa2040", "rsa2048e3"}
)

var readKeys sync.Map

// testKey reads one of the keys, once.
func testKey(t testing.TB, name string) crypto.Signer {
	t.Helper()
	if key, ok := readKeys.Load(name); ok {
		return key.(crypto.Signer)
	}
	data, err := testKeys.ReadFile("testdata/keys/" + name + ".pem")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	readKeys.Store(name, key)
	return key.(crypto.Signer)
}

// pick chooses by any number.
func pick[T any](list []T, n uint8) T { return list[int(n)%len(list)] }

// scheme is a signature scheme: its AlgorithmIdentifier in hexadecimal, and how to sign.
type scheme struct {
	algorithm string
	hash      crypto.Hash
	pss       bool
}

// The first of each list is the usual one. Some are not secure, and some name another algorithm than they use.
var (
	schemesRSA = []scheme{
		{"300d06092a864886f70d01010b0500", crypto.SHA256, false},
		{"300d06092a864886f70d01010c0500", crypto.SHA384, false},
		{"300d06092a864886f70d01010d0500", crypto.SHA512, false},
		{"300d06092a864886f70d0101050500", crypto.SHA1, false},
		{"304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120", crypto.SHA256, true},
		{"300b06092a864886f70d01010b", crypto.SHA256, false},
		{"300d06092a864886f70d01010b0500", crypto.SHA384, false},
		{"300a06082a8648ce3d040302", crypto.SHA256, false},
	}
	schemesECDSA = []scheme{
		{"300a06082a8648ce3d040302", crypto.SHA256, false},
		{"300a06082a8648ce3d040303", crypto.SHA384, false},
		{"300a06082a8648ce3d040304", crypto.SHA512, false},
		{"300906072a8648ce3d0401", crypto.SHA1, false},
		{"300c06082a8648ce3d0403020500", crypto.SHA256, false},
		{"300a06082a8648ce3d040302", crypto.SHA384, false},
		{"300d06092a864886f70d01010b0500", crypto.SHA256, false},
	}
	schemesEd25519 = []scheme{{"300506032b6570", 0, false}, {"300a06082a8648ce3d040302", 0, false}}
)

// signed is the DER of a certificate request with a valid signature over any content.
func signed(t testing.TB, key crypto.Signer, info []byte, n uint8) []byte {
	t.Helper()
	schemes := schemesECDSA
	switch key.(type) {
	case *rsa.PrivateKey:
		schemes = schemesRSA
	case ed25519.PrivateKey:
		schemes = schemesEd25519
	}
	s := pick(schemes, n)
	data, options := info, crypto.SignerOpts(s.hash)
	if s.hash != 0 {
		data = digest(s.hash, info)
	}
	if s.pss {
		options = &rsa.PSSOptions{SaltLength: 32, Hash: s.hash}
	}
	signature, err := signWith(key, data, options)
	if err != nil {
		t.Fatal(err)
	}
	algorithm, err := hex.DecodeString(s.algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return write(tagSequence, info, algorithm, write(tagBitString, []byte{0}, signature))
}

// signWith signs the same data in the same way each time, except for PSS.
func signWith(key crypto.Signer, data []byte, options crypto.SignerOpts) ([]byte, error) {
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		return key.Sign(nil, data, options)
	case *rsa.PrivateKey:
		return key.Sign(alwaysFour{}, data, options)
	default:
		return key.Sign(nil, data, options)
	}
}

// alwaysFour is a source of randomness for salts that need no randomness.
type alwaysFour struct{}

func (alwaysFour) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 4
	}
	return len(p), nil
}

// requestInfo is the DER of the signed part of a certificate request, with the given content of the set of attributes.
func requestInfo(t testing.TB, key crypto.Signer, node string, attributes []byte) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	subject := write(tagSequence, relativeName([]byte{0x55, 0x04, 0x0a}, "system:nodes"), relativeName([]byte{0x55, 0x04, 0x03}, "system:node:"+node))
	return write(tagSequence, write(tagInteger, []byte{0}), subject, spki, write(tagAttributes, attributes))
}

// alternativeNames is the content of the set of attributes that requests the given names, each of which is DER.
func alternativeNames(names ...[]byte) []byte {
	extension := write(tagSequence, write(tagOID, oidAlternativeName), write(tagOctetString, write(tagSequence, names...)))
	return write(tagSequence, write(tagOID, oidExtensionRequest), write(tagSet, write(tagSequence, extension)))
}

const testNode = "worker-1.example.org"

// nodeName shortens the fuzzer's name of a node to the API server's limit for a Node.
func nodeName(name string) string { return name[:min(len(name), 253)] }

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// kubeletUsages are the usages that a kubelet requests, in its order.
func kubeletUsages(isRSA bool, purpose certificatesv1.KeyUsage) []certificatesv1.KeyUsage {
	if isRSA {
		return []certificatesv1.KeyUsage{certificatesv1.UsageKeyEncipherment, certificatesv1.UsageDigitalSignature, purpose}
	}
	return []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, purpose}
}

// clientRequest is a good CSR for a kubelet's client certificate around any certificate request.
func clientRequest(text []byte, isRSA bool) csr.Request {
	r := csr.Request{CSR: &certificatesv1.CertificateSigningRequest{}, NodeName: testNode, TokenID: "abcdef",
		TokenCreated: now.Add(-time.Minute), TokenExpires: now.Add(time.Hour), Now: now,
		TokenGroup: "system:bootstrappers:nodebootstrap", MayHave: []string{"system:bootstrappers:kubeadm:default-node-token"}}
	r.CSR.CreationTimestamp = metav1.NewTime(now.Add(-time.Second))
	r.CSR.Spec = certificatesv1.CertificateSigningRequestSpec{Request: text, SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
		Usages: kubeletUsages(isRSA, certificatesv1.UsageClientAuth), Username: "system:bootstrap:abcdef",
		Groups: []string{"system:bootstrappers", "system:bootstrappers:nodebootstrap", "system:authenticated"}}
	return r
}

// servingRequest is a good CSR for a kubelet's serving certificate around any certificate request.
func servingRequest(text []byte, isRSA bool) csr.ServingRequest {
	r := csr.ServingRequest{CSR: &certificatesv1.CertificateSigningRequest{}, NodeName: testNode,
		Declared: []string{testNode, "192.0.2.10", "2001:db8::/64", "10.1.0.0/16", "localhost", "10.96.0.1", "other.example.org", "::/0"},
		Reserved: reserve("10.96.0.1", "api.example.org", "2001:db8::1"), Elsewhere: map[string]string{"other.example.org": "other", "10.1.0.9": "other"}}
	r.CSR.Spec = certificatesv1.CertificateSigningRequestSpec{Request: text, SignerName: certificatesv1.KubeletServingSignerName,
		Usages: kubeletUsages(isRSA, certificatesv1.UsageServerAuth), Username: "system:node:" + testNode,
		Groups: []string{"system:nodes", "system:authenticated"},
		Extra:  map[string]certificatesv1.ExtraValue{"authentication.kubernetes.io/credential-id": {"X509SHA256=00"}}}
	return r
}

// isReason matches the reason of a condition or an event.
var isReason = regexp.MustCompile(`^[A-Z][A-Za-z]{1,63}$`)

// compareClient fails a test if Evaluate and the oracle disagree, and reports whether they approve.
func compareClient(t testing.TB, r csr.Request) bool {
	t.Helper()
	before := r.CSR.DeepCopy()
	got, want := csr.Evaluate(r), oracleClient(r)
	compare(t, got, want, before, r.CSR)
	if want != nil {
		return false
	}
	r.CSR = flipped(r.CSR)
	if again := csr.Evaluate(r); again.Verdict == csr.Approve {
		t.Fatalf("a flipped bit is approved: %q", r.CSR.Spec.Request)
	}
	return true
}

// compareServing is compareClient for EvaluateServing.
func compareServing(t testing.TB, r csr.ServingRequest) bool {
	t.Helper()
	before, elsewhere := r.CSR.DeepCopy(), maps.Clone(r.Elsewhere)
	got, want := csr.EvaluateServing(r), oracleServing(r)
	if want == nil && got.Verdict != csr.Approve && !namesOrIPs(r.Reserved) {
		return false
	}
	compare(t, got, want, before, r.CSR)
	if !maps.Equal(elsewhere, r.Elsewhere) {
		t.Fatal("the map of addresses was changed")
	}
	if want != nil {
		return false
	}
	r.CSR = flipped(r.CSR)
	if again := csr.EvaluateServing(r); again.Verdict == csr.Approve {
		t.Fatalf("a flipped bit is approved: %q", r.CSR.Spec.Request)
	}
	return true
}

// namesOrIPs reports whether a list of reserved addresses has only names and IPs. For anything else, such as a CIDR, the rules do not
// define what it reserves, so a verdict can be stricter than the oracle's.
func namesOrIPs(reserved []csr.Reservation) bool {
	return !slices.ContainsFunc(reserved, func(r csr.Reservation) bool {
		_, isIP := lookalike(r.Host)
		return !isIP && !isName(strings.TrimPrefix(r.Host, "*."))
	})
}

// reserve is the reservations of some hosts.
func reserve(hosts ...string) []csr.Reservation {
	var out []csr.Reservation
	for _, host := range hosts {
		out = append(out, csr.Reservation{Host: host, By: "a test"})
	}
	return out
}

// isName reports whether a text is a DNS name in either case, with or without a dot at the end, and not an IP with a dot.
func isName(text string) bool {
	return isSubdomain(plainName(text)) && !isAnyIP(plainName(text))
}

// compare fails a test if a result differs from the oracle's, or cannot be shown in a condition.
func compare(t testing.TB, got csr.Result, want error, before, after *certificatesv1.CertificateSigningRequest) {
	t.Helper()
	if (got.Verdict == csr.Approve) != (want == nil) {
		t.Fatalf("the verdict is %v (%s: %s), and the oracle says: %v", got.Verdict, got.Reason, got.Message, want)
	}
	if !slices.Contains([]csr.Verdict{csr.Leave, csr.Approve, csr.Deny, csr.Wait}, got.Verdict) || !isReason.MatchString(got.Reason) || len(got.Message) > 1024 {
		t.Fatalf("the verdict %v, the reason %q or the message of %d bytes cannot be shown in a condition", got.Verdict, got.Reason, len(got.Message))
	}
	if !reflect.DeepEqual(before, after) {
		t.Fatal("the CSR was changed")
	}
	if want != nil {
		return
	}
	if content, err := readRequest(after.Spec.Request); err != nil || got.KeyFingerprint != oracleFingerprint(content.spki) {
		t.Fatalf("the key is %q: %v", got.KeyFingerprint, err)
	}
}

// flipped is a CSR with one bit of its PEM changed; the CSR determines which one.
func flipped(r *certificatesv1.CertificateSigningRequest) *certificatesv1.CertificateSigningRequest {
	r = r.DeepCopy()
	bit := int(crc32.ChecksumIEEE(r.Spec.Request)) % (8 * len(r.Spec.Request))
	r.Spec.Request[bit/8] ^= 1 << (bit % 8)
	return r
}
