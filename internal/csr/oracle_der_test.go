// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
)

// The tags of a certification request that the oracle reads (X.690, section 8.1.2).
const (
	tagInteger         = 0x02
	tagBitString       = 0x03
	tagOctetString     = 0x04
	tagOID             = 0x06
	tagUTF8String      = 0x0c
	tagPrintableString = 0x13
	tagSequence        = 0x30
	tagSet             = 0x31
	tagAttributes      = 0xa0 // [0], constructed
	tagDNSName         = 0x82 // [2], primitive
	tagIPAddress       = 0x87 // [7], primitive
)

// A tlv is one tag-length-value of a DER encoding.
type tlv struct {
	tag           byte
	content, full []byte
}

// readOne reads the first TLV of some DER, and returns what follows it. It supports only what a certificate request needs: tags of one
// byte, and lengths of at most two bytes, in the shortest form.
func readOne(der []byte) (element tlv, rest []byte, err error) {
	if len(der) < 2 {
		return tlv{}, nil, fmt.Errorf("%w: too short for a tag and a length", errDER)
	}
	if der[0]&0x1f == 0x1f {
		return tlv{}, nil, fmt.Errorf("%w: a tag of several bytes", errDER)
	}
	header, length := 2, int(der[1])
	if der[1] >= 0x80 {
		count := int(der[1] & 0x7f)
		if count < 1 || count > 2 || len(der) < 2+count {
			return tlv{}, nil, fmt.Errorf("%w: an indefinite or a huge length", errDER)
		}
		header, length = 2+count, 0
		for _, b := range der[2:header] {
			length = length*256 + int(b)
		}
		if length < 0x80 || (count == 2 && length < 0x100) {
			return tlv{}, nil, fmt.Errorf("%w: a length that is not in the shortest form", errDER)
		}
	}
	if len(der) < header+length {
		return tlv{}, nil, fmt.Errorf("%w: a length beyond the end", errDER)
	}
	return tlv{tag: der[0], content: der[header : header+length], full: der[:header+length]}, der[header+length:], nil
}

// readTags reads TLVs of exactly the given tags, and fails if anything is left.
func readTags(der []byte, tags ...byte) ([]tlv, error) {
	var elements []tlv
	for _, tag := range tags {
		element, rest, err := readOne(der)
		if err != nil {
			return nil, err
		}
		if element.tag != tag {
			return nil, fmt.Errorf("%w: the tag %#x instead of %#x", errDER, element.tag, tag)
		}
		elements, der = append(elements, element), rest
	}
	if len(der) > 0 {
		return nil, fmt.Errorf("%w: trailing data", errDER)
	}
	return elements, nil
}

// unwrap reads one TLV of the given tag, with nothing after it, and returns its content.
func unwrap(der []byte, tag byte) ([]byte, error) {
	elements, err := readTags(der, tag)
	if err != nil {
		return nil, err
	}
	return elements[0].content, nil
}

// write is the DER of one TLV.
func write(tag byte, contents ...[]byte) []byte {
	content := bytes.Join(contents, nil)
	switch n := len(content); {
	case n < 0x80:
		return append([]byte{tag, byte(n)}, content...)
	case n < 0x100:
		return append([]byte{tag, 0x81, byte(n)}, content...)
	case n < 0x10000:
		return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, content...)
	default:
		return append([]byte{tag, 0x83, byte(n >> 16), byte(n >> 8), byte(n)}, content...)
	}
}

// writePEM is the canonical PEM of a certificate request: 64 characters a line, and nothing before, within or after.
func writePEM(der []byte) []byte {
	text := base64.StdEncoding.EncodeToString(der)
	var b strings.Builder
	b.WriteString("-----BEGIN CERTIFICATE REQUEST-----\n")
	for len(text) > 64 {
		b.WriteString(text[:64] + "\n")
		text = text[64:]
	}
	if text != "" {
		b.WriteString(text + "\n")
	}
	b.WriteString("-----END CERTIFICATE REQUEST-----\n")
	return []byte(b.String())
}

// readPEM removes the markers and the line ends, decodes the rest, and accepts only what writePEM writes.
func readPEM(text []byte) ([]byte, error) {
	body := strings.NewReplacer("-----BEGIN CERTIFICATE REQUEST-----\n", "", "-----END CERTIFICATE REQUEST-----\n", "", "\n", "").Replace(string(text))
	der, err := base64.StdEncoding.Strict().DecodeString(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPEM, err)
	}
	if !bytes.Equal(writePEM(der), text) {
		return nil, errPEM
	}
	return der, nil
}

// certificationRequest is a certificate request of RFC 2986. Each field is DER with its tag, except for the attributes.
type certificationRequest struct {
	info, subject, spki  []byte
	attributes           []byte // the content of [0]
	algorithm, signature []byte // the content of the BIT STRING, without the count of unused bits
	isRSA                bool
}

// readRequest applies the rules on content that are the same for both kinds of certificate: size, encoding, key and signature.
func readRequest(text []byte) (r certificationRequest, err error) {
	if len(text) > 8192 {
		return r, errSize
	}
	der, err := readPEM(text)
	if err != nil {
		return r, err
	}
	if r, err = readStructure(der); err != nil {
		return r, err
	}
	key, err := readKey(r.spki)
	if err != nil {
		return r, err
	}
	r.isRSA = key.rsa != nil
	return r, oracleSignature(key, r)
}

// Rule: the request is a CertificationRequest of version 0, in strict DER, with no trailing data at any level.
func readStructure(der []byte) (r certificationRequest, err error) {
	body, err := unwrap(der, tagSequence)
	if err != nil {
		return r, err
	}
	parts, err := readTags(body, tagSequence, tagSequence, tagBitString)
	if err != nil {
		return r, err
	}
	r.info, r.algorithm = parts[0].full, parts[1].full
	if r.signature, err = wholeBytes(parts[2].content); err != nil {
		return r, err
	}
	fields, err := readTags(parts[0].content, tagInteger, tagSequence, tagSequence, tagAttributes)
	if err != nil {
		return r, err
	}
	if !bytes.Equal(fields[0].content, []byte{0}) {
		return r, errVersion
	}
	r.subject, r.spki, r.attributes = fields[1].full, fields[2].full, fields[3].content
	return r, nil
}

// wholeBytes is the value of a BIT STRING whose last byte has no unused bits.
func wholeBytes(content []byte) ([]byte, error) {
	if len(content) == 0 || content[0] != 0 {
		return nil, fmt.Errorf("%w: a BIT STRING that is not of whole bytes", errDER)
	}
	return content[1:], nil
}

// generalName is a requested DNS name or IP.
type generalName struct {
	isIP  bool
	bytes []byte
}

var (
	oidExtensionRequest = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e} // 1.2.840.113549.1.9.14
	oidAlternativeName  = []byte{0x55, 0x1d, 0x11}                                     // 2.5.29.17
)

// Rule: a request for a serving certificate has one attribute, which has one extension, which is not marked critical and lists first DNS
// names, then IPs, at least one in total.
func readAlternativeNames(attributes []byte) ([]generalName, error) {
	value := attributes
	for _, step := range []func([]byte) ([]byte, error){
		func(der []byte) ([]byte, error) { return readNamed(der, oidExtensionRequest, tagSet) },
		func(der []byte) ([]byte, error) { return unwrap(der, tagSequence) }, // the list of extensions
		func(der []byte) ([]byte, error) { return readNamed(der, oidAlternativeName, tagOctetString) },
		func(der []byte) ([]byte, error) { return unwrap(der, tagSequence) }, // the list of names
	} {
		var err error
		if value, err = step(value); err != nil {
			return nil, fmt.Errorf("%w: %w", errAttributes, err)
		}
	}
	if len(value) == 0 {
		return nil, errNoAddress
	}
	var names []generalName
	for len(value) > 0 {
		element, rest, err := readOne(value)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errAttributes, err)
		}
		afterAnIP := len(names) > 0 && names[len(names)-1].isIP
		switch {
		case element.tag == tagDNSName && !afterAnIP:
		case element.tag == tagIPAddress && isPlainIP(element.content):
		default:
			return nil, fmt.Errorf("%w: the name %x", errAttributes, element.full)
		}
		names, value = append(names, generalName{isIP: element.tag == tagIPAddress, bytes: element.content}), rest
	}
	return names, nil
}

// readNamed reads a SEQUENCE of exactly an object identifier and a value of the given tag, and returns the content of the value.
func readNamed(der, oid []byte, tag byte) ([]byte, error) {
	body, err := unwrap(der, tagSequence)
	if err != nil {
		return nil, err
	}
	parts, err := readTags(body, tagOID, tag)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(parts[0].content, oid) {
		return nil, fmt.Errorf("%w: the object identifier %x", errDER, parts[0].content)
	}
	return parts[1].content, nil
}

// isPlainIP reports whether bytes are an IPv4 address, or an IPv6 address that is not IPv4-mapped.
func isPlainIP(b []byte) bool {
	mapped := append(make([]byte, 10), 0xff, 0xff)
	return len(b) == 4 || (len(b) == 16 && !bytes.HasPrefix(b, mapped))
}
