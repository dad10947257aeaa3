// SPDX-License-Identifier: Apache-2.0

package adversarial

import (
	"crypto"
	"crypto/rsa"
	"encoding/asn1"
	"math/big"
	"slices"
)

func signatures() []Case {
	return slices.Concat(
		all(deny, badSignature, badSignatures()),
		all(deny, badSignature, badAlgorithms()),
		all(deny, malformed, badSignatureBits()),
		all(deny, unexpectedAttributes, otherSignatureEncodings()),
	)
}

func badAlgorithms() []Case {
	return []Case{
		{Name: "signed-ecdsa-sha1", Why: "crypto/x509 accepts SHA-1 on requests, where collisions can be bought.", Spoil: signedAs(p256, algorithm(oidECDSAWithSHA1), crypto.SHA1)},
		{Name: "signed-ecdsa-sha224", Why: "SHA-224 is not on the list.", Spoil: signedAs(p256, algorithm(oidECDSAWithSHA224), crypto.SHA224)},
		{Name: "signed-rsa-sha1", Why: "crypto/x509 accepts SHA-1 on requests, where collisions can be bought.", Spoil: signedAs(rsa2048, algorithm(oidSHA1WithRSA, null()), crypto.SHA1)},
		{Name: "signed-rsa-md5", Why: "Anybody can create two requests with the same MD5.", Spoil: signedAs(rsa2048, algorithm(oidMD5WithRSA, null()), crypto.MD5)},
		{Name: "signed-rsa-pss", Why: "crypto/x509 accepts RSA-PSS, which no kubelet uses, with parameters of the sender's choice.", Spoil: rebuildWith(rsa2048, func(p *parts) {
			p.algorithm = algorithm(oidRSAPSS, pssParameters())
			p.options = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
		})},
		{Name: "signed-unknown-algorithm", Why: "An algorithm without a name that is known cannot be verified.", Spoil: rebuild(func(p *parts, _ string) { p.algorithm = algorithm(oidUnknown) })},
		{Name: "signed-rsa-named-ecdsa", Why: "An algorithm of another kind than the key would be verified with the wrong rules.", Spoil: signedAs(rsa2048, algorithm(oidECDSAWithSHA256), crypto.SHA256)},
		{Name: "signed-ecdsa-named-rsa", Why: "An algorithm of another kind than the key would be verified with the wrong rules.", Spoil: signedAs(p256, algorithm(oidSHA256WithRSA, null()), crypto.SHA256)},
		{Name: "signed-sha256-named-sha384", Why: "The digest is not the one that is named.", Spoil: signedAs(p256, algorithm(oidECDSAWithSHA384), crypto.SHA256)},
	}
}

func badSignatureBits() []Case {
	return []Case{
		{Name: "signature-without-octets", Why: "A BIT STRING must give the number of unused bits.", Spoil: signatureBits(func([]byte) []byte {
			return element(asn1.ClassUniversal, asn1.TagBitString, false)
		})},
		{Name: "signature-constructed", Why: "A BIT STRING in pieces is BER, not DER: two encodings of one request.", Spoil: signatureBits(func(s []byte) []byte {
			return element(asn1.ClassUniversal, asn1.TagBitString, true, bitString(s))
		})},
		{Name: "signature-eight-unused-bits", Why: "A BIT STRING cannot leave out more than seven bits.", Spoil: signatureBits(func(s []byte) []byte {
			return element(asn1.ClassUniversal, asn1.TagBitString, false, []byte{8}, s)
		})},
		{Name: "signature-octet-string", Why: "An OCTET STRING is not a BIT STRING.", Spoil: signatureBits(octetString)},
		{Name: "signature-missing", Why: "A request without a signature proves nothing.", Spoil: signatureBits(func([]byte) []byte { return nil })},
	}
}

// otherSignatureEncodings verify, but a kubelet does not send them.
func otherSignatureEncodings() []Case {
	return []Case{
		{Name: "signature-unused-bits", Why: "A shifted BIT STRING is aligned again when it is read: two encodings of one request.", Spoil: rebuildWith(p256, func(p *parts) {
			p.bitsOf = func(s []byte) []byte { return shiftedBitString(s, 2) }
		})},
		{Name: "signed-ecdsa-with-null", Why: "The parameters of the algorithm are not signed: anything fits in there.", Spoil: signedAs(p256, algorithm(oidECDSAWithSHA256, null()), crypto.SHA256)},
		{Name: "signed-rsa-without-null", Why: "The parameters of the algorithm are not signed: two encodings of one request.", Spoil: signedAs(rsa2048, algorithm(oidSHA256WithRSA), crypto.SHA256)},
		{Name: "signed-with-parameters", Why: "The parameters of the algorithm are not signed: anything fits in there.", Spoil: signedAs(p256, algorithm(oidECDSAWithSHA256, text(asn1.TagUTF8String, "see below")), crypto.SHA256)},
		{Name: "signed-algorithm-tail", Why: "What follows the algorithm's parameters is not signed and passed over.", Spoil: signedAs(rsa2048, algorithm(oidSHA256WithRSA, null(), text(asn1.TagUTF8String, "see below")), crypto.SHA256)},
	}
}

func badSignatures() []Case {
	return []Case{
		{Name: "signature-of-other-key", Why: "Who does not have a key could get a certificate for it.", Spoil: rebuildWith(p256, func(p *parts) { p.signer = anotherKey() })},
		{Name: "signature-flipped-bit", Why: "A signature that is nearly right is wrong.", Spoil: recode(func(whole []byte) []byte {
			whole[len(whole)-1] ^= 1
			return whole
		})},
		{Name: "signature-zero-length", Why: "No bits are no signature.", Spoil: signatureBits(func([]byte) []byte { return bitString(nil) })},
		{Name: "signature-of-other-subject", Why: "Who saw another node's request could put its own name into it.", Spoil: rebuild(func(p *parts, _ string) {
			good := p.subject
			p.subject = name(organization(), commonName("system:node:other-node"))
			p.wholeOf = func(parts ...[]byte) []byte {
				p.subject = good
				parts[0] = p.info()
				return sequence(parts...)
			}
		})},
		{Name: "signature-zeros", Why: "A verifier that does not look at the range accepts r = s = 0 for all (CVE-2022-21449).", Spoil: ecdsaSignature(func(_, _ *big.Int) []byte {
			return sequence(number(0), number(0))
		})},
		{Name: "signature-padded-integers", Why: "Zeros in front of r and s are two encodings of one signature.", Spoil: ecdsaSignature(func(r, s *big.Int) []byte {
			_, first := split(der(r))
			_, second := split(der(s))
			return sequence(element(0, asn1.TagInteger, false, []byte{0, 0}, first), element(0, asn1.TagInteger, false, []byte{0, 0}, second))
		})},
		{Name: "signature-tail", Why: "Bytes after r and s are two encodings of one signature.", Spoil: ecdsaSignature(func(r, s *big.Int) []byte {
			return slices.Concat(sequence(der(r), der(s)), null())
		})},
		{Name: "signature-plain", Why: "r and s one after the other are the form of IEEE P1363, not of X.509.", Spoil: ecdsaSignature(func(r, s *big.Int) []byte {
			return slices.Concat(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32)))
		})},
		{Name: "signature-rsa-longer", Why: "A zero in front is two encodings of one signature.", Spoil: rebuildWith(rsa2048, func(p *parts) {
			p.bitsOf = func(s []byte) []byte { return bitString(slices.Concat([]byte{0}, s)) }
		})},
		{Name: "signature-rsa-forged", Why: "Who does not read the padding to its end accepts a cube root made without the key.", Spoil: otherKey(newForger)},
	}
}

// signedAs names an algorithm, and signs with another key and a hash.
func signedAs(key func() crypto.Signer, algorithm []byte, hash crypto.Hash) spoil {
	return rebuildWith(key, func(p *parts) { p.algorithm, p.hash = algorithm, hash })
}

func signatureBits(change func(signature []byte) []byte) spoil {
	return rebuild(func(p *parts, _ string) { p.bitsOf = change })
}

// ecdsaSignature writes the two numbers of a signature in another way.
func ecdsaSignature(change func(r, s *big.Int) []byte) spoil {
	return rebuildWith(p256, func(p *parts) {
		p.bitsOf = func(signature []byte) []byte {
			var numbers struct{ R, S *big.Int }
			must(asn1.Unmarshal(signature, &numbers))
			return bitString(change(numbers.R, numbers.S))
		}
	})
}

// pssParameters are those of SHA-256 with a salt of 32 bytes (RFC 4055, section 3.1).
func pssParameters() []byte {
	sha256 := algorithm(asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, null())
	mgf1 := algorithm(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}, sha256)
	return sequence(tagged(0, sha256), tagged(1, mgf1), tagged(2, number(32)))
}
