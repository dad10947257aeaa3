// SPDX-License-Identifier: Apache-2.0

package adversarial

import (
	"bytes"
	"crypto"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"slices"
	"strings"
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

// encodings are defects of the text of spec.request, around a good CSR.
func encodings() []Case {
	return slices.Concat(
		all(deny, tooLarge, largeRequests()),
		all(deny, malformed, slices.Concat(badBlocks(), aroundTheBlock(), otherLayouts())),
	)
}

func largeRequests() []Case {
	return []Case{
		{Name: "large-text-behind", Why: "Megabytes behind the block would be kept and parsed on each pass.", Spoil: behind(strings.Repeat("\n", 8<<10))},
		{Name: "large-by-one-byte", Why: "The limit is 8 KiB and not a byte more.", Spoil: rewrite(func(text []byte) []byte {
			return append(text, bytes.Repeat([]byte("\n"), 8<<10+1-len(text))...)
		})},
		{Name: "large-attribute", Why: "A request that is exact in its text may be large as well.", Spoil: rebuild(func(p *parts, _ string) {
			p.attributes = tagged(0, requestAttribute(oidChallengePassword, text(asn1.TagUTF8String, strings.Repeat("x", 8<<10))))
		})},
		{Name: "large-subject", Why: "A subject of many parts costs the parser more than it should.", Spoil: with(bytes.Repeat(rdn(oidUnit, "rack-7"), 400))},
	}
}

func badBlocks() []Case {
	return []Case{
		{Name: "pem-empty", Why: "Nothing is no request.", Spoil: rewrite(func([]byte) []byte { return nil })},
		{Name: "pem-none", Why: "Text is no request.", Spoil: rewrite(func([]byte) []byte { return []byte("certificate, please\n") })},
		{Name: "pem-der-alone", Why: "The API requires PEM.", Spoil: rewrite(func(text []byte) []byte { return bytesOf(text) })},
		{Name: "pem-junk-in-block", Why: "Base64 of something else is no request.", Spoil: recode(func([]byte) []byte { return []byte("certificate, please") })},
		{Name: "pem-no-base64", Why: "A block that is not base64 is no block.", Spoil: replaced("-----\nMI", "-----\n!I", 1)},
		{Name: "pem-empty-block", Why: "A block of nothing is no request.", Spoil: recode(func([]byte) []byte { return nil })},
		{Name: "pem-older-type", Why: "The older name of the block is read by OpenSSL, not by the API server.", Spoil: blockType("NEW CERTIFICATE REQUEST")},
		{Name: "pem-type-certificate", Why: "A certificate is no request.", Spoil: blockType("CERTIFICATE")},
		{Name: "pem-type-key", Why: "A private key must never be sent or read.", Spoil: blockType("EC PRIVATE KEY")},
		{Name: "pem-type-lower-case", Why: "Block types are case-sensitive.", Spoil: blockType("certificate request")},
		{Name: "pem-type-final-space", Why: "A block type that is trimmed by one reader is another one to the next.", Spoil: blockType("CERTIFICATE REQUEST ")},
		{Name: "pem-headers", Why: "Headers are passed over by readers and may hold anything.", Spoil: rewrite(func(text []byte) []byte {
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Headers: map[string]string{"Node": "other-node"}, Bytes: bytesOf(text)})
		})},
		{Name: "pem-without-end", Why: "A block without an end is no block.", Spoil: rewrite(func(text []byte) []byte {
			return text[:bytes.Index(text, []byte("-----END"))]
		})},
		{Name: "pem-other-end", Why: "A block must end as it began.", Spoil: replaced("END CERTIFICATE REQUEST", "END CERTIFICATE", 1)},
	}
}

// aroundTheBlock are texts with additions before or after the block.
func aroundTheBlock() []Case {
	return []Case{
		{Name: "pem-two-blocks", Why: "One reader takes the first block, another one the last.", Spoil: rewrite(func(text []byte) []byte { return append(text, text...) })},
		{Name: "pem-other-request-in-front", Why: "One reader takes the first block, another one the last.", Spoil: func(spec *spec, _ string, key crypto.Signer) {
			spec.Request = slices.Concat(kubeletRequest("other-node", key, nil, nil), spec.Request)
		}},
		{Name: "pem-other-request-behind", Why: "One reader takes the first block, another one the last.", Spoil: func(spec *spec, _ string, key crypto.Signer) {
			spec.Request = slices.Concat(spec.Request, kubeletRequest("other-node", key, nil, nil))
		}},
		{Name: "pem-certificate-in-front", Why: "A reader that skips what it does not look for misses the first block.", Spoil: rewrite(func(text []byte) []byte {
			return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), text...)
		})},
		{Name: "pem-broken-block-in-front", Why: "encoding/pem skips a block that it cannot read and takes the next one.", Spoil: inFront("-----BEGIN CERTIFICATE REQUEST-----\n!\n-----END CERTIFICATE REQUEST-----\n")},
		{Name: "pem-text-in-front", Why: "Text in front is passed over by readers and may hold anything.", Spoil: inFront("see below\n")},
		{Name: "pem-text-behind", Why: "Text behind is passed over by readers and may hold anything.", Spoil: behind("see above\n")},
		{Name: "pem-nul-behind", Why: "A reader written in C stops at the NUL.", Spoil: behind("\x00")},
		{Name: "pem-byte-order-mark", Why: "A byte order mark in front is often dropped.", Spoil: inFront("\xef\xbb\xbf\n")},
	}
}

// otherLayouts are other texts of the same CSR.
func otherLayouts() []Case {
	return []Case{
		{Name: "pem-blank-line-in-front", Why: "One request has one text, so that its hash says which it is.", Spoil: inFront("\n")},
		{Name: "pem-blank-line-behind", Why: "One request has one text, so that its hash says which it is.", Spoil: behind("\n")},
		{Name: "pem-blank-line-inside", Why: "One request has one text, so that its hash says which it is.", Spoil: replaced("-----\n", "-----\n\n", 1)},
		{Name: "pem-no-final-newline", Why: "One request has one text, so that its hash says which it is.", Spoil: rewrite(func(text []byte) []byte {
			return bytes.TrimSuffix(text, []byte("\n"))
		})},
		{Name: "pem-crlf", Why: "One request has one text, so that its hash says which it is.", Spoil: replaced("\n", "\r\n", -1)},
		{Name: "pem-space-at-line-end", Why: "One request has one text, so that its hash says which it is.", Spoil: replaced("\n", " \n", 2)},
		{Name: "pem-one-long-line", Why: "One request has one text, so that its hash says which it is.", Spoil: rewrite(func(text []byte) []byte {
			return lines(base64.StdEncoding.EncodeToString(bytesOf(text)))
		})},
		{Name: "pem-short-lines", Why: "One request has one text, so that its hash says which it is.", Spoil: rewrite(func(text []byte) []byte {
			var short []string
			for chunk := range slices.Chunk([]byte(base64.StdEncoding.EncodeToString(bytesOf(text))), 60) {
				short = append(short, string(chunk))
			}
			return lines(short...)
		})},
		{Name: "pem-loose-bits", Why: "The bits that base64 has left over at the end are passed over: two texts of one request.", Spoil: looseBits},
	}
}

// inFront adds text before the block.
func inFront(more string) spoil {
	return rewrite(func(text []byte) []byte { return slices.Concat([]byte(more), text) })
}

// behind adds text after the block.
func behind(more string) spoil {
	return rewrite(func(text []byte) []byte { return append(text, more...) })
}

// replaced replaces the first n occurrences of a text, or all if n is negative.
func replaced(old, by string, n int) spoil {
	return rewrite(func(text []byte) []byte { return bytes.Replace(text, []byte(old), []byte(by), n) })
}

// bytesOf is the content of the block of a good CSR.
func bytesOf(text []byte) []byte {
	block, _ := pem.Decode(text)
	return block.Bytes
}

func blockType(name string) spoil {
	return rewrite(func(text []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: name, Bytes: bytesOf(text)}) })
}

// lines is a block with lines of any length.
func lines(base64 ...string) []byte {
	return []byte("-----BEGIN CERTIFICATE REQUEST-----\n" + strings.Join(base64, "\n") + "\n-----END CERTIFICATE REQUEST-----\n")
}

// looseBits signs until base64 must pad the length, and then changes the padding bits.
func looseBits(spec *spec, node string, key crypto.Signer) {
	for {
		otherKey(p256)(spec, node, key)
		at := bytes.IndexByte(spec.Request, '=') - 1
		if at < 0 {
			continue
		}
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
		spec.Request[at] = alphabet[strings.IndexByte(alphabet, spec.Request[at])|1]
		return
	}
}
