// SPDX-License-Identifier: Apache-2.0

package adversarial

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const testNode = "worker-1"

func goodClient(key crypto.Signer) certificatesv1.CertificateSigningRequestSpec {
	return GoodClient(testNode, "abc123", key)
}

func goodServing(key crypto.Signer) certificatesv1.CertificateSigningRequestSpec {
	return GoodServing(testNode, key, []string{testNode, testNode + ".example.com"}, []net.IP{net.ParseIP("192.0.2.7"), net.ParseIP("2001:db8::7")})
}

// kinds are the two tables, with the good CSRs to which they apply.
var kinds = map[string]struct {
	good  func(key crypto.Signer) certificatesv1.CertificateSigningRequestSpec
	cases []Case
}{
	"client":  {goodClient, Client()},
	"serving": {goodServing, Serving()},
}

var testKeys = map[string]func() crypto.Signer{"ECDSA": anotherKey, "RSA": rsa2048}

func TestThereAreEnoughCases(t *testing.T) {
	if client, serving := len(Client()), len(Serving()); client < 75 || serving < 45 {
		t.Errorf("there are %d cases for clients and %d for serving", client, serving)
	}
}

func TestNames(t *testing.T) {
	kebab := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	seen := map[string]bool{}
	for _, c := range slices.Concat(Client(), Serving(), Harmless()) {
		if !kebab.MatchString(c.Name) || len(c.Name) > 40 {
			t.Errorf("the name %q is not in kebab-case or has %d characters", c.Name, len(c.Name))
		}
		if seen[c.Name] {
			t.Errorf("there are two cases %s", c.Name)
		}
		seen[c.Name] = true
		if c.Why == "" || (c.Spoil == nil) == (c.SpoilMeta == nil) {
			t.Errorf("%s has no explanation, or not exactly one defect", c.Name)
		}
	}
}

func TestExpectations(t *testing.T) {
	for _, c := range Harmless() {
		if c.Verdict != approve || c.Reason != "" || c.SpoilMeta == nil || c.Requester {
			t.Errorf("%s: %s with the reason %q is no verdict on a harmless case", c.Name, c.Verdict, c.Reason)
		}
	}
	denials := []string{wrongDuration, tooLarge, malformed, badSignature, wrongKey, wrongUsages, wrongSubject, unexpectedAttributes}
	allowed := map[string]map[string][]string{
		"client":  {leave: {notOurs}, deny: append([]string{wrongRequester, wrongSigner}, denials...)},
		"serving": {leave: {notOurs}, deny: append([]string{noAddress}, denials...), wait: {addressReserved, addressElsewhere, addressNotDeclared}},
	}
	for kind, k := range kinds {
		seen := map[string]bool{}
		for _, c := range k.cases {
			seen[c.Reason] = true
			if !slices.Contains(allowed[kind][c.Verdict], c.Reason) {
				t.Errorf("%s: %s with the reason %s is no verdict on a %s request", c.Name, c.Verdict, c.Reason, kind)
			}
		}
		for _, reasons := range allowed[kind] {
			for _, reason := range reasons {
				if !seen[reason] {
					t.Errorf("no %s request has the reason %s", kind, reason)
				}
			}
		}
	}
}

// The good CSRs have the form that upstream checks (pkg/apis/certificates/helpers.go), and all the parts that the cases
// build on.
func TestGoodRequestsAreGood(t *testing.T) {
	for kind, k := range kinds {
		for algorithm, key := range testKeys {
			t.Run(kind+"/"+algorithm, func(t *testing.T) {
				spec := k.good(key())
				parsed := parse(t, spec.Request)
				if err := parsed.CheckSignature(); err != nil {
					t.Error(err)
				}
				if cn, o := parsed.Subject.CommonName, parsed.Subject.Organization; cn != "system:node:"+testNode || !slices.Equal(o, []string{"system:nodes"}) {
					t.Errorf("the subject is %s", parsed.Subject)
				}
				want := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
				if kind == "serving" {
					want[1] = certificatesv1.UsageServerAuth
				}
				if algorithm == "RSA" {
					want = slices.Insert(want, 1, certificatesv1.UsageKeyEncipherment)
				}
				if !slices.Equal(spec.Usages, want) {
					t.Errorf("the usages are %q", spec.Usages)
				}
				if kind == "serving" && (len(parsed.DNSNames) != 2 || len(parsed.IPAddresses) != 2) || !isCanonical(parsed, kind == "serving") {
					t.Errorf("the extensions are %v", parsed.Extensions)
				}
				again := parse(t, encode(takeApart(spec.Request, key()).sealed()))
				if !bytes.Equal(again.RawTBSCertificateRequest, parsed.RawTBSCertificateRequest) || again.CheckSignature() != nil {
					t.Error("decoding and encoding changes the CSR")
				}
			})
		}
	}
}

func parse(t *testing.T, request []byte) *x509.CertificateRequest {
	t.Helper()
	block, rest := pem.Decode(request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		t.Fatalf("the request is not one block: %q", request)
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// Each case differs from the good CSR in the field that it names, and does not modify the good one.
func TestEachCaseHasADefect(t *testing.T) {
	eachCase(t, func(t *testing.T, c Case, good, bad *certificatesv1.CertificateSigningRequest) {
		if reflect.DeepEqual(good, bad) {
			t.Error("it is the good request")
		}
		if c.SpoilMeta == nil && !reflect.DeepEqual(good.ObjectMeta, bad.ObjectMeta) {
			t.Error("the metadata differs")
		}
		if c.Spoil == nil && !reflect.DeepEqual(good.Spec, bad.Spec) {
			t.Error("more than the metadata differs")
		}
		content, requester := bad.Spec, bad.Spec
		content.Username, content.Groups, content.UID, content.Extra = good.Spec.Username, good.Spec.Groups, good.Spec.UID, good.Spec.Extra
		requester.Request, requester.SignerName = good.Spec.Request, good.Spec.SignerName
		requester.Usages, requester.ExpirationSeconds = good.Spec.Usages, good.Spec.ExpirationSeconds
		if c.Requester && !reflect.DeepEqual(bad.Spec, requester) {
			t.Error("more than the requester differs")
		}
		if !c.Requester && !reflect.DeepEqual(bad.Spec, content) {
			t.Error("the requester differs")
		}
	})
}

// Harmless cases have neither finalizers nor owners, and differ from the good CSR.
func TestHarmlessCasesAreHarmless(t *testing.T) {
	for _, c := range Harmless() {
		good := certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "csr-1"}}
		changed := good.DeepCopy()
		c.Apply(changed, testNode, anotherKey())
		if reflect.DeepEqual(&good, changed) || len(changed.Finalizers)+len(changed.OwnerReferences) > 0 {
			t.Errorf("%s: the metadata is %+v", c.Name, changed.ObjectMeta)
		}
		changed.ObjectMeta = good.ObjectMeta
		if !reflect.DeepEqual(&good, changed) {
			t.Errorf("%s: more than the metadata differs", c.Name)
		}
	}
}

// rule is about the content of a CSR. Those on the requester are too simple to be repeated here.
type rule struct {
	reason string
	broken func(r *sent) bool
}

// sent is a CSR, with the good one from which it was made.
type sent struct {
	good, bad *certificatesv1.CertificateSigningRequestSpec
	metadata  metav1.ObjectMeta
	serving   bool
	// parsed is nil if the request is malformed.
	parsed *x509.CertificateRequest
}

// rules are in the order of the checks. A rule can rely on those before it.
var rules = []rule{
	{wrongSigner, func(r *sent) bool { return !r.serving && r.bad.SignerName != r.good.SignerName }},
	{notOurs, func(r *sent) bool { return r.serving && r.bad.SignerName != r.good.SignerName }},
	{unexpectedAttributes, func(r *sent) bool { return len(r.metadata.Finalizers)+len(r.metadata.OwnerReferences) > 0 }},
	{wrongDuration, func(r *sent) bool { s := r.bad.ExpirationSeconds; return s != nil && *s > 31622400 }},
	{tooLarge, func(r *sent) bool { return len(r.bad.Request) > 8192 }},
	{malformed, func(r *sent) bool { return r.parsed == nil }},
	{badSignature, func(r *sent) bool { return !sound[r.parsed.SignatureAlgorithm] || r.parsed.CheckSignature() != nil }},
	{wrongKey, func(r *sent) bool {
		if key, ok := r.parsed.PublicKey.(*rsa.PublicKey); ok {
			return key.N.BitLen() < 2048 || key.N.BitLen() > 8192
		}
		return r.parsed.PublicKey.(*ecdsa.PublicKey).Params().BitSize < 256
	}},
	{wrongUsages, func(r *sent) bool {
		want := slices.DeleteFunc(slices.Clone(r.good.Usages), isKeyEncipherment)
		if r.parsed.PublicKeyAlgorithm == x509.RSA {
			want = append(want, certificatesv1.UsageKeyEncipherment)
		}
		return !slices.Equal(slices.Sorted(slices.Values(r.bad.Usages)), slices.Sorted(slices.Values(want)))
	}},
	{wrongSubject, func(r *sent) bool { return meaning(r.parsed) != meaning(parseExact(r.good.Request)) }},
	{noAddress, func(r *sent) bool { return r.serving && len(r.parsed.DNSNames)+len(r.parsed.IPAddresses) == 0 }},
	{unexpectedAttributes, func(r *sent) bool {
		return !isCanonical(r.parsed, r.serving) || !bytes.Equal(r.parsed.RawSubject, parseExact(r.good.Request).RawSubject)
	}},
}

// meaning is what a reader understands of a subject, whatever its encoding and order.
func meaning(parsed *x509.CertificateRequest) string {
	var out []string
	for _, v := range parsed.Subject.Names {
		out = append(out, fmt.Sprintf("%s=%T %q", v.Type, v.Value, v.Value))
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// A case breaks the rule that it names, and none before it. If it breaks none it requests one address too many.
func TestEachCaseHasTheDefectItSays(t *testing.T) {
	eachCase(t, func(t *testing.T, c Case, good, bad *certificatesv1.CertificateSigningRequest) {
		if c.Requester {
			return
		}
		serving := good.Spec.SignerName == certificatesv1.KubeletServingSignerName
		request := &sent{good: &good.Spec, bad: &bad.Spec, metadata: bad.ObjectMeta, serving: serving, parsed: parseExact(bad.Spec.Request)}
		for _, rule := range rules {
			if rule.broken(request) {
				if rule.reason != c.Reason {
					t.Errorf("the reason is %s, it says %s", rule.reason, c.Reason)
				}
				return
			}
		}
		if c.Verdict != wait || undeclared(request.parsed) != 1 {
			t.Errorf("it requests %q and %v", request.parsed.DNSNames, request.parsed.IPAddresses)
		}
	})
}

// undeclared counts the addresses that a good serving request does not have.
func undeclared(parsed *x509.CertificateRequest) int {
	n := 0
	for _, name := range parsed.DNSNames {
		if name != testNode && name != testNode+".example.com" {
			n++
		}
	}
	for _, ip := range parsed.IPAddresses {
		if !ip.Equal(net.ParseIP("192.0.2.7")) && !ip.Equal(net.ParseIP("2001:db8::7")) && !bytes.HasPrefix(ip, []byte{198, 51, 100}) {
			n++
		}
	}
	return n
}

var sound = map[x509.SignatureAlgorithm]bool{
	x509.SHA256WithRSA: true, x509.SHA384WithRSA: true, x509.SHA512WithRSA: true,
	x509.ECDSAWithSHA256: true, x509.ECDSAWithSHA384: true, x509.ECDSAWithSHA512: true,
}

// parseExact is nil if the text differs from the output of encoding/pem, or cannot be parsed.
func parseExact(request []byte) *x509.CertificateRequest {
	block, _ := pem.Decode(request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(block.Headers) > 0 || !bytes.Equal(pem.EncodeToMemory(block), request) {
		return nil
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil
	}
	return parsed
}

// isCanonical reports whether crypto/x509 would write the same from what it read, and from nothing else.
func isCanonical(parsed *x509.CertificateRequest, serving bool) bool {
	template := &x509.CertificateRequest{RawSubject: parsed.RawSubject, SignatureAlgorithm: parsed.SignatureAlgorithm}
	if serving {
		template.DNSNames, template.IPAddresses = parsed.DNSNames, parsed.IPAddresses
	}
	again, err := x509.CreateCertificateRequest(rand.Reader, template, replay{parsed})
	return err == nil && bytes.Equal(again, parsed.Raw)
}

// replay is a key that has signed already.
type replay struct{ parsed *x509.CertificateRequest }

func (r replay) Public() crypto.PublicKey { return r.parsed.PublicKey }

func (r replay) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return r.parsed.Signature, nil
}

func eachCase(t *testing.T, check func(t *testing.T, c Case, good, bad *certificatesv1.CertificateSigningRequest)) {
	t.Helper()
	for _, k := range kinds {
		for algorithm, key := range testKeys {
			good := certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "csr-1"}, Spec: k.good(key())}
			for _, c := range k.cases {
				t.Run(c.Name+"/"+algorithm, func(t *testing.T) {
					before, bad := good.DeepCopy(), good
					c.Apply(&bad, testNode, key())
					if !reflect.DeepEqual(before, &good) {
						t.Error("the good request was written into")
					}
					check(t, c, &good, &bad)
				})
			}
		}
	}
}
