// SPDX-License-Identifier: Apache-2.0

package adversarial

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"io"
	"math/big"
	"slices"
	"sync"
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
			{Name: "key-rsa-exponent-even", Why: "An even exponent has no inverse, so nobody can have the private key.", Spoil: rsaExponent(big.NewInt(65536))},
			{Name: "key-rsa-exponent-2-to-31", Why: "An exponent beyond 31 bits is read differently by different verifiers.", Spoil: otherKey(rsaHuge)},
			{Name: "key-rsa-modulus-even", Why: "An even modulus is factored already.", Spoil: rsaModulus(func(n *big.Int) []byte { return der(new(big.Int).Sub(n, big.NewInt(1))) })},
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
			{Name: "key-rsa-for-pss-only", Why: "crypto/x509 does not know a key of the type id-RSASSA-PSS and continues without one.", Spoil: rsaNamed(algorithm(oidRSAPSS))},
			{Name: "key-unknown-algorithm", Why: "A key that crypto/x509 does not know is no reason to continue without one.", Spoil: ecNamed(algorithm(oidUnknown))},
		}),
		all(deny, malformed, malformedKeys()),
		all(deny, unexpectedAttributes, []Case{
			{Name: "key-tail", Why: "encoding/asn1 ignores what follows the known fields, so that the key has two fingerprints.", Spoil: rebuild(func(p *parts, _ string) { p.key = inside(p.key, null()) })},
			{Name: "key-algorithm-tail", Why: "What follows the curve is ignored, so that the key has two fingerprints.", Spoil: ecNamed(algorithm(oidECDSA, der(oidP256), null()))},
			{Name: "key-rsa-tail", Why: "What follows the exponent is ignored, so that the key has two fingerprints.", Spoil: rsaEncoded(func(n, e []byte) []byte {
				return sequence(algorithm(oidRSA, null()), bitString(sequence(n, e, null())))
			})},
			{Name: "key-rsa-bits-tail", Why: "What follows the RSA key in its BIT STRING is ignored, so that the key has two fingerprints.", Spoil: rsaEncoded(func(n, e []byte) []byte {
				return sequence(algorithm(oidRSA, null()), bitString(slices.Concat(sequence(n, e), null())))
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
		{Name: "key-ec-implicit-curve", Why: "A key whose curve is left to the issuer means another key for each reader.", Spoil: ecNamed(algorithm(oidECDSA, null()))},
		{Name: "key-ec-without-curve", Why: "A key without a curve is no key.", Spoil: ecNamed(algorithm(oidECDSA))},
		{Name: "key-ec-unknown-curve", Why: "secp256k1 is a curve that crypto/x509 does not know.", Spoil: ecNamed(algorithm(oidECDSA, der(oidSecp256k1)))},
		{Name: "key-ec-empty", Why: "A key of no bits is no key.", Spoil: ecKey(func([]byte) []byte { return ecKeyInfo(nil) })},
		{Name: "key-rsa-without-null", Why: "The NULL is part of the algorithm's name; a key without it has another fingerprint.", Spoil: rsaNamed(algorithm(oidRSA))},
		{Name: "key-rsa-modulus-negative", Why: "A negative modulus is taken for another number by careless readers.", Spoil: rsaModulus(func(n *big.Int) []byte { return der(new(big.Int).Neg(n)) })},
		{Name: "key-rsa-modulus-zero", Why: "There is no arithmetic modulo zero: a reader that tries may crash.", Spoil: rsaModulus(func(*big.Int) []byte { return number(0) })},
		{Name: "key-rsa-modulus-padded", Why: "Zeros before the modulus give the same key another fingerprint.", Spoil: rsaModulus(func(n *big.Int) []byte {
			tag, content := split(der(n))
			return element(0, int(tag), false, []byte{0}, content)
		})},
		{Name: "key-rsa-exponent-zero", Why: "With the exponent 0 every signature is that of every message.", Spoil: rsaExponent(big.NewInt(0))},
		{Name: "key-rsa-exponent-negative", Why: "A negative exponent is taken for another number by careless readers.", Spoil: rsaExponent(big.NewInt(-65537))},
		{Name: "key-rsa-exponent-2-to-64", Why: "An exponent of 65 bits is 65537 for whoever cuts it off.", Spoil: rsaExponent(new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 64), big.NewInt(65537)))},
	}
}

// otherKey is the same CSR for another key.
func otherKey(key func() crypto.Signer) spoil { return rebuildWith(key, func(*parts) {}) }

// ecKey is the same CSR for another key, with another encoding of its point.
func ecKey(info func(point []byte) []byte) spoil {
	return rebuildWith(p256, func(p *parts) { p.key = info(must(p256().Public().(*ecdsa.PublicKey).Bytes())) })
}

// ecNamed is the same with another name of its algorithm.
func ecNamed(algorithm []byte) spoil {
	return ecKey(func(point []byte) []byte { return sequence(algorithm, bitString(point)) })
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

// rsaEncoded is the same CSR for another key, with another encoding of its numbers.
func rsaEncoded(info func(n, e []byte) []byte) spoil {
	return rebuildWith(rsa2048, func(p *parts) { p.key = info(rsaNumbers(rsa2048())) })
}

func rsaNamed(algorithm []byte) spoil {
	return rsaEncoded(func(n, e []byte) []byte { return sequence(algorithm, bitString(sequence(n, e))) })
}

func rsaExponent(e *big.Int) spoil {
	return rsaEncoded(func(n, _ []byte) []byte { return rsaKeyInfo(n, der(e)) })
}

func rsaModulus(change func(n *big.Int) []byte) spoil {
	return rsaEncoded(func(_, e []byte) []byte { return rsaKeyInfo(change(rsa2048().Public().(*rsa.PublicKey).N), e) })
}

func rsaNumbers(key crypto.Signer) (n, e []byte) {
	public := key.Public().(*rsa.PublicKey)
	return der(public.N), number(int64(public.E))
}

func rsaKeyInfo(n, e []byte) []byte {
	return sequence(algorithm(oidRSA, null()), bitString(sequence(n, e)))
}

// The keys are created once, because RSA takes a while.
var (
	p224       = sync.OnceValue(func() crypto.Signer { return must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader)) })
	p256       = sync.OnceValue(func() crypto.Signer { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	anotherKey = sync.OnceValue(func() crypto.Signer { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	rsa2048    = sync.OnceValue(func() crypto.Signer { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	rsa768     = sync.OnceValue(func() crypto.Signer { return newSmallPrimes(768, 65537) })
	rsa1024    = sync.OnceValue(func() crypto.Signer { return newSmallPrimes(1024, 65537) })
	rsa2047    = sync.OnceValue(func() crypto.Signer { return newSmallPrimes(2047, 65537) })
	rsa8193    = sync.OnceValue(func() crypto.Signer { return newSmallPrimes(8193, 65537) })
	// rsaOne has an exponent with which every signature is its own message.
	rsaOne  = sync.OnceValue(func() crypto.Signer { return newSmallPrimes(2048, 1) })
	rsaHuge = sync.OnceValue(func() crypto.Signer { return newSmallPrimes(2048, 1<<31+11) })
	ed      = sync.OnceValue(func() crypto.Signer {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return must(key, err)
	})
)

// smallPrimes is an RSA key that crypto/rsa would not create, or not quickly: of many primes, small, or with any exponent.
type smallPrimes struct {
	public rsa.PublicKey
	d      *big.Int
}

func newSmallPrimes(bits int, exponent int64) *smallPrimes {
	const each = 256
	one, e := big.NewInt(1), big.NewInt(exponent)
	for {
		modulus, phi := big.NewInt(1), big.NewInt(1)
		add := func(size int) {
			p := must(rand.Prime(rand.Reader, size))
			modulus.Mul(modulus, p)
			phi.Mul(phi, new(big.Int).Sub(p, one))
		}
		for modulus.BitLen()+2*each <= bits {
			add(each)
		}
		add(bits - modulus.BitLen())
		// A product can be a bit shorter than its factors together, and the exponent can have no inverse.
		if d := new(big.Int).ModInverse(e, phi); d != nil && modulus.BitLen() == bits {
			return &smallPrimes{public: rsa.PublicKey{N: modulus, E: int(exponent)}, d: d}
		}
	}
}

func (k *smallPrimes) Public() crypto.PublicKey { return &k.public }

// Sign is PKCS #1 v1.5 with SHA-256.
func (k *smallPrimes) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	m := new(big.Int).SetBytes(padded(&k.public, digest))
	return m.Exp(m, k.d, k.public.N).FillBytes(make([]byte, k.public.Size())), nil
}

// digestInfo is a SHA-256 digest with its name (RFC 8017, section 9.2).
func digestInfo(digest []byte) []byte {
	name := []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}
	return slices.Concat(name, digest)
}

func padded(public *rsa.PublicKey, digest []byte) []byte {
	info := digestInfo(digest)
	return slices.Concat([]byte{0, 1}, bytes.Repeat([]byte{0xff}, public.Size()-len(info)-3), []byte{0}, info)
}

// forger signs without a private key: with the exponent 3, a cube root rounded up begins like a padded digest when it is
// cubed again, and ends in arbitrary bytes.
type forger struct{ public rsa.PublicKey }

func newForger() crypto.Signer {
	return &forger{rsa.PublicKey{N: rsa2048().Public().(*rsa.PublicKey).N, E: 3}}
}

func (k *forger) Public() crypto.PublicKey { return &k.public }

func (k *forger) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	front := slices.Concat([]byte{0, 1}, bytes.Repeat([]byte{0xff}, 8), []byte{0}, digestInfo(digest))
	m := new(big.Int).SetBytes(front)
	m.Lsh(m, uint(8*(k.public.Size()-len(front))))
	return cubeRootUp(m).FillBytes(make([]byte, k.public.Size())), nil
}

// cubeRootUp is the least number whose cube is not below m.
func cubeRootUp(m *big.Int) *big.Int {
	low, high := big.NewInt(0), new(big.Int).Lsh(big.NewInt(1), uint(m.BitLen()/3+1))
	for low.Cmp(high) < 0 {
		middle := new(big.Int).Add(low, high)
		middle.Rsh(middle, 1)
		if new(big.Int).Exp(middle, big.NewInt(3), nil).Cmp(m) < 0 {
			low = middle.Add(middle, big.NewInt(1))
		} else {
			high = middle
		}
	}
	return low
}

// dsaKey is a DSA key in the subgroup of squares of the 1024-bit prime of RFC 2409 (section 6.2).
type dsaKey struct{ p, q, g, x, y *big.Int }

var dsa1024 = sync.OnceValue(func() crypto.Signer {
	p, _ := new(big.Int).SetString("ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404dd"+
		"ef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7edee386bfb5a899fa5ae9f2411"+
		"7c4b1fe649286651ece65381ffffffffffffffff", 16)
	q, g := new(big.Int).Rsh(p, 1), big.NewInt(4)
	x := must(rand.Int(rand.Reader, q))
	return &dsaKey{p: p, q: q, g: g, x: x, y: new(big.Int).Exp(g, x, p)}
})

func (k *dsaKey) Public() crypto.PublicKey { return k.y }

// Sign is that of FIPS 186-4, section 4.6.
func (k *dsaKey) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	secret, err := rand.Int(rand.Reader, k.q)
	if err != nil {
		return nil, err
	}
	r := new(big.Int).Exp(k.g, secret, k.p)
	r.Mod(r, k.q)
	s := new(big.Int).Mul(k.x, r)
	s.Add(s, new(big.Int).SetBytes(digest))
	s.Mul(s, new(big.Int).ModInverse(secret, k.q)).Mod(s, k.q)
	return sequence(der(r), der(s)), nil
}

// info is the key as a SubjectPublicKeyInfo (RFC 3279, section 2.3.2).
func (k *dsaKey) info() []byte {
	return sequence(algorithm(oidDSA, sequence(der(k.p), der(k.q), der(k.g))), bitString(der(k.y)))
}
