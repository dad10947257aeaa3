// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"strings"

	"golang.org/x/net/idna"
)

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
