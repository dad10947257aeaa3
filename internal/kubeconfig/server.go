// SPDX-License-Identifier: Apache-2.0

package kubeconfig

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
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
