// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"bytes"
	"strings"
	"testing"
)

// goodClient and goodServing are the DER of a kubelet's certificate requests.
func goodClient(t testing.TB, key string) []byte {
	t.Helper()
	signer := testKey(t, key)
	return signed(t, signer, requestInfo(t, signer, testNode, nil), 0)
}

func goodServing(t testing.TB, key string) []byte {
	t.Helper()
	signer := testKey(t, key)
	return signed(t, signer, requestInfo(t, signer, testNode, alternativeNames(goodNames()...)), 0)
}

func goodNames() [][]byte {
	return [][]byte{write(tagDNSName, []byte(testNode)), write(tagIPAddress, []byte{192, 0, 2, 10}),
		write(tagIPAddress, []byte{0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7})}
}

// badPEMs are spoiled encodings of a good CSR in PEM.
func badPEMs(good []byte) [][]byte {
	text := string(good)
	lines := strings.SplitAfter(text, "\n")
	return [][]byte{
		nil,
		[]byte("\n" + text),
		[]byte(text + "\n"),
		[]byte(text + text),
		[]byte(strings.TrimSuffix(text, "\n")),
		[]byte(strings.ReplaceAll(text, "\n", "\r\n")),
		[]byte(strings.ReplaceAll(text, "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")),
		[]byte(strings.ReplaceAll(text, "CERTIFICATE REQUEST", "CERTIFICATE")),
		[]byte(strings.Replace(text, "-----\n", "-----\nName: worker-2\n\n", 1)),
		[]byte(lines[0] + strings.ReplaceAll(strings.Join(lines[1:len(lines)-2], ""), "\n", "") + "\n" + lines[len(lines)-2]),
		[]byte(strings.Replace(text, "M", " M", 1)),
		[]byte("a machine's request\n" + text),
		[]byte(text + strings.Repeat("\n", 8192)),
		[]byte(lines[0] + lines[len(lines)-2]),
	}
}

// badDERs are spoiled encodings around a good certificate request, whose signed part is unchanged.
func badDERs(good []byte) [][]byte {
	var list [][]byte
	for _, s := range outerSpoils {
		list = append(list, mutate(bytes.Clone(good), []byte(s.ops)))
	}
	return append(list, good[:len(good)-1], append(bytes.Clone(good), 0), good[1:], append([]byte{0x30, 0x80}, good[4:]...))
}

// someFacts are facts for seeds; those of the first one are good.
var someFacts = []facts{
	{}, {usages: 5}, {usages: 7}, {usages: 0x85}, {usages: 0x45}, {usages: 9}, {usages: 11}, {usages: 0x8b}, {usages: 4}, {usages: 0x25}, {usages: 0x15}, {usages: 0xc7},
	{expiration: 366 * 86400}, {expiration: 366*86400 + 1}, {expiration: -1}, {expiration: 1<<31 - 1}, {expiration: 600},
	{groups: 1}, {groups: 2}, {groups: 3}, {groups: 4}, {groups: 5}, {groups: 6}, {groups: 7}, {groups: 8}, {groups: 9}, {groups: 10}, {groups: 11}, {groups: 12},
	{claimed: 1}, {claimed: 2}, {claimed: 3}, {claimed: 4}, {claimed: 5}, {claimed: 6}, {claimed: 7}, {claimed: 8}, {claimed: 9}, {claimed: 10}, {claimed: 11}, {claimed: 12}, {claimed: 13}, {claimed: 14}, {claimed: 15},
	{spoil: 1}, {spoil: 2}, {spoil: 4}, {spoil: 8}, {spoil: 16}, {spoil: 32}, {spoil: 64}, {spoil: 128}, {spoil: 256}, {spoil: 512}, {spoil: 1024},
	{spoil: 1 << 11}, {spoil: 1 << 12}, {spoil: 1 << 13}, {spoil: 1 << 14}, {spoil: 1 << 15}, {groups: 1, spoil: 1 << 13},
}

// bothSides compares a CSR as one for a client and as one for a serving certificate.
func bothSides(t *testing.T, f facts, text []byte, node string) {
	compareClient(t, f.client(text, node))
	compareServing(t, f.serving(text, node))
}

// FuzzClient varies the PEM of a CSR, and what comes with it.
func FuzzClient(f *testing.F) {
	for _, key := range append(goodKeys, badKeys...) {
		for _, der := range [][]byte{goodClient(f, key), goodServing(f, key)} {
			f.Add(writePEM(der), testNode, uint8(0), int32(0), uint8(0), uint8(0), uint16(0))
		}
	}
	for _, key := range []string{"p256", "rsa2048"} {
		for _, der := range [][]byte{goodClient(f, key), goodServing(f, key)} {
			text := writePEM(der)
			for _, bad := range badPEMs(text) {
				f.Add(bad, testNode, uint8(0), int32(0), uint8(0), uint8(0), uint16(0))
			}
			for _, s := range someFacts {
				f.Add(text, testNode, s.usages, s.expiration, s.groups, s.claimed, s.spoil)
			}
			for _, name := range []string{"", "worker-1", testNode + ".", strings.ToUpper(testNode), "worker-2.example.org", testNode + "\x00"} {
				f.Add(text, name, uint8(0), int32(0), uint8(0), uint8(0), uint16(0))
			}
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, node string, usages uint8, expiration int32, groups, claimed uint8, spoil uint16) {
		bothSides(t, facts{usages: usages, expiration: expiration, groups: groups, claimed: claimed, spoil: spoil}, text, node)
	})
}

// FuzzClientDER varies the DER of a certificate request within good PEM.
func FuzzClientDER(f *testing.F) {
	for _, key := range append(goodKeys, badKeys...) {
		f.Add(goodClient(f, key), uint8(0))
		f.Add(goodServing(f, key), uint8(0))
	}
	for _, key := range []string{"p256", "rsa2048"} {
		for _, good := range [][]byte{goodClient(f, key), goodServing(f, key)} {
			for _, bad := range badDERs(good) {
				f.Add(bad, uint8(0))
			}
			f.Add(good, uint8(5))
			f.Add(good, uint8(7))
		}
	}
	f.Fuzz(func(t *testing.T, der []byte, usages uint8) {
		bothSides(t, facts{usages: usages}, writePEM(der), testNode)
	})
}

// FuzzClientMutated spoils the content of a good certificate request, and signs it again.
func FuzzClientMutated(f *testing.F) {
	add := func(key uint8, ops, outer string, scheme uint8) {
		f.Add(key, testNode, testNode, []byte(ops), []byte(outer), scheme, uint8(0), uint8(0))
	}
	for i := range allKeys {
		add(uint8(i), "", "", 0)
	}
	for key := range uint8(2) {
		for _, s := range infoSpoils {
			add(key, s.ops, "", 0)
		}
		for _, s := range outerSpoils {
			add(key, "", s.ops, 0)
		}
		for scheme := range uint8(max(len(schemesECDSA), len(schemesRSA))) {
			add(key, "", "", scheme)
		}
		for _, name := range []string{"", "worker-1", strings.ToUpper(testNode), "worker-\u0131", "worker@1", strings.Repeat("a", 253), "a\x00"} {
			f.Add(key, name, name, []byte(nil), []byte(nil), uint8(0), uint8(0), uint8(0))
			f.Add(key, name, testNode, []byte(nil), []byte(nil), uint8(0), uint8(0), uint8(0))
		}
	}
	f.Fuzz(func(t *testing.T, key uint8, asked, node string, ops, outer []byte, scheme, usages, claimed uint8) {
		signer := testKey(t, pick(allKeys, key))
		info := mutate(requestInfo(t, signer, asked, nil), ops)
		der := mutate(signed(t, signer, info, scheme), outer)
		compareClient(t, facts{usages: usages, claimed: claimed}.client(writePEM(der), node))
	})
}
