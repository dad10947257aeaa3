// SPDX-License-Identifier: Apache-2.0

package adversarial

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// The object identifiers of RFC 2986, RFC 4519, RFC 5280, RFC 5480 and RFC 8017 that the CSRs use.
var (
	oidCommonName   = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidSerialNumber = asn1.ObjectIdentifier{2, 5, 4, 5}
	oidCountry      = asn1.ObjectIdentifier{2, 5, 4, 6}
	oidOrganization = asn1.ObjectIdentifier{2, 5, 4, 10}
	oidUnit         = asn1.ObjectIdentifier{2, 5, 4, 11}
	oidUserID       = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}
	oidComponent    = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}
	oidUnknown      = asn1.ObjectIdentifier{1, 2, 3, 4}

	oidEmailAddress      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}
	oidUnstructuredName  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 2}
	oidChallengePassword = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}
	oidExtensionRequest  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}
	oidMicrosoftRequest  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 14}

	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSAN              = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidNameConstraints  = asn1.ObjectIdentifier{2, 5, 29, 30}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}

	oidRSA             = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidMD5WithRSA      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 4}
	oidSHA1WithRSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}
	oidRSAPSS          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}
	oidSHA256WithRSA   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
	oidECDSA           = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidECDSAWithSHA1   = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}
	oidECDSAWithSHA224 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 1}
	oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidECDSAWithSHA384 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
	oidEd25519         = asn1.ObjectIdentifier{1, 3, 101, 112}
	oidDSA             = asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}
	oidDSAWithSHA256   = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 2}
	oidP256            = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
	oidPrimeField      = asn1.ObjectIdentifier{1, 2, 840, 10045, 1, 1}
	oidSecp256k1       = asn1.ObjectIdentifier{1, 3, 132, 0, 10}
)

// must panics on errors that only a bug in this package causes.
func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Errorf("creating an adversarial CSR: %w", err))
	}
	return v
}

// der is the encoding of a value that encoding/asn1 knows.
func der(v any) []byte { return must(asn1.Marshal(v)) }

func element(class, tag int, constructed bool, parts ...[]byte) []byte {
	return der(asn1.RawValue{Class: class, Tag: tag, IsCompound: constructed, Bytes: slices.Concat(parts...)})
}

func sequence(parts ...[]byte) []byte {
	return element(asn1.ClassUniversal, asn1.TagSequence, true, parts...)
}

func set(parts ...[]byte) []byte { return element(asn1.ClassUniversal, asn1.TagSet, true, parts...) }

// tagged is a constructed, context-specific element.
func tagged(tag int, parts ...[]byte) []byte {
	return element(asn1.ClassContextSpecific, tag, true, parts...)
}

// choice is a primitive, context-specific element, like most kinds of names in a SAN.
func choice(tag int, content []byte) []byte {
	return element(asn1.ClassContextSpecific, tag, false, content)
}

func text(tag int, content string) []byte {
	return element(asn1.ClassUniversal, tag, false, []byte(content))
}

func number(n int64) []byte { return der(big.NewInt(n)) }

func null() []byte { return element(asn1.ClassUniversal, asn1.TagNull, false) }

func octetString(content []byte) []byte { return der(content) }

func bitString(content []byte) []byte {
	return der(asn1.BitString{Bytes: content, BitLength: 8 * len(content)})
}

// shiftedBitString has the same bits with unused ones at the end instead of zeros at the beginning. crypto/x509 aligns them
// again when it reads it. The content must begin with that many zeros.
func shiftedBitString(content []byte, unused int) []byte {
	shifted := new(big.Int).Lsh(new(big.Int).SetBytes(content), uint(unused))
	return der(asn1.BitString{Bytes: shifted.FillBytes(make([]byte, len(content))), BitLength: 8*len(content) - unused})
}

// algorithm is an AlgorithmIdentifier.
func algorithm(oid asn1.ObjectIdentifier, parameters ...[]byte) []byte {
	return sequence(der(oid), slices.Concat(parameters...))
}

// split is a DER element as its tag and its content. It knows tags of one byte.
func split(whole []byte) (tag byte, content []byte) {
	var v asn1.RawValue
	must(asn1.Unmarshal(whole, &v))
	return whole[0], v.Bytes
}

// inside appends to the content of an element, and corrects the length.
func inside(whole []byte, parts ...[]byte) []byte {
	var v asn1.RawValue
	must(asn1.Unmarshal(whole, &v))
	return element(v.Class, v.Tag, v.IsCompound, v.Bytes, slices.Concat(parts...))
}

// longLength writes the length of an element with more bytes than it needs, which BER allows and DER does not.
func longLength(whole []byte) []byte {
	tag, content := split(whole)
	n := len(content)
	return slices.Concat([]byte{tag, 0x84, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, content) //nolint:gosec // The low bits are meant.
}

// indefiniteLength ends an element with two zeros instead of saying its length, which BER allows and DER does not.
func indefiniteLength(whole []byte) []byte {
	tag, content := split(whole)
	return slices.Concat([]byte{tag, 0x80}, content, []byte{0, 0})
}

// longTag writes the tag of a SEQUENCE in the form for tags from 31 on.
func longTag(whole []byte) []byte {
	return slices.Concat([]byte{0x3f, asn1.TagSequence}, whole[1:])
}

type spec = certificatesv1.CertificateSigningRequestSpec

// spoil is the type of Case.Spoil. It replaces slices and pointers of the spec, and never writes into them.
type spoil = func(spec *spec, node string, key crypto.Signer)

// parts are the parts of a CSR (RFC 2986), each already encoded, so that a case can change one of them and sign the CSR
// again.
type parts struct {
	version, subject, key []byte
	// attributes is the whole [0] element, with whatever follows it.
	attributes []byte
	// dns and ips are the names of the good CSR's SAN extension, to build another one from.
	dns, ips [][]byte
	// algorithm is the signature algorithm that the CSR names, signer and hash are those actually used.
	algorithm []byte
	signer    crypto.Signer
	hash      crypto.Hash
	options   crypto.SignerOpts
	// infoOf and wholeOf create the two SEQUENCEs, bitsOf the BIT STRING of the signature.
	infoOf, wholeOf func(parts ...[]byte) []byte
	bitsOf          func(signature []byte) []byte
}

func takeApart(request []byte, key crypto.Signer) *parts {
	block, _ := pem.Decode(request)
	parsed := must(x509.ParseCertificateRequest(block.Bytes))
	var info struct {
		Version                  int
		Subject, Key, Attributes asn1.RawValue
	}
	must(asn1.Unmarshal(parsed.RawTBSCertificateRequest, &info))
	p := &parts{
		version:    number(0),
		subject:    parsed.RawSubject,
		attributes: info.Attributes.FullBytes,
		hash:       crypto.SHA256,
		infoOf:     sequence,
		wholeOf:    sequence,
		bitsOf:     bitString,
	}
	for _, name := range parsed.DNSNames {
		p.dns = append(p.dns, dnsName(name))
	}
	for _, ip := range parsed.IPAddresses {
		p.ips = append(p.ips, ipAddress(ip))
	}
	p.useKey(key)
	return p
}

// useKey builds the CSR for a key and signs it with that key.
func (p *parts) useKey(key crypto.Signer) {
	p.signer = key
	switch public := key.Public().(type) {
	case *rsa.PublicKey:
		p.key = rsaKeyInfo(der(public.N), number(int64(public.E)))
		p.algorithm = algorithm(oidSHA256WithRSA, null())
	case *ecdsa.PublicKey:
		p.key = must(x509.MarshalPKIXPublicKey(public))
		p.algorithm = algorithm(oidECDSAWithSHA256)
	}
}

// useSAN replaces the attributes by an extension request with only a SAN extension, as crypto/x509 would write it.
func (p *parts) useSAN(names ...[]byte) {
	p.attributes = tagged(0, extensionRequest(extension(oidSAN, sequence(names...))))
}

// names are those of the good CSR's SAN extension, in its order.
func (p *parts) names() []byte {
	return slices.Concat(slices.Concat(p.dns...), slices.Concat(p.ips...))
}

func (p *parts) info() []byte { return p.infoOf(p.version, p.subject, p.key, p.attributes) }

func (p *parts) sealed() []byte {
	info, digest := p.info(), []byte(nil)
	if p.hash == 0 {
		digest = info
	} else {
		h := p.hash.New()
		h.Write(info)
		digest = h.Sum(nil)
	}
	if p.options == nil {
		p.options = p.hash
	}
	signature := must(p.signer.Sign(rand.Reader, digest, p.options))
	return p.wholeOf(info, p.algorithm, p.bitsOf(signature))
}

func encode(data []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: data})
}

// rebuild changes parts of the CSR and signs it again with its own key.
func rebuild(change func(p *parts, node string)) spoil {
	return func(spec *spec, node string, key crypto.Signer) {
		p := takeApart(spec.Request, key)
		change(p, node)
		spec.Request = encode(p.sealed())
	}
}

// rebuildWith builds the CSR for another key, of a type that the defect needs, requests the usages of that type, and
// then changes parts of it.
func rebuildWith(newKey func() crypto.Signer, change func(p *parts)) spoil {
	return func(spec *spec, _ string, _ crypto.Signer) {
		key := newKey()
		p := takeApart(spec.Request, key)
		change(p)
		spec.Request = encode(p.sealed())
		spec.Usages = usagesFor(key, slices.DeleteFunc(slices.Clone(spec.Usages), isKeyEncipherment)...)
	}
}

func isKeyEncipherment(u certificatesv1.KeyUsage) bool {
	return u == certificatesv1.UsageKeyEncipherment
}

// recode changes the DER of the CSR and leaves the signature as it is.
func recode(change func(whole []byte) []byte) spoil {
	return func(spec *spec, _ string, _ crypto.Signer) {
		block, _ := pem.Decode(spec.Request)
		spec.Request = encode(change(block.Bytes))
	}
}

// rewrite changes the text of spec.request.
func rewrite(change func(text []byte) []byte) spoil {
	return func(spec *spec, _ string, _ crypto.Signer) { spec.Request = change(slices.Clone(spec.Request)) }
}
