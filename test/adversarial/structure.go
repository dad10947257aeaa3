// SPDX-License-Identifier: Apache-2.0

package adversarial

import (
	"bytes"
	"encoding/asn1"
	"slices"
)

// structures are defects of the DER around subject, key and signature.
func structures() []Case {
	return slices.Concat(
		all(deny, malformed, []Case{
			{Name: "der-trailing-byte", Why: "Some readers ignore a byte after the request.", Spoil: recode(func(whole []byte) []byte { return append(whole, 0) })},
			{Name: "der-twice", Why: "One reader takes the first request, another one the last.", Spoil: recode(func(whole []byte) []byte { return slices.Concat(whole, whole) })},
			{Name: "der-cut-off", Why: "A request that ends too early must not be read beyond its end.", Spoil: recode(func(whole []byte) []byte { return whole[:len(whole)-1] })},
			{Name: "der-half", Why: "Half a request is none.", Spoil: recode(func(whole []byte) []byte { return whole[:len(whole)/2] })},
			{Name: "der-empty-sequence", Why: "A SEQUENCE of nothing is no request.", Spoil: recode(func([]byte) []byte { return sequence() })},
			{Name: "der-set", Why: "A SET is not a SEQUENCE.", Spoil: recode(func(whole []byte) []byte {
				whole[0] = asn1.TagSet | 0x20
				return whole
			})},
			{Name: "der-primitive-sequence", Why: "A SEQUENCE that says it has no parts.", Spoil: recode(func(whole []byte) []byte {
				whole[0] = asn1.TagSequence
				return whole
			})},
			{Name: "der-huge-length", Why: "A length of four gigabytes must not be reserved before it is read.", Spoil: recode(func(whole []byte) []byte {
				return slices.Concat([]byte{whole[0], 0x84, 0xff, 0xff, 0xff, 0xff}, whole[4:])
			})},
			{Name: "der-long-length", Why: "A length with leading zeros is BER: two encodings of one request.", Spoil: recode(longLength)},
			{Name: "der-long-length-info", Why: "A length with leading zeros is BER: the signed part has two encodings.", Spoil: rebuild(func(p *parts, _ string) {
				p.infoOf = func(parts ...[]byte) []byte { return longLength(sequence(parts...)) }
			})},
			{Name: "der-long-length-subject", Why: "A length with leading zeros is BER: the subject has two encodings.", Spoil: rebuild(func(p *parts, _ string) { p.subject = longLength(p.subject) })},
			{Name: "der-long-length-key", Why: "A length with leading zeros is BER: the key has two fingerprints.", Spoil: rebuild(func(p *parts, _ string) { p.key = longLength(p.key) })},
			{Name: "der-long-length-signature", Why: "A length with leading zeros is BER: two encodings of one request.", Spoil: signatureBits(func(s []byte) []byte {
				return longLength(bitString(s))
			})},
			{Name: "der-indefinite-length", Why: "An indefinite length is BER: readers differ on where it ends.", Spoil: recode(indefiniteLength)},
			{Name: "der-indefinite-length-info", Why: "An indefinite length is BER: readers differ on the signed part.", Spoil: rebuild(func(p *parts, _ string) {
				p.infoOf = func(parts ...[]byte) []byte { return indefiniteLength(sequence(parts...)) }
			})},
			{Name: "der-long-tag", Why: "A tag in the form for large ones is BER: two encodings of one request.", Spoil: recode(longTag)},
			{Name: "version-padded", Why: "A zero in front of the version is BER: two encodings of one request.", Spoil: version([]byte{asn1.TagInteger, 2, 0, 0})},
			{Name: "version-empty", Why: "An INTEGER of no bytes is no number.", Spoil: version([]byte{asn1.TagInteger, 0})},
			{Name: "version-huge", Why: "A version of nine bytes is 0 for a reader that truncates it.", Spoil: version([]byte{asn1.TagInteger, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0})},
			{Name: "version-boolean", Why: "A BOOLEAN is not an INTEGER.", Spoil: version([]byte{asn1.TagBoolean, 1, 0})},
			{Name: "version-missing", Why: "Without a version every field moves by one.", Spoil: version(nil)},
			{Name: "attributes-missing", Why: "The attributes may be empty, but not absent.", Spoil: rebuild(func(p *parts, _ string) { p.attributes = nil })},
			{Name: "attributes-primitive", Why: "An element that says it has no parts.", Spoil: rebuild(func(p *parts, _ string) { p.attributes = choice(0, nil) })},
			{Name: "attributes-other-tag", Why: "A request has the tag 0 here; 1 is a field that does not exist.", Spoil: rebuild(func(p *parts, _ string) { p.attributes = tagged(1) })},
			{Name: "attributes-as-set", Why: "The attributes are tagged implicitly: a plain SET is another field.", Spoil: rebuild(func(p *parts, _ string) { p.attributes = set() })},
		}),
		all(deny, unexpectedAttributes, []Case{
			{Name: "version-1", Why: "No such version exists, and crypto/x509 does not check it.", Spoil: version(number(1))},
			{Name: "version-negative", Why: "A version below zero is a large one to some readers.", Spoil: version(number(-1))},
			{Name: "request-tail", Why: "encoding/asn1 ignores what follows the signature.", Spoil: rebuild(func(p *parts, _ string) {
				p.wholeOf = func(parts ...[]byte) []byte { return inside(sequence(parts...), null()) }
			})},
			{Name: "request-second-signature", Why: "encoding/asn1 ignores what follows the signature.", Spoil: rebuild(func(p *parts, _ string) {
				p.wholeOf = func(parts ...[]byte) []byte { return inside(sequence(parts...), parts[1], parts[2]) }
			})},
			{Name: "info-tail", Why: "encoding/asn1 ignores what follows the attributes.", Spoil: behindAttributes(null())},
			{Name: "info-second-attributes", Why: "encoding/asn1 ignores a second set of attributes, where a signer may find names.", Spoil: rebuild(func(p *parts, _ string) {
				p.attributes = slices.Concat(p.attributes, tagged(0, sanRequest(dnsName("api.example.com"))))
			})},
			{Name: "info-second-subject", Why: "encoding/asn1 ignores a second subject behind the attributes.", Spoil: behindAttributes(
				name(organization(), commonName("system:node:other-node")))},
		}),
	)
}

func version(encoded []byte) spoil {
	return rebuild(func(p *parts, _ string) { p.version = bytes.Clone(encoded) })
}

// behindAttributes appends to the signed part.
func behindAttributes(part []byte) spoil {
	return rebuild(func(p *parts, _ string) { p.attributes = slices.Concat(p.attributes, part) })
}
