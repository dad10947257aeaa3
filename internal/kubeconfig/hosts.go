// SPDX-License-Identifier: Apache-2.0

package kubeconfig

import (
	"crypto/x509"
	"net/url"
	"slices"
	"strings"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// fromCertificate is the source of reservations from the certificate that the API server presents to the operator.
const fromCertificate = "the API server's certificate"

// ServerHost is the host of an API server's URL, without port and user, as csr.HostKey spells it. It is empty if the URL has none.
// client-go accepts a URL without a scheme, too.
func ServerHost(server string) string {
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil {
		return ""
	}
	return csr.HostKey(u.Hostname())
}

// ServerHosts are the hosts at which the node of a NodeBootstrap reaches the API server, from the spec and from published kubeconfigs,
// each once.
func ServerHosts(nb *v1alpha1.NodeBootstrap) []string {
	var out []string
	for _, host := range append([]string{ServerHost(nb.Spec.Cluster.Server), ServerHost(nb.Status.Server)}, nb.Status.APIServerHosts...) {
		if host != "" && !slices.Contains(out, host) {
			out = append(out, host)
		}
	}
	return out
}

// ReservedByNodeBootstrap is the reservation of a host by the NodeBootstrap with a name.
func ReservedByNodeBootstrap(host, name string) csr.Reservation {
	return csr.Reservation{Host: host, By: "the NodeBootstrap " + name}
}

// ReservedBySources are the hosts of all servers that the flag and cluster-info name, used or not.
func ReservedBySources(s Sources) []csr.Reservation {
	out := []csr.Reservation{{Host: ServerHost(s.FlagServer), By: fromFlagServer}}
	info, _ := parseClusterInfo(s.ClusterInfo)
	for _, server := range info.servers {
		out = append(out, csr.Reservation{Host: ServerHost(server), By: fromClusterInfo})
	}
	return out
}

// ReservedByCertificate are the names and IPs in a certificate of the API server: it can serve as any of them, so no node may.
func ReservedByCertificate(c *x509.Certificate) []csr.Reservation {
	var out []csr.Reservation
	for _, name := range c.DNSNames {
		out = append(out, csr.Reservation{Host: name, By: fromCertificate})
	}
	for _, ip := range c.IPAddresses {
		out = append(out, csr.Reservation{Host: ip.String(), By: fromCertificate})
	}
	return out
}
