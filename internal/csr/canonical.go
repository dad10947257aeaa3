// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
)

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
