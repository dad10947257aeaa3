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
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
)

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
