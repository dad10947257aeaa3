// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
)

// signatureAlgorithms are those that a kubelet may sign with, and how they are encoded (RFC 4055, RFC 5758).
var signatureAlgorithms = map[x509.SignatureAlgorithm]pkix.AlgorithmIdentifier{
	x509.SHA256WithRSA:   {Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: asn1.NullRawValue},
	x509.SHA384WithRSA:   {Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}, Parameters: asn1.NullRawValue},
	x509.SHA512WithRSA:   {Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}, Parameters: asn1.NullRawValue},
	x509.ECDSAWithSHA256: {Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}},
	x509.ECDSAWithSHA384: {Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}},
	x509.ECDSAWithSHA512: {Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}},
}

// canonical is the one encoding of a certificate request (RFC 2986) with this subject, key, algorithm and signature, and
// without attributes.
func canonical(parsed *x509.CertificateRequest) ([]byte, error) {
	key, err := x509.MarshalPKIXPublicKey(parsed.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("encoding the key: %w", err)
	}
	info, err := asn1.Marshal(struct {
		Version    int
		Subject    asn1.RawValue
		PublicKey  asn1.RawValue
		Attributes asn1.RawValue
	}{
		Subject:    asn1.RawValue{FullBytes: parsed.RawSubject},
		PublicKey:  asn1.RawValue{FullBytes: key},
		Attributes: asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true},
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
