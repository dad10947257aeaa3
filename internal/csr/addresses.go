// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"crypto/x509"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/idna"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Address is a DNS name or an IP in a CSR.
type Address struct {
	// text is the DNS name in lower case, or the IP.
	text string
	// ip is invalid for a DNS name, even if it looks like an IP.
	ip netip.Addr
}

// Key is the same for all spellings of one address. A DNS name that looks like an IP has the key of that IP.
func (a Address) Key() string {
	if ip := a.asIP(); ip.IsValid() {
		return ip.String()
	}
	return strings.TrimSuffix(a.text, ".")
}

// asIP is the IP, also of a DNS name that looks like one, because old clients treat it as the IP. It is invalid for any other name.
func (a Address) asIP() netip.Addr {
	if a.ip.IsValid() {
		return a.ip
	}
	ip, err := netip.ParseAddr(strings.TrimSuffix(a.text, "."))
	if err != nil {
		return netip.Addr{}
	}
	return ip.Unmap().WithZone("")
}

func dnsName(name string) Address { return Address{text: lower(name)} }

// lower is for DNS names, which have only ASCII letters: it leaves the Kelvin sign unchanged.
func lower(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, name)
}

// ipAddress converts an IPv4-mapped IPv6 address to IPv4: both connect to the same host.
func ipAddress(ip netip.Addr) Address {
	ip = ip.Unmap()
	return Address{text: ip.String(), ip: ip}
}

func addressesOf(parsed *x509.CertificateRequest) []Address {
	var out []Address
	for _, name := range parsed.DNSNames {
		out = append(out, dnsName(name))
	}
	for _, ip := range parsed.IPAddresses {
		a, _ := netip.AddrFromSlice(ip)
		out = append(out, ipAddress(a))
	}
	return out
}

// RequestedAddresses are the DNS names and IPs in a CSR, valid or not; none if it cannot be parsed.
func RequestedAddresses(r *certificatesv1.CertificateSigningRequest) []Address {
	parsed, err := Parse(r)
	if err != nil {
		return nil
	}
	return addressesOf(parsed)
}

// DeclaredAddresses are the keys of the addresses that a NodeBootstrap declares as its node's own, apart from its name: each declared DNS
// name and IP. A CIDR is not its own, since every node of a subnet may declare the same one.
func DeclaredAddresses(declared []string) []string {
	var out []string
	for _, text := range declared {
		switch p, ok := parsePrefix(text); {
		case !ok:
			out = append(out, dnsName(text).Key())
		case p.IsSingleIP():
			out = append(out, ipAddress(p.Addr()).Key())
		}
	}
	return out
}

// addressSet is a list of DNS names, IPs and CIDRs. Invalid entries match nothing.
type addressSet struct {
	names    map[string]bool
	prefixes []netip.Prefix
}

func parseDeclared(list []string) addressSet {
	set := addressSet{names: map[string]bool{}}
	for _, text := range list {
		if p, ok := parsePrefix(text); ok {
			set.prefixes = append(set.prefixes, p)
		} else if name := lower(text); len(validation.IsDNS1123Subdomain(name)) == 0 {
			set.names[name] = true
		}
	}
	return set
}

// parsePrefix reads an IP or a CIDR; an IPv4-mapped IPv6 one becomes IPv4.
func parsePrefix(text string) (netip.Prefix, bool) {
	if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" {
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), true
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, false
	}
	const mapped = 96 // bits in front of the IPv4 address
	if p.Addr().Is4In6() && p.Bits() >= mapped {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped)
	}
	return p.Masked(), true
}

func (s addressSet) holds(a Address) bool {
	if !a.ip.IsValid() {
		return s.names[a.text]
	}
	return slices.ContainsFunc(s.prefixes, func(p netip.Prefix) bool { return p.Contains(a.ip) })
}

// apiServerNames are the DNS names of the Service kubernetes, which the API server's own certificate has
// (pkg/controlplane/apiserver/options). The cluster's domain can follow.
var apiServerNames = []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc"}

// reservedEverywhere reports whether an address belongs to no node in any cluster: it leads to the API server, to the connecting machine
// itself, or to many machines.
func (a Address) reservedEverywhere() bool {
	if ip := a.asIP(); ip.IsValid() {
		return ip.IsLoopback() || ip.IsUnspecified() || ip.IsMulticast()
	}
	name := a.Key()
	return name == "localhost" || slices.Contains(apiServerNames, name) || strings.HasPrefix(name, apiServerNames[2]+".")
}

// Reservation is a host at which the API server is reached, so that no node may serve as it.
type Reservation struct {
	// Host is a DNS name or an IP in any spelling. The first label of a DNS name can be a wildcard, as in a certificate: it matches one
	// label.
	Host string
	// By is the source of the host, for example "the NodeBootstrap worker-1".
	By string
}

// HostKey is Address.Key of the host of a URL. A Unicode name has the key of its punycode form, which clients look up, and an IPv6
// address has the key of the address without its zone, since certificates have neither.
func HostKey(host string) string {
	if strings.ContainsFunc(host, func(r rune) bool { return r > '\u007f' }) {
		if ascii, err := idna.Lookup.ToASCII(host); err == nil { // as net/http does before it connects
			host = ascii
		}
	}
	return dnsName(host).Key()
}

const wildcard = "*."

// reservations are all reserved hosts that a CSR is compared with.
type reservations struct {
	by    map[string]string // by key
	order []string          // the keys in their original order, so that messages always name the same one
}

func newReservations(list []Reservation) reservations {
	r := reservations{by: make(map[string]string, len(list))}
	for _, one := range list {
		key := HostKey(one.Host)
		if _, known := r.by[key]; known || key == "" {
			continue
		}
		r.by[key] = one.By
		r.order = append(r.order, key)
	}
	return r
}

// holder is who reserves an address, or a host that matches a wildcard in a CSR.
func (r reservations) holder(a Address) (string, bool) {
	key := a.Key()
	if by, ok := r.by[key]; ok {
		return by, true
	}
	if a.asIP().IsValid() {
		return "", false
	}
	_, parent, ok := strings.Cut(key, ".")
	if !ok {
		return "", false
	}
	if by, ok := r.by[wildcard+parent]; ok {
		return by, true
	}
	if !strings.HasPrefix(key, wildcard) {
		return "", false
	}
	for _, host := range r.order {
		if _, p, ok := strings.Cut(host, "."); ok && p == parent && !dnsName(host).asIP().IsValid() {
			return r.by[host], true
		}
	}
	return "", false
}
