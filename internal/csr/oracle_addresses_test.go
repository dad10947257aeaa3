// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"fmt"
	"math/big"
	"net/netip"
	"strconv"
	"strings"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// number is an IP address as a number of 32 or 128 bits.
type number struct {
	bits  int
	value *big.Int
}

func numberOf(b []byte) number {
	return number{bits: 8 * len(b), value: new(big.Int).SetBytes(b)}
}

func (n number) equal(other number) bool {
	return n.bits == other.bits && n.value.Cmp(other.value) == 0
}

// within reports whether the leading bits of two addresses are the same.
func (n number) within(network number, prefix int) bool {
	shift := uint(n.bits - prefix)
	return n.bits == network.bits && new(big.Int).Rsh(n.value, shift).Cmp(new(big.Int).Rsh(network.value, shift)) == 0
}

// parseNumber reads an IP address in text form. An IPv4-mapped IPv6 address is the IPv4 one; an address with a zone cannot be in a
// certificate.
func parseNumber(text string) (number, bool) {
	address, err := netip.ParseAddr(text)
	if err != nil || address.Zone() != "" {
		return number{}, false
	}
	return numberOf(address.Unmap().AsSlice()), true
}

// parseNetwork reads a CIDR, with or without bits set behind the prefix. An IPv4-mapped IPv6 network is the IPv4 one.
func parseNetwork(text string) (network number, prefix int, ok bool) {
	before, after, ok := strings.Cut(text, "/")
	if !ok {
		return number{}, 0, false
	}
	address, err := netip.ParseAddr(before)
	if err != nil || address.Zone() != "" {
		return number{}, 0, false
	}
	prefix, err = strconv.Atoi(after)
	if err != nil || strconv.Itoa(prefix) != after || prefix < 0 || prefix > address.BitLen() {
		return number{}, 0, false
	}
	if address.Is4In6() && prefix >= 96 {
		return numberOf(address.Unmap().AsSlice()), prefix - 96, true
	}
	return numberOf(address.AsSlice()), prefix, true
}

// Rule: something is declared; otherwise a person decides.
func oracleSomeDeclared(declared []string) error {
	if len(declared) == 0 {
		return errUndeclared
	}
	return nil
}

// Rule: every address is declared, and neither reserved nor another node's.
func oracleAddresses(names []generalName, r csr.ServingRequest) error {
	for _, name := range names {
		err := oracleName(string(name.bytes), r)
		if name.isIP {
			err = oracleIP(numberOf(name.bytes), r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// oracleName applies the rules to a DNS name.
func oracleName(name string, r csr.ServingRequest) error {
	if ip, ok := lookalike(name); ok {
		return oracleLookalike(ip, r)
	}
	key := plainName(name)
	if isReservedName(key, r.Reserved) {
		return fmt.Errorf("%w: %q", errReserved, name)
	}
	for elsewhere := range r.Elsewhere {
		if elsewhere == key {
			return fmt.Errorf("%w: %q", errElsewhere, name)
		}
	}
	for _, declared := range r.Declared {
		if isSubdomain(lower(declared)) && !isAnyIP(declared) && lower(declared) == lower(name) {
			return nil
		}
	}
	return fmt.Errorf("%w: %q", errAddress, name)
}

// Rule: a DNS name that looks like an IP belongs to no node, and can be what that IP is.
func oracleLookalike(ip number, r csr.ServingRequest) error {
	r.Declared = nil
	return oracleIP(ip, r)
}

// lookalike reads an IP from a name, with or without a dot at the end, and with any zone.
func lookalike(name string) (number, bool) {
	address, err := netip.ParseAddr(strings.TrimSuffix(name, "."))
	if err != nil {
		return number{}, false
	}
	return numberOf(address.WithZone("").Unmap().AsSlice()), true
}

// oracleIP applies the rules to an IP.
func oracleIP(ip number, r csr.ServingRequest) error {
	if isReservedIP(ip, r.Reserved) {
		return fmt.Errorf("%w: %x", errReserved, ip.value)
	}
	for elsewhere := range r.Elsewhere {
		if other, ok := parseNumber(elsewhere); ok && other.equal(ip) {
			return fmt.Errorf("%w: %x", errElsewhere, ip.value)
		}
	}
	for _, declared := range r.Declared {
		if same, ok := parseNumber(declared); ok && same.equal(ip) {
			return nil
		}
		if network, prefix, ok := parseNetwork(declared); ok && ip.within(network, prefix) {
			return nil
		}
	}
	return fmt.Errorf("%w: %x", errAddress, ip.value)
}

// Rule: the names of the API server and of the machine itself belong to no node, in either case, with or without a dot at the end. A star
// in a certificate stands for any one label, in the API server's certificate and in the requested names.
func isReservedName(key string, reserved []csr.Reservation) bool {
	first, rest, _ := strings.Cut(key, ".")
	for _, r := range append(reserve("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"), reserved...) {
		name := plainName(r.Host)
		start, end, dotted := strings.Cut(name, ".")
		if _, isIP := lookalike(name); isIP {
			continue
		}
		if name == key || dotted && strings.Contains(key, ".") && end == rest && (start == "*" || first == "*") {
			return true
		}
	}
	return strings.HasPrefix(key, "kubernetes.default.svc.")
}

// Rule: nor do the IPs of the control plane, or those that every machine has.
func isReservedIP(ip number, reserved []csr.Reservation) bool {
	for _, r := range reserved {
		if same, ok := lookalike(r.Host); ok && same.equal(ip) {
			return true
		}
	}
	for _, text := range []string{"127.0.0.0/8", "::1/128", "0.0.0.0/32", "::/128", "224.0.0.0/4", "ff00::/8"} {
		if network, prefix, ok := parseNetwork(text); ok && ip.within(network, prefix) {
			return true
		}
	}
	return false
}

// plainName is the same for all spellings of a DNS name.
func plainName(name string) string {
	return strings.TrimSuffix(lower(name), ".")
}

// lower changes the letters A to Z, and no others.
func lower(text string) string {
	b := []byte(text)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c - 'A' + 'a'
		}
	}
	return string(b)
}

func isAnyIP(text string) bool {
	_, err := netip.ParseAddr(text)
	return err == nil
}

// isSubdomain reports whether a text is a DNS-1123 subdomain of Kubernetes: labels of a-z, 0-9 and -, which neither begin nor end with -,
// and at most 253 characters in total.
func isSubdomain(text string) bool {
	if len(text) > 253 {
		return false
	}
	for label := range strings.SplitSeq(text, ".") {
		if label == "" || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return true
}
