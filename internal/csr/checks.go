// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
)

const (
	nodeUserPrefix = "system:node:"
	nodesGroup     = "system:nodes"
	// everyGroup is the group of everyone who has authenticated.
	everyGroup = "system:authenticated"
	// MaxRequestBytes is several times the size of a kubelet's request with an RSA key of 8192 bits.
	MaxRequestBytes = 8 << 10
	// maxMessageBytes is the maximum length of an event's message (pkg/apis/core/validation).
	maxMessageBytes = 1024
	// usualExponent is the exponent of every RSA key that a kubelet or openssl creates.
	usualExponent = 65537
	// maxDurationSeconds is a year: kube-controller-manager's own default for --cluster-signing-duration.
	maxDurationSeconds = 366 * 24 * 60 * 60
)

// The checks in this file apply to both kinds of CSR. A check can rely on those before it.

// objection bounds the message, because it quotes untrusted input.
func objection(verdict Verdict, reason, format string, args ...any) *Result {
	message := fmt.Sprintf(format, args...)
	if len(message) > maxMessageBytes {
		message = strings.ToValidUTF8(message[:maxMessageBytes-len("...")], "") + "..."
	}
	return &Result{Verdict: verdict, Reason: reason, Message: message}
}

func deny(reason, format string, args ...any) *Result {
	return objection(Deny, reason, format, args...)
}

// hasPlainMetadata: a kubelet sends neither finalizers nor owner references. A CSR with a finalizer outlives its deletion, and
// kube-controller-manager still signs it (pkg/controller/certificates/signer), so it could not be revoked; a CSR with an owner is deleted
// when its sender wants it. Labels and annotations can come from admission, and do no harm.
func hasPlainMetadata(e *evaluation) *Result {
	if len(e.csr.Finalizers) == 0 && len(e.csr.OwnerReferences) == 0 {
		return nil
	}
	return deny(ReasonUnexpectedAttributes, "the request has finalizers or owner references, which no kubelet sends: with a finalizer it "+
		"could not be revoked by deleting it. If an admission policy adds them, exempt CertificateSigningRequests from it")
}

func livesAYearAtMost(e *evaluation) *Result {
	if s := e.csr.Spec.ExpirationSeconds; s != nil && *s > maxDurationSeconds {
		return deny(ReasonWrongDuration, "a certificate for %d seconds is requested; the maximum is %d: request less, or no duration, as a kubelet does", *s, maxDurationSeconds)
	}
	return nil
}

func isOfModestSize(e *evaluation) *Result {
	if n := len(e.csr.Spec.Request); n > MaxRequestBytes {
		return deny(ReasonTooLarge, "the request has more than %d bytes"+stockKubelet, MaxRequestBytes)
	}
	return nil
}

// isOnePEMBlock also rules out PEM headers and text around the block, by encoding the block again.
func isOnePEMBlock(e *evaluation) *Result {
	block, _ := pem.Decode(e.csr.Spec.Request)
	const want = "; it must be exactly one PEM block of type CERTIFICATE REQUEST without headers" + stockKubelet
	switch {
	case block == nil:
		return deny(ReasonMalformed, "the request has no PEM block"+want)
	case block.Type != "CERTIFICATE REQUEST":
		return deny(ReasonMalformed, "the request is a PEM block of type %.100q"+want, block.Type)
	case len(block.Headers) > 0:
		return deny(ReasonMalformed, "the PEM block of the request has %d headers"+want, len(block.Headers))
	case !bytes.Equal(pem.EncodeToMemory(block), e.csr.Spec.Request):
		return deny(ReasonMalformed, "the request has text around its PEM block, or another line length"+want)
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return deny(ReasonMalformed, "the certificate request cannot be parsed: %v"+stockKubelet, err)
	}
	e.parsed = parsed
	return nil
}

// isSigned does not leave the choice of the algorithm to crypto/x509, which accepts SHA-1 on certificate requests.
func isSigned(e *evaluation) *Result {
	if _, sound := signatureAlgorithms[e.parsed.SignatureAlgorithm]; !sound {
		return deny(ReasonBadSignature, "the request is signed with %s; SHA-256, SHA-384 or SHA-512 is expected, with RSA or ECDSA"+stockKubelet, e.parsed.SignatureAlgorithm)
	}
	if err := e.parsed.CheckSignature(); err != nil {
		return deny(ReasonBadSignature, "the request is not signed with its own key: %v"+stockKubelet, err)
	}
	return nil
}

func hasSoundKey(e *evaluation) *Result {
	switch key := e.parsed.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits >= 2048 && bits <= 8192 && key.E == usualExponent {
			return nil
		}
	case *ecdsa.PublicKey:
		if bits := key.Curve.Params().BitSize; bits >= 256 {
			return nil
		}
	}
	return deny(ReasonWrongKey, "the key is %s; RSA of 2048 to 8192 bits with the exponent 65537, or ECDSA on P-256, P-384 or P-521 is expected"+stockKubelet, DescribeKey(e.parsed.PublicKey))
}

// DescribeKey is the type and size of a public key.
func DescribeKey(key any) string {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if key.E != usualExponent {
			return fmt.Sprintf("RSA of %d bits with the exponent %d", key.N.BitLen(), key.E)
		}
		return fmt.Sprintf("RSA of %d bits", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA on " + key.Curve.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	default:
		return "of an unknown type"
	}
}

func hasUsages(e *evaluation, purpose certificatesv1.KeyUsage) *Result {
	want := slices.Sorted(slices.Values(kubeletUsages(e.parsed.PublicKey, purpose)))
	if have := slices.Sorted(slices.Values(e.csr.Spec.Usages)); !slices.Equal(have, want) {
		return deny(ReasonWrongUsages, "the requested usages are %q; a kubelet's certificate of this signer with this kind of key has %q"+stockKubelet, have, want)
	}
	return nil
}

// surplus says what a certificate request has that a kubelet's has not.
func surplus(parsed *x509.CertificateRequest, names bool) string {
	var found []string
	add := func(kind string, values []string) {
		if len(values) > 0 {
			found = append(found, fmt.Sprintf("%s %.200q", kind, values))
		}
	}
	if names {
		add("the DNS names", parsed.DNSNames)
		add("the IPs", texts(parsed.IPAddresses))
	}
	add("the email addresses", parsed.EmailAddresses)
	add("the URIs", texts(parsed.URIs))
	var extensions []string
	for _, x := range parsed.Extensions {
		if !x.Id.Equal(oidSubjectAltName) {
			extensions = append(extensions, x.Id.String())
		}
	}
	add("the extensions", extensions)
	if found == nil {
		return "attributes, another encoding or hidden data"
	}
	return strings.Join(found, " and ")
}

func texts[T fmt.Stringer](values []T) []string {
	var out []string
	for _, v := range values {
		out = append(out, v.String())
	}
	return out
}

func nodesSubject(node string) pkix.Name {
	return pkix.Name{Organization: []string{nodesGroup}, CommonName: nodeUserPrefix + node}
}

// hasSubject compares the encoded subject with the node's: parsing hides second values, unknown attributes and string types. The message
// is for a subject that means something else.
func hasSubject(e *evaluation, format string, args ...any) *Result {
	want, err := asn1.Marshal(nodesSubject(e.node).ToRDNSequence())
	switch {
	case err == nil && bytes.Equal(e.parsed.RawSubject, want):
		return nil
	case meansNodesSubject(e):
		return deny(ReasonUnexpectedAttributes, "the subject %q is not encoded as a kubelet encodes it: organization first, then common name, "+
			"each in an RDN of its own and as a PrintableString, which openssl writes with string_mask=default in the section [req] of its configuration"+stockKubelet, e.parsed.Subject.String())
	}
	return deny(ReasonWrongSubject, format, args...)
}

// meansNodesSubject reports whether the parsed subject is the node's, in any encoding and order. Tools other than a kubelet write other
// string types.
func meansNodesSubject(e *evaluation) bool {
	have := e.parsed.Subject.Names
	want := map[string]any{oidOrganization.String(): nodesGroup, oidCommonName.String(): nodeUserPrefix + e.node}
	for _, v := range have {
		if value, ok := want[v.Type.String()]; !ok || v.Value != value {
			return false
		}
	}
	return len(have) == len(want) && !have[0].Type.Equal(have[1].Type)
}

// stockKubelet ends the message of a denial for a defect that no stock kubelet's CSR has. Both causes are possible, and the advice
// differs.
const stockKubelet = ". Start a stock kubelet. If a stock kubelet runs on the machine, this request is not its own: find out who sent it, and " +
	"request a reissue if it was sent with the bootstrap token"

// isCanonical encodes the certificate request again from the checked parts, and compares: extensions, attributes and anything that a
// parser skips would differ. Only the bits of the signature are copied.
func isCanonical(e *evaluation) bool {
	want, err := canonical(e.parsed)
	return err == nil && bytes.Equal(want, e.parsed.Raw)
}

// signatureAlgorithms are the algorithms that a kubelet may sign with, and their encoding (RFC 4055, RFC 5758).
var signatureAlgorithms = map[x509.SignatureAlgorithm]pkix.AlgorithmIdentifier{
	x509.SHA256WithRSA:   {Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: asn1.NullRawValue},
	x509.SHA384WithRSA:   {Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}, Parameters: asn1.NullRawValue},
	x509.SHA512WithRSA:   {Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}, Parameters: asn1.NullRawValue},
	x509.ECDSAWithSHA256: {Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}},
	x509.ECDSAWithSHA384: {Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}},
	x509.ECDSAWithSHA512: {Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}},
}

var (
	oidExtensionRequest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14} // RFC 2985
	oidCommonName       = asn1.ObjectIdentifier{2, 5, 4, 3}                  // RFC 5280
	oidOrganization     = asn1.ObjectIdentifier{2, 5, 4, 10}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17} // RFC 5280
)

// The context-specific tags of a GeneralName (RFC 5280).
const (
	tagDNSName   = 2
	tagIPAddress = 7
)

// canonical is the only encoding of a certificate request (RFC 2986) with this subject, key, DNS names, IP addresses, algorithm and
// signature, and nothing else. It is the encoding of crypto/x509, which kubelets use.
func canonical(parsed *x509.CertificateRequest) ([]byte, error) {
	key, err := x509.MarshalPKIXPublicKey(parsed.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("encoding the key: %w", err)
	}
	attributes, err := canonicalAttributes(parsed)
	if err != nil {
		return nil, fmt.Errorf("encoding the attributes: %w", err)
	}
	info, err := asn1.Marshal(struct {
		Version    int
		Subject    asn1.RawValue
		PublicKey  asn1.RawValue
		Attributes asn1.RawValue
	}{
		Subject:    asn1.RawValue{FullBytes: parsed.RawSubject},
		PublicKey:  asn1.RawValue{FullBytes: key},
		Attributes: asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: attributes},
	})
	if err != nil {
		return nil, fmt.Errorf("encoding what is signed: %w", err)
	}
	return asn1.Marshal(struct {
		Info      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{
		Info:      asn1.RawValue{FullBytes: info},
		Algorithm: signatureAlgorithms[parsed.SignatureAlgorithm],
		Signature: asn1.BitString{Bytes: parsed.Signature, BitLength: 8 * len(parsed.Signature)},
	})
}

// canonicalAttributes are one request for one extension, the subject alternative name: DNS names, then IP addresses. They are empty
// without names.
func canonicalAttributes(parsed *x509.CertificateRequest) ([]byte, error) {
	var names []asn1.RawValue
	for _, name := range parsed.DNSNames {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tagDNSName, Bytes: []byte(name)})
	}
	for _, ip := range parsed.IPAddresses {
		if v4 := ip.To4(); v4 != nil {
			ip = v4
		}
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tagIPAddress, Bytes: ip})
	}
	if names == nil {
		return nil, nil
	}
	value, err := asn1.Marshal(names)
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(struct {
		Type   asn1.ObjectIdentifier
		Values [][]pkix.Extension `asn1:"set"`
	}{oidExtensionRequest, [][]pkix.Extension{{{Id: oidSubjectAltName, Value: value}}}})
}
