// SPDX-License-Identifier: Apache-2.0

package adversarial

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"slices"
)

func keys() []Case {
	return slices.Concat(
		all(deny, wrongKey, []Case{
			{Name: "key-rsa-1024", Why: "An RSA key of 1024 bits can be factored by those who can afford it.", Spoil: otherKey(rsa1024)},
			{Name: "key-rsa-2047", Why: "An RSA key one bit too short shows that the limit is on bits, not on bytes.", Spoil: otherKey(rsa2047)},
			{Name: "key-rsa-8193", Why: "An RSA key one bit too long makes every verification more expensive.", Spoil: otherKey(rsa8193)},
			{Name: "key-ecdsa-p224", Why: "P-224 is the one curve of crypto/x509 that is too short.", Spoil: otherKey(p224)},
		}),
		all(deny, badSignature, []Case{
			{Name: "key-rsa-768", Why: "crypto/rsa verifies nothing with a key below 1024 bits; numbers of this size have been factored.", Spoil: otherKey(rsa768)},
			{Name: "key-rsa-exponent-1", Why: "With the exponent 1 anybody can sign for the key.", Spoil: otherKey(rsaOne)},
			{Name: "key-rsa-exponent-even", Why: "An even exponent has no inverse, so nobody can have the private key.", Spoil: rsaKey(func(n *big.Int) []byte {
				return rsaKeyInfo(der(n), number(65536))
			})},
			{Name: "key-rsa-exponent-2-to-31", Why: "An exponent beyond 31 bits is read differently by different verifiers.", Spoil: otherKey(rsaHuge)},
			{Name: "key-rsa-modulus-even", Why: "An even modulus is factored already.", Spoil: rsaKey(func(n *big.Int) []byte {
				return rsaKeyInfo(der(new(big.Int).Sub(n, big.NewInt(1))), number(65537))
			})},
			{Name: "key-ed25519", Why: "A kubelet has no Ed25519 key, and not all that verify its certificate know it.", Spoil: rebuildWith(ed, func(p *parts) {
				p.key = must(x509.MarshalPKIXPublicKey(ed().Public()))
				p.algorithm, p.hash = algorithm(oidEd25519), 0
			})},
			{Name: "key-x25519", Why: "A key for key agreement can sign nothing, so the signature proves nothing.", Spoil: rebuildWith(p256, func(p *parts) {
				p.key = must(x509.MarshalPKIXPublicKey(must(ecdh.X25519().GenerateKey(rand.Reader)).Public()))
			})},
			{Name: "key-dsa", Why: "crypto/x509 still reads DSA keys, and verifies nothing with them.", Spoil: rebuildWith(dsa1024, func(p *parts) {
				p.key = dsa1024().(*dsaKey).info()
				p.algorithm = algorithm(oidDSAWithSHA256)
			})},
			{Name: "key-rsa-for-pss-only", Why: "crypto/x509 does not know a key of the type id-RSASSA-PSS and continues without one.", Spoil: rebuildWith(rsa2048, func(p *parts) {
				n, e := rsaNumbers(rsa2048())
				p.key = sequence(algorithm(oidRSAPSS), bitString(sequence(n, e)))
			})},
			{Name: "key-unknown-algorithm", Why: "A key that crypto/x509 does not know is no reason to continue without one.", Spoil: ecKey(func(point []byte) []byte {
				return sequence(algorithm(oidUnknown), bitString(point))
			})},
		}),
		all(deny, malformed, malformedKeys()),
		all(deny, unexpectedAttributes, []Case{
			{Name: "key-tail", Why: "encoding/asn1 ignores what follows the known fields, so that the key has two fingerprints.", Spoil: rebuild(func(p *parts, _ string) { p.key = inside(p.key, null()) })},
			{Name: "key-algorithm-tail", Why: "What follows the curve is ignored, so that the key has two fingerprints.", Spoil: ecKey(func(point []byte) []byte {
				return sequence(algorithm(oidECDSA, der(oidP256), null()), bitString(point))
			})},
			{Name: "key-rsa-tail", Why: "What follows the exponent is ignored, so that the key has two fingerprints.", Spoil: rebuildWith(rsa2048, func(p *parts) {
				n, e := rsaNumbers(rsa2048())
				p.key = sequence(algorithm(oidRSA, null()), bitString(sequence(n, e, null())))
			})},
			{Name: "key-rsa-bits-tail", Why: "What follows the RSA key in its BIT STRING is ignored, so that the key has two fingerprints.", Spoil: rebuildWith(rsa2048, func(p *parts) {
				n, e := rsaNumbers(rsa2048())
				p.key = sequence(algorithm(oidRSA, null()), bitString(slices.Concat(sequence(n, e), null())))
			})},
			{Name: "key-unused-bits", Why: "A shifted BIT STRING is aligned again when it is read, so that the key has two fingerprints.", Spoil: ecKey(func(point []byte) []byte {
				return sequence(algorithm(oidECDSA, der(oidP256)), shiftedBitString(point, 5))
			})},
		}),
	)
}

func malformedKeys() []Case {
	return []Case{
		{Name: "key-ec-compressed", Why: "A compressed point gives the same key another fingerprint.", Spoil: ecKey(func(point []byte) []byte {
			return ecKeyInfo(compressed(point))
		})},
		{Name: "key-ec-hybrid", Why: "The hybrid form of a point gives the same key another fingerprint.", Spoil: ecKey(func(point []byte) []byte {
			point = bytes.Clone(point)
			point[0] = 6 | point[len(point)-1]&1
			return ecKeyInfo(point)
		})},
		{Name: "key-ec-infinity", Why: "The point at infinity is nobody's public key and verifies arbitrary signatures.", Spoil: ecKey(func([]byte) []byte {
			return ecKeyInfo([]byte{0})
		})},
		{Name: "key-ec-off-curve", Why: "A point that is not on the curve is on a weaker one.", Spoil: ecKey(func(point []byte) []byte {
			point = bytes.Clone(point)
			point[len(point)-1] ^= 1
			return ecKeyInfo(point)
		})},
		{Name: "key-ec-explicit-curve", Why: "An attacker who chooses the generator of a curve has the private key of any point (CVE-2020-0601).", Spoil: ecKey(func(point []byte) []byte {
			return sequence(algorithm(oidECDSA, explicitP256(point)), bitString(point))
		})},
		{Name: "key-ec-implicit-curve", Why: "A key whose curve is left to the issuer means another key for each reader.", Spoil: ecKey(func(point []byte) []byte {
			return sequence(algorithm(oidECDSA, null()), bitString(point))
		})},
		{Name: "key-ec-without-curve", Why: "A key without a curve is no key.", Spoil: ecKey(func(point []byte) []byte {
			return sequence(algorithm(oidECDSA), bitString(point))
		})},
		{Name: "key-ec-unknown-curve", Why: "secp256k1 is a curve that crypto/x509 does not know.", Spoil: ecKey(func(point []byte) []byte {
			return sequence(algorithm(oidECDSA, der(oidSecp256k1)), bitString(point))
		})},
		{Name: "key-ec-empty", Why: "A key of no bits is no key.", Spoil: ecKey(func([]byte) []byte { return ecKeyInfo(nil) })},
		{Name: "key-rsa-without-null", Why: "The NULL is part of the algorithm's name; a key without it has another fingerprint.", Spoil: rebuildWith(rsa2048, func(p *parts) {
			n, e := rsaNumbers(rsa2048())
			p.key = sequence(algorithm(oidRSA), bitString(sequence(n, e)))
		})},
		{Name: "key-rsa-modulus-negative", Why: "A negative modulus is taken for another number by careless readers.", Spoil: rsaKey(func(n *big.Int) []byte {
			return rsaKeyInfo(der(new(big.Int).Neg(n)), number(65537))
		})},
		{Name: "key-rsa-modulus-zero", Why: "There is no arithmetic modulo zero: a reader that tries may crash.", Spoil: rsaKey(func(*big.Int) []byte {
			return rsaKeyInfo(number(0), number(65537))
		})},
		{Name: "key-rsa-modulus-padded", Why: "Zeros before the modulus give the same key another fingerprint.", Spoil: rsaKey(func(n *big.Int) []byte {
			tag, content := split(der(n))
			return rsaKeyInfo(element(0, int(tag), false, []byte{0}, content), number(65537))
		})},
		{Name: "key-rsa-exponent-zero", Why: "With the exponent 0 every signature is that of every message.", Spoil: rsaKey(func(n *big.Int) []byte {
			return rsaKeyInfo(der(n), number(0))
		})},
		{Name: "key-rsa-exponent-negative", Why: "A negative exponent is taken for another number by careless readers.", Spoil: rsaKey(func(n *big.Int) []byte {
			return rsaKeyInfo(der(n), number(-65537))
		})},
		{Name: "key-rsa-exponent-2-to-64", Why: "An exponent of 65 bits is 65537 for whoever cuts it off.", Spoil: rsaKey(func(n *big.Int) []byte {
			e := new(big.Int).Lsh(big.NewInt(1), 64)
			return rsaKeyInfo(der(n), der(e.Add(e, big.NewInt(65537))))
		})},
	}
}

// otherKey is the same CSR for another key.
func otherKey(key func() crypto.Signer) spoil { return rebuildWith(key, func(*parts) {}) }

// ecKey is the same CSR for another key, with another encoding of its point.
func ecKey(info func(point []byte) []byte) spoil {
	return rebuildWith(p256, func(p *parts) { p.key = info(must(p256().Public().(*ecdsa.PublicKey).Bytes())) })
}

func ecKeyInfo(point []byte) []byte {
	return sequence(algorithm(oidECDSA, der(oidP256)), bitString(point))
}

// compressed is a point as its x and the sign of its y.
func compressed(point []byte) []byte {
	return slices.Concat([]byte{2 | point[len(point)-1]&1}, point[1:1+len(point)/2])
}

// explicitP256 spells out the curve, with the key's own point as the generator: its private key is 1.
func explicitP256(point []byte) []byte {
	curve := elliptic.P256().Params()
	a := new(big.Int).Sub(curve.P, big.NewInt(3))
	return sequence(number(1),
		sequence(der(oidPrimeField), der(curve.P)),
		sequence(octetString(a.Bytes()), octetString(curve.B.Bytes())),
		octetString(point), der(curve.N), number(1))
}

// rsaKey is the same CSR for another key, with its numbers changed.
func rsaKey(info func(n *big.Int) []byte) spoil {
	return rebuildWith(rsa2048, func(p *parts) { p.key = info(rsa2048().Public().(*rsa.PublicKey).N) })
}

func rsaNumbers(key crypto.Signer) (n, e []byte) {
	public := key.Public().(*rsa.PublicKey)
	return der(public.N), number(int64(public.E))
}

func rsaKeyInfo(n, e []byte) []byte {
	return sequence(algorithm(oidRSA, null()), bitString(sequence(n, e)))
}
