// SPDX-License-Identifier: Apache-2.0

package adversarial

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"io"
	"math/big"
	"slices"
	"sync"
)

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
