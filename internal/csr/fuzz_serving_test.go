// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"slices"
	"strings"
	"testing"
)

// knownNames are names that a list of bytes can request by their number.
var knownNames = [][]byte{
	write(tagDNSName, []byte(testNode)),
	write(tagIPAddress, []byte{192, 0, 2, 10}),
	write(tagIPAddress, []byte{0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7}),
	write(tagDNSName, []byte(strings.ToUpper(testNode))),
	write(tagDNSName, []byte(testNode+".")),
	write(tagDNSName, []byte("localhost")),
	write(tagDNSName, []byte("Kubernetes.Default.svc.cluster.local")),
	write(tagDNSName, []byte("192.0.2.10")),
	write(tagDNSName, []byte("*.example.org")),
	write(tagDNSName, []byte("other.example.org")),
	write(tagIPAddress, []byte{127, 0, 0, 1}),
	write(tagIPAddress, []byte{10, 96, 0, 1}),
	write(tagIPAddress, []byte{10, 1, 0, 9}),
	write(tagIPAddress, []byte{10, 1, 0, 10}),
	write(tagIPAddress, []byte{224, 0, 0, 1}),
	write(tagIPAddress, []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 10}),
	write(tagIPAddress, []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}),
	write(tagIPAddress, make([]byte, 16)),
	write(tagIPAddress, make([]byte, 4)),
	write(tagIPAddress, []byte{192, 0, 2, 10, 255, 255, 255, 255}),
	write(tagIPAddress, nil),
	write(tagDNSName, nil),
	write(0x81, []byte("root@example.org")),
	write(0x86, []byte("spiffe://example.org/worker-1")),
	write(0x88, []byte{42, 3, 4}),
	write(0xa0, write(tagOID, []byte{42, 3, 4}), write(0xa0, write(0x0c, []byte("x")))),
	write(0xa2, []byte(testNode)),
	write(0x16, []byte(testNode)),
	write(tagDNSName, []byte(strings.Replace(testNode, "k", "\u212a", 1))), // the Kelvin sign, whose lower case is k
}

// maxNames is enough for a CSR that is too large, and keeps the fuzzer fast.
const maxNames = 400

// names reads a list: a byte below 0xf0 chooses one of knownNames; else a tag, a count and as many bytes follow.
func names(list []byte) (ders [][]byte) {
	for len(list) > 0 && len(ders) < maxNames {
		if list[0] < 0xf0 {
			ders, list = append(ders, pick(knownNames, list[0])), list[1:]
			continue
		}
		if len(list) < 3 {
			break
		}
		count := min(int(list[2]), len(list)-3)
		ders, list = append(ders, write(list[1], list[3:3+count])), list[3+count:]
	}
	return ders
}

// someNames are lists for seeds; the first ones are good.
var someNames = []string{
	"\x00\x01\x02", strings.Repeat("\x00", 240), "\x00", "\x01", "\x02", "\x03\x0d", "\x00\x00\x01\x01",
	"", strings.Repeat("\x00", maxNames), "\x01\x00", "\x00\x01\x00", "\x04", "\x05", "\x06", "\x07", "\x08", "\x09", "\x0a", "\x0b", "\x0c", "\x0e", "\x0f",
	"\x10", "\x11", "\x12", "\x13", "\x14", "\x15", "\x00\x16", "\x00\x17", "\x00\x18", "\x00\x19", "\x1a", "\x1b", "\x1c",
	"\xf0\x82\x09worker-1\x00", "\xf0\x87\x05\xc0\x00\x02\x0a\x00", "\xf0\x82\x04\xe2\x84\xaa\x61", "\xf0\xa7\x04\xc0\x00\x02\x0a",
}

// FuzzServing varies the requested names, and what comes with the CSR.
func FuzzServing(f *testing.F) {
	for i := range allKeys {
		f.Add(uint8(i), []byte(someNames[0]), testNode, uint8(0), int32(0), uint8(0), uint16(0))
	}
	for key := range uint8(2) {
		for _, list := range someNames {
			f.Add(key, []byte(list), testNode, uint8(0), int32(0), uint8(0), uint16(0))
			f.Add(key, []byte(list), testNode, uint8(0), int32(0), uint8(0), uint16(1<<14))
			f.Add(key, []byte(list), testNode, uint8(0), int32(0), uint8(0), uint16(1<<15))
		}
		f.Add(key, []byte{1}, strings.Repeat("a", 1000), uint8(0), int32(0), uint8(0), uint16(0))
		for _, s := range someFacts {
			f.Add(key, []byte(someNames[0]), testNode, s.usages, s.expiration, s.groups, s.spoil)
		}
	}
	f.Fuzz(func(t *testing.T, key uint8, list []byte, node string, usages uint8, expiration int32, groups uint8, spoil uint16) {
		signer := testKey(t, pick(allKeys, key))
		der := signed(t, signer, requestInfo(t, signer, nodeName(node), alternativeNames(names(list)...)), 0)
		compareServing(t, facts{usages: usages, expiration: expiration, groups: groups, spoil: spoil}.serving(writePEM(der), node))
	})
}

// FuzzServingMutated spoils the content of a certificate request for a serving certificate, and signs it again.
func FuzzServingMutated(f *testing.F) {
	add := func(key uint8, list, ops, outer string, scheme uint8) {
		f.Add(key, []byte(list), testNode, []byte(ops), []byte(outer), scheme, uint8(0), uint16(0))
	}
	for i := range allKeys {
		add(uint8(i), someNames[0], "", "", 0)
	}
	for key := range uint8(2) {
		for _, s := range slices.Concat(attributeSpoils, infoSpoils) {
			add(key, someNames[0], s.ops, "", 0)
		}
		for _, s := range outerSpoils {
			add(key, someNames[0], "", s.ops, 0)
		}
		for scheme := range uint8(max(len(schemesECDSA), len(schemesRSA))) {
			add(key, someNames[0], "", "", scheme)
		}
	}
	f.Fuzz(func(t *testing.T, key uint8, list []byte, asked string, ops, outer []byte, scheme, usages uint8, spoil uint16) {
		signer := testKey(t, pick(allKeys, key))
		info := mutate(requestInfo(t, signer, asked, alternativeNames(names(list)...)), ops)
		der := mutate(signed(t, signer, info, scheme), outer)
		compareServing(t, facts{usages: usages, spoil: spoil}.serving(writePEM(der), testNode))
	})
}
