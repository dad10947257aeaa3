// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// lines are the lines of a text from the fuzzer.
func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// FuzzAddresses varies the addresses that are declared, reserved, declared elsewhere and requested, each a list of lines. A requested
// line is an IP if it can be parsed as one, unless it begins with "dns:". Both directions are checked: everything that the rules allow is
// approved.
func FuzzAddresses(f *testing.F) {
	for _, s := range [][4]string{
		{testNode + "\n192.0.2.10", "", "", testNode + "\n192.0.2.10"},
		{"A.Example\n10.0.0.0/8", "b.example", "c.example", "a.eXample\n10.255.255.255"},
		{"2001:db8::/32", "2001:db8::1", "2001:DB8::2", "2001:db8:0::3"},
		{"2001:db8::/32", "2001:db8::1", "2001:DB8:0::2", "2001:db8::2"},
		{"2001:db8::/32", "2001:db8::1", "", "2001:db8::1"},
		{"::ffff:10.0.0.0/104", "", "", "10.0.0.1"},
		{"::ffff:10.0.0.1", "", "", "10.0.0.1"},
		{"10.0.0.1", "", "", "::ffff:10.0.0.1"},
		{"10.0.0.1", "::ffff:10.0.0.1", "", "10.0.0.1"},
		{"10.0.0.1", "", "::ffff:10.0.0.1", "10.0.0.1"},
		{"0.0.0.0/0\n::/0", "", "", "127.0.0.1"},
		{"0.0.0.0/0\n::/0", "", "", "ff02::1"},
		{"0.0.0.0/0\n::/0", "", "", "::"},
		{"0.0.0.0/0\n::/0", "", "", "224.1.1.1"},
		{"::/0", "", "", "10.0.0.1"},
		{"::ffff:0:0/90", "", "", "10.0.0.1"},
		{"10.0.0.9/24", "", "", "10.0.0.200"},
		{"10.0.0.0/024\n10.0.0.01\n10.0.0.0/", "", "", "10.0.0.1"},
		{"fe80::1%eth0", "fe80::2%eth0", "fe80::3%eth0", "fe80::1"},
		{"fe80::/10", "fe80::2%eth0", "fe80::3%eth0", "fe80::2"},
		{"10.0.0.1", "", "", "dns:10.0.0.1"},
		{"127.1\n0x7f.1\n010.0.0.1", "", "", "127.1"},
		{"kubernetes\nlocalhost", "", "", "KUBERNETES"},
		{"kubernetes.default.svc.cluster.local", "", "", "kubernetes.default.svc.cluster.local"},
		{"kubernetes.default.svcx", "", "", "kubernetes.default.svcx"},
		{"api.example", "API.example.", "", "api.example"},
		{"api.example.", "", "", "api.example"},
		{"api.example", "", "", "api.example."},
		{"api.example", "", "API.Example.", "api.example"},
		{"*.example", "", "", "*.example"},
		{"a_b", "", "", "a_b"},
		{"\u212aube", "", "", "kube"},
		{"example.org", "", "", testNode},
		{testNode, "", "", "example.org"},
		{"kube", "\u212aube", "", "kube"},
		{"api.wild.example", "*.wild.example", "", "api.wild.example"},
		{"of.api.wild.example\nwild.example", "*.wild.example", "", "of.api.wild.example\nwild.example"},
		{"api.wild.example", "api.wild.example", "", "*.wild.example"},
		{"10.0.0.0/8", "*.0.0.1", "", "10.0.0.1"},
		{"10.0.0.0/8", "10.0.0.1", "", "dns:10.0.0.1."},
		{"10.0.0.0/8", "10.0.0.1.", "", "10.0.0.1"},
		{"fe80::/10", "fe80::2%eth0", "", "dns:fe80::2%eth1"},
		{"fe80::/10", "", "fe80::2", "dns:FE80::2"},
		{"api.b\u00fccher.example", "api.b\u00fccher.example", "", "api.xn--bcher-kva.example"},
		{"api.xn--bcher-kva.example", "api.b\u00fccher.example", "", "api.xn--bcher-kva.example"},
		{"", "", "", testNode},
		{" 10.0.0.1", " 10.0.0.1", "", "10.0.0.1"},
		{strings.Repeat("a", 64), "", "", strings.Repeat("a", 64)},
		{strings.Repeat("a.", 126) + "ab", "", "", strings.Repeat("a.", 126) + "ab"},
	} {
		f.Add(s[0], s[1], s[2], s[3])
	}
	f.Fuzz(func(t *testing.T, declared, reserved, elsewhere, asked string) {
		text, ok := standardRequest(t, lines(asked))
		if !ok {
			return
		}
		r := servingRequest(text, false)
		r.Declared, r.Reserved, r.Elsewhere = lines(declared), reserve(lines(reserved)...), map[string]string{}
		for _, line := range lines(elsewhere) {
			r.Elsewhere[oracleKey(line)] = "other"
		}
		compareServing(t, r)

		// The package's keys of another node's addresses must lead to the same verdict as the oracle's own.
		r.Elsewhere = map[string]string{"another-node": "other"}
		valid := slices.DeleteFunc(lines(elsewhere), func(line string) bool { return !isDeclarable(line) })
		for _, line := range valid {
			if own, ok := oracleOwn(line); ok {
				r.Elsewhere[own] = "other"
			}
		}
		want := oracleServing(r)
		r.Elsewhere = map[string]string{}
		for _, key := range append(csr.DeclaredAddresses(valid), "another-node") {
			r.Elsewhere[key] = "other"
		}
		if got := csr.EvaluateServing(r); want != nil && got.Verdict == csr.Approve || want == nil && got.Verdict != csr.Approve && namesOrIPs(r.Reserved) {
			t.Fatalf("with the keys %v the verdict is %v (%s), and the oracle says: %v", r.Elsewhere, got.Verdict, got.Message, want)
		}
	})
}

// oracleKey is the same for all spellings of an address that is declared elsewhere.
func oracleKey(text string) string {
	if n, ok := parseNumber(text); ok {
		return net.IP(n.value.FillBytes(make([]byte, n.bits/8))).String()
	}
	return plainName(text)
}

// isDeclarable reports whether the API server lets a NodeBootstrap declare an address. It also accepts capitals and a dot at the end,
// which the API server rejects, to show that they do no harm.
func isDeclarable(text string) bool {
	_, isIP := parseNumber(text)
	_, _, isNetwork := parseNetwork(text)
	return isIP || isNetwork || isName(text)
}

// oracleOwn is the key of an address that another node declares as its own: a network of one address counts, a larger one does not.
func oracleOwn(text string) (string, bool) {
	before, _, _ := strings.Cut(text, "/")
	if network, prefix, ok := parseNetwork(text); ok {
		return oracleKey(before), network.bits == prefix
	}
	return oracleKey(text), true
}

// standardRequest is a request from the standard library, which cannot create one for every list.
func standardRequest(t *testing.T, asked []string) ([]byte, bool) {
	template := &x509.CertificateRequest{Subject: pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + testNode}}
	for _, line := range asked {
		if ip := net.ParseIP(line); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, strings.TrimPrefix(line, "dns:"))
		}
	}
	der, err := x509.CreateCertificateRequest(nil, template, testKey(t, "p256"))
	if err != nil {
		return nil, false
	}
	return writePEM(der), true
}
