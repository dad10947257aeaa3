// SPDX-License-Identifier: Apache-2.0

package kubeconfig

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// maxServerBytes is the limit of the CustomResourceDefinition for spec.cluster.server; other sources have no limit of their own, and the
// status repeats the URL.
const maxServerBytes = 2048

// maxPort is the highest TCP port.
const maxPort = 65535

var (
	// pathCharacters matches everything after the host. url.Parse also accepts blanks, <, $ and {, which appear in the placeholders of
	// guides.
	pathCharacters = regexp.MustCompile(`^[A-Za-z0-9._~%:+,=/-]*$`)
	// hostName matches a DNS subdomain of RFC 1123 in either case, or a name in Unicode, which client-go looks up in its RFC 5890 form
	// (net/http, idnaASCII).
	hostName = regexp.MustCompile(`^[A-Za-z0-9\p{L}\p{M}]([-A-Za-z0-9\p{L}\p{M}]{0,61}[A-Za-z0-9\p{L}\p{M}])?([.][A-Za-z0-9\p{L}\p{M}]([-A-Za-z0-9\p{L}\p{M}]{0,61}[A-Za-z0-9\p{L}\p{M}])?)*$`)
	// numericEnd matches the end of an IPv4 address, and of no DNS name of the internet: resolvers treat such a name as an address
	// (https://url.spec.whatwg.org/#ends-in-a-number-checker).
	numericEnd = regexp.MustCompile(`(^|[.])([0-9]+|0[xX][0-9A-Fa-f]*)$`)
	portNumber = regexp.MustCompile(`^[1-9][0-9]{0,4}$`)
)

const (
	maxHostBytes  = 253
	exampleServer = "write for example https://api.example.com:6443"
)

// ValidateServer reports why a node cannot reach the API server at a URL, and what to write instead. The error does not contain the URL
// itself, which may have a password. The CustomResourceDefinition has the same rules (TestServersAreJudgedAlike), except for those that
// need an implementation of IDNA.
func ValidateServer(server string) error {
	u, err := url.Parse(server)
	switch {
	case err != nil:
		return errors.New("the API server's URL cannot be parsed: " + exampleServer)
	case u.Scheme != "https":
		return errors.New("the API server's URL must begin with https://: " + exampleServer)
	case u.Hostname() == "":
		return errors.New("the API server's URL has no host: " + exampleServer)
	case u.User != nil || strings.Contains(server, "@"):
		return errors.New("the API server's URL must not carry credentials: " + exampleServer)
	case len(server) > maxServerBytes:
		return fmt.Errorf("the API server's URL has more than %d bytes: %s", maxServerBytes, exampleServer)
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(server, "#"):
		return errors.New("the API server's URL must have no query and no fragment: " + exampleServer)
	case !validPort(u):
		return errors.New("the port in the API server's URL must be a number from 1 to 65535, or absent together with its colon for 443: " + exampleServer)
	case !validHost(u, server):
		return errors.New("the host in the API server's URL must be a DNS name or an IP address at which nodes reach it, IPv6 in brackets; " +
			"placeholders, blanks, underscores and a dot at the end are not possible: " + exampleServer + " or https://[2001:db8::1]:6443")
	}
	return nil
}

// validHost also checks the text of the URL: url.Parse decodes %C3%BC in a host.
func validHost(u *url.URL, server string) bool {
	_, rest, _ := strings.Cut(server, "://")
	authority, path, _ := strings.Cut(rest, "/")
	if strings.Contains(authority, "%") || !pathCharacters.MatchString(path) {
		return false
	}
	bracketed := strings.HasPrefix(u.Host, "[")
	if !bracketed && !numericEnd.MatchString(u.Hostname()) {
		return validName(u.Hostname())
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && ip.Is6() == bracketed && !ip.Is4In6() && ip.Zone() == "" && !ip.IsUnspecified()
}

func validName(host string) bool {
	if !hostName.MatchString(host) {
		return false
	}
	ascii, err := idna.Lookup.ToASCII(host)
	return err == nil && len(host) <= maxHostBytes && len(ascii) <= maxHostBytes && hostName.MatchString(ascii) && !numericEnd.MatchString(ascii)
}

func validPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	port, err := strconv.Atoi(u.Port())
	return err == nil && portNumber.MatchString(u.Port()) && port <= maxPort
}

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

// APIServerService is the Service of the API server, and its EndpointSlice, in the namespace default.
const APIServerService = "kubernetes"

// ReservedByService returns the addresses of the API server's Service and of its endpoints; either may be nil.
func ReservedByService(service *corev1.Service, slice *discoveryv1.EndpointSlice) []csr.Reservation {
	var out []csr.Reservation
	add := func(by string, hosts ...string) {
		for _, host := range hosts {
			out = append(out, csr.Reservation{Host: host, By: by + " in the namespace default"})
		}
	}
	if service != nil {
		const by = "the Service " + APIServerService
		add(by, service.Spec.ClusterIP, service.Spec.LoadBalancerIP, service.Spec.ExternalName)
		add(by, service.Spec.ClusterIPs...)
		add(by, service.Spec.ExternalIPs...)
		for _, ingress := range service.Status.LoadBalancer.Ingress {
			add(by, ingress.IP, ingress.Hostname)
		}
	}
	if slice != nil {
		for _, e := range slice.Endpoints {
			add("the EndpointSlice "+APIServerService, e.Addresses...)
		}
	}
	return out
}
