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

// encodings are defects of the text of spec.request, around a good CSR.
func encodings() []Case {
	return slices.Concat(
		all(deny, tooLarge, largeRequests()),
		all(deny, malformed, slices.Concat(badBlocks(), aroundTheBlock(), otherLayouts())),
	)
}

func largeRequests() []Case {
	return []Case{
		{Name: "large-text-behind", Why: "Megabytes behind the block would be kept and parsed on each pass.", Spoil: rewrite(func(text []byte) []byte {
			return append(text, bytes.Repeat([]byte("\n"), 8<<10)...)
		})},
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
		{Name: "pem-no-base64", Why: "A block that is not base64 is no block.", Spoil: rewrite(func(text []byte) []byte {
			return bytes.Replace(text, []byte("-----\nMI"), []byte("-----\n!I"), 1)
		})},
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
		{Name: "pem-other-end", Why: "A block must end as it began.", Spoil: rewrite(func(text []byte) []byte {
			return bytes.Replace(text, []byte("END CERTIFICATE REQUEST"), []byte("END CERTIFICATE"), 1)
		})},
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
		{Name: "pem-broken-block-in-front", Why: "encoding/pem skips a block that it cannot read and takes the next one.", Spoil: rewrite(func(text []byte) []byte {
			return append([]byte("-----BEGIN CERTIFICATE REQUEST-----\n!\n-----END CERTIFICATE REQUEST-----\n"), text...)
		})},
		{Name: "pem-text-in-front", Why: "Text in front is passed over by readers and may hold anything.", Spoil: rewrite(func(text []byte) []byte {
			return append([]byte("see below\n"), text...)
		})},
		{Name: "pem-text-behind", Why: "Text behind is passed over by readers and may hold anything.", Spoil: rewrite(func(text []byte) []byte {
			return append(text, "see above\n"...)
		})},
		{Name: "pem-nul-behind", Why: "A reader written in C stops at the NUL.", Spoil: rewrite(func(text []byte) []byte { return append(text, 0) })},
		{Name: "pem-byte-order-mark", Why: "A byte order mark in front is often dropped.", Spoil: rewrite(func(text []byte) []byte {
			return append([]byte("\xef\xbb\xbf\n"), text...)
		})},
	}
}

// otherLayouts are other texts of the same CSR.
func otherLayouts() []Case {
	return []Case{
		{Name: "pem-blank-line-in-front", Why: "One request has one text, so that its hash says which it is.", Spoil: rewrite(func(text []byte) []byte {
			return append([]byte("\n"), text...)
		})},
		{Name: "pem-blank-line-behind", Why: "One request has one text, so that its hash says which it is.", Spoil: rewrite(func(text []byte) []byte {
			return append(text, '\n')
		})},
		{Name: "pem-blank-line-inside", Why: "One request has one text, so that its hash says which it is.", Spoil: rewrite(func(text []byte) []byte {
			return bytes.Replace(text, []byte("-----\n"), []byte("-----\n\n"), 1)
		})},
		{Name: "pem-no-final-newline", Why: "One request has one text, so that its hash says which it is.", Spoil: rewrite(func(text []byte) []byte {
			return bytes.TrimSuffix(text, []byte("\n"))
		})},
		{Name: "pem-crlf", Why: "One request has one text, so that its hash says which it is.", Spoil: rewrite(func(text []byte) []byte {
			return bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
		})},
		{Name: "pem-space-at-line-end", Why: "One request has one text, so that its hash says which it is.", Spoil: rewrite(func(text []byte) []byte {
			return bytes.Replace(text, []byte("\n"), []byte(" \n"), 2)
		})},
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
