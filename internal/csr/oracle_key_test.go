// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/hex"
	"fmt"
	"math/big"

	// The digests that a signature may use.
	_ "crypto/sha256"
	_ "crypto/sha512"
)

// publicKey is one of two kinds; the other field is nil.
type publicKey struct {
	rsa   *rsa.PublicKey
	ecdsa *ecdsa.PublicKey
}

// The AlgorithmIdentifiers of keys and signatures that are allowed, with their tags, in hexadecimal. RSA has NULL parameters, ECDSA a
// named curve, and an ECDSA signature none.
const algorithmRSA = "300d06092a864886f70d0101010500" // 1.2.840.113549.1.1.1

var (
	algorithmCurves = map[string]elliptic.Curve{
		"301306072a8648ce3d020106082a8648ce3d030107": elliptic.P256(),
		"301006072a8648ce3d020106052b81040022":       elliptic.P384(),
		"301006072a8648ce3d020106052b81040023":       elliptic.P521(),
	}
	signaturesRSA = map[string]crypto.Hash{
		"300d06092a864886f70d01010b0500": crypto.SHA256,
		"300d06092a864886f70d01010c0500": crypto.SHA384,
		"300d06092a864886f70d01010d0500": crypto.SHA512,
	}
	signaturesECDSA = map[string]crypto.Hash{
		"300a06082a8648ce3d040302": crypto.SHA256,
		"300a06082a8648ce3d040303": crypto.SHA384,
		"300a06082a8648ce3d040304": crypto.SHA512,
	}
)

// readKey reads a SubjectPublicKeyInfo.
func readKey(spki []byte) (publicKey, error) {
	body, err := unwrap(spki, tagSequence)
	if err != nil {
		return publicKey{}, err
	}
	parts, err := readTags(body, tagSequence, tagBitString)
	if err != nil {
		return publicKey{}, err
	}
	key, err := wholeBytes(parts[1].content)
	if err != nil {
		return publicKey{}, err
	}
	algorithm := hex.EncodeToString(parts[0].full)
	if algorithm == algorithmRSA {
		return readRSA(key)
	}
	return readECDSA(algorithmCurves[algorithm], key)
}

// Rule: an RSA key has a modulus of 2048 to 8192 bits, and the exponent that every kubelet's key has.
func readRSA(der []byte) (publicKey, error) {
	body, err := unwrap(der, tagSequence)
	if err != nil {
		return publicKey{}, err
	}
	parts, err := readTags(body, tagInteger, tagInteger)
	if err != nil {
		return publicKey{}, err
	}
	modulus, err := positive(parts[0].content)
	if err != nil {
		return publicKey{}, err
	}
	exponent, err := positive(parts[1].content)
	if err != nil {
		return publicKey{}, err
	}
	if modulus.BitLen() < 2048 || modulus.BitLen() > 8192 {
		return publicKey{}, fmt.Errorf("%w: an RSA modulus of %d bits", errKey, modulus.BitLen())
	}
	if exponent.Cmp(big.NewInt(65537)) != 0 {
		return publicKey{}, fmt.Errorf("%w: the RSA exponent %d", errKey, exponent)
	}
	return publicKey{rsa: &rsa.PublicKey{N: modulus, E: 65537}}, nil
}

// Rule: an ECDSA key is an uncompressed point on P-256, P-384 or P-521, and the curve is given by its name.
func readECDSA(curve elliptic.Curve, point []byte) (publicKey, error) {
	if curve == nil {
		return publicKey{}, fmt.Errorf("%w: neither RSA nor a curve on the list", errKey)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return publicKey{}, fmt.Errorf("%w: %w", errKey, err)
	}
	return publicKey{ecdsa: key}, nil
}

// positive is the value of an INTEGER above 0 in the shortest form.
func positive(content []byte) (*big.Int, error) {
	switch {
	case len(content) == 0, content[0] >= 0x80:
		return nil, fmt.Errorf("%w: an INTEGER that is empty or negative", errDER)
	case content[0] == 0 && (len(content) == 1 || content[1] < 0x80):
		return nil, fmt.Errorf("%w: an INTEGER that is 0 or has a needless 0", errDER)
	}
	return new(big.Int).SetBytes(content), nil
}

// Rule: the CSR is signed with its own key, by RSA PKCS #1 v1.5 or ECDSA with a SHA-2 digest.
func oracleSignature(key publicKey, r certificationRequest) error {
	algorithm := hex.EncodeToString(r.algorithm)
	if key.rsa != nil {
		return oracleSignatureRSA(key.rsa, signaturesRSA[algorithm], r)
	}
	return oracleSignatureECDSA(key.ecdsa, signaturesECDSA[algorithm], r)
}

func oracleSignatureRSA(key *rsa.PublicKey, hash crypto.Hash, r certificationRequest) error {
	if hash == 0 {
		return fmt.Errorf("%w: the algorithm is not for RSA, or not on the list", errSignature)
	}
	if err := rsa.VerifyPKCS1v15(key, hash, digest(hash, r.info), r.signature); err != nil {
		return fmt.Errorf("%w: %w", errSignature, err)
	}
	return nil
}

func oracleSignatureECDSA(key *ecdsa.PublicKey, hash crypto.Hash, r certificationRequest) error {
	if hash == 0 {
		return fmt.Errorf("%w: the algorithm is not for ECDSA, or not on the list", errSignature)
	}
	body, err := unwrap(r.signature, tagSequence)
	if err != nil {
		return fmt.Errorf("%w: %w", errSignature, err)
	}
	parts, err := readTags(body, tagInteger, tagInteger)
	if err != nil {
		return fmt.Errorf("%w: %w", errSignature, err)
	}
	numbers := make([]*big.Int, 2)
	for i, part := range parts {
		if numbers[i], err = positive(part.content); err != nil {
			return fmt.Errorf("%w: %w", errSignature, err)
		}
	}
	if !ecdsa.Verify(key, digest(hash, r.info), numbers[0], numbers[1]) {
		return errSignature
	}
	return nil
}

func digest(hash crypto.Hash, data []byte) []byte {
	h := hash.New()
	h.Write(data)
	return h.Sum(nil)
}
