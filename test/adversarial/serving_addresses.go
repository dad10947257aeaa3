// SPDX-License-Identifier: Apache-2.0

package adversarial

import (
	"net"
	"slices"
	"strings"
)

// servingReserved request, in addition to the good addresses, one under which no node may serve. The API server is
// reached at api.example.com, and by the nodes of other racks at lb.rack-a.example.com, lb.räck-b.example.com and
// 2001:db8:a::1.
func servingReserved() []Case {
	return all(wait, addressReserved, []Case{
		{Name: "serving-dns-kubernetes", Why: "Pods in the namespace default reach the API server under this name.", Spoil: alsoDNS("kubernetes")},
		{Name: "serving-dns-kubernetes-default", Why: "Pods reach the API server under this name.", Spoil: alsoDNS("kubernetes.default")},
		{Name: "serving-dns-kubernetes-svc", Why: "Pods reach the API server under this name.", Spoil: alsoDNS("kubernetes.default.svc")},
		{Name: "serving-dns-kubernetes-cluster-local", Why: "Pods reach the API server under this name.", Spoil: alsoDNS("kubernetes.default.svc.cluster.local")},
		{Name: "serving-dns-kubernetes-domain", Why: "The cluster's domain is not always cluster.local.", Spoil: alsoDNS("kubernetes.default.svc.k8s.example.com")},
		{Name: "serving-dns-localhost", Why: "Whatever runs on a machine trusts localhost.", Spoil: alsoDNS("localhost")},
		{Name: "serving-dns-api-server", Why: "The node would serve in place of the API server.", Spoil: alsoDNS("api.example.com")},
		{Name: "serving-ip-service", Why: "Pods reach the API server under this address.", Spoil: alsoIP("10.0.0.1")},
		{Name: "serving-ip-loopback", Why: "Whatever runs on a machine trusts its loopback address.", Spoil: alsoIP("127.0.0.1")},
		{Name: "serving-ip-loopback-other", Why: "The whole of 127.0.0.0/8 is the machine itself.", Spoil: alsoIP("127.255.0.53")},
		{Name: "serving-ip-loopback-v6", Why: "Whatever runs on a machine trusts its loopback address.", Spoil: alsoIP("::1")},
		{Name: "serving-ip-unspecified", Why: "Connecting to 0.0.0.0 reaches the machine itself.", Spoil: alsoIP("0.0.0.0")},
		{Name: "serving-ip-unspecified-v6", Why: "Connecting to :: reaches the machine itself.", Spoil: alsoIP("::")},
		{Name: "serving-ip-multicast", Why: "A multicast address is that of many machines.", Spoil: alsoIP("224.0.0.1")},
		{Name: "serving-ip-multicast-v6", Why: "A multicast address is that of many machines.", Spoil: alsoIP("ff02::1")},
		{Name: "serving-dns-reserved-upper-case", Why: "DNS is not case-sensitive, so it is the API server's name nevertheless.", Spoil: alsoDNS("Kubernetes.Default.SVC")},
		{Name: "serving-dns-reserved-final-dot", Why: "For DNS a final dot changes nothing, so it is the API server's name nevertheless.", Spoil: alsoDNS("kubernetes.default.")},
		{Name: "serving-dns-localhost-final-dot", Why: "For DNS a final dot changes nothing, so it is localhost nevertheless.", Spoil: alsoDNS("localhost.")},
		{Name: "serving-dns-other-rack", Why: "The nodes of another rack would take it for the API server.", Spoil: alsoDNS("lb.rack-a.example.com")},
		{Name: "serving-dns-other-rack-upper-case", Why: "DNS is not case-sensitive, so it is the load balancer's name nevertheless.", Spoil: alsoDNS("LB.Rack-A.example.com")},
		{Name: "serving-dns-other-rack-final-dot", Why: "For DNS a final dot changes nothing, so it is the load balancer's name nevertheless.", Spoil: alsoDNS("lb.rack-a.example.com.")},
		{Name: "serving-dns-other-rack-punycode", Why: "This is the name that is looked up for the load balancer's Unicode one.", Spoil: alsoDNS("lb.xn--rck-b-gra.example.com")},
		{Name: "serving-ip-other-rack", Why: "The nodes of another rack would take it for the API server.", Spoil: alsoIP("2001:db8:a::1")},
		{Name: "serving-dns-other-rack-ip", Why: "Old clients take a DNS name that looks like an IP address for one.", Spoil: alsoDNS("2001:DB8:A:0::1")},
		{Name: "serving-dns-wildcard", Why: "A wildcard matches all other nodes, and the API server.", Spoil: alsoDNS("*.example.com")},
		{Name: "serving-dns-loopback-ip", Why: "Old clients take a DNS name that looks like an IP address for one.", Spoil: alsoDNS("127.0.0.1")},
		{Name: "serving-dns-service-ip", Why: "Old clients take a DNS name that looks like an IP address for one.", Spoil: alsoDNS("10.0.0.1")},
		{Name: "serving-dns-reserved-alone", Why: "A reserved name is also refused without the good ones.", Spoil: rebuild(func(p *parts, _ string) {
			p.useSAN(dnsName("kubernetes.default.svc"))
		})},
		{Name: "serving-dns-reserved-in-front", Why: "All names count, not only the last one.", Spoil: rebuild(func(p *parts, _ string) {
			p.useSAN(dnsName("api.example.com"), p.names())
		})},
	})
}

// servingElsewhere request an address that the NodeBootstrap other-node declares.
func servingElsewhere() []Case {
	return all(wait, addressElsewhere, []Case{
		{Name: "serving-dns-elsewhere", Why: "One node would serve in place of another.", Spoil: alsoDNS("other-node")},
		{Name: "serving-dns-domain-elsewhere", Why: "One node would serve in place of another.", Spoil: alsoDNS("other-node.example.com")},
		{Name: "serving-dns-elsewhere-upper-case", Why: "DNS is not case-sensitive, so it is the other node's name nevertheless.", Spoil: alsoDNS("Other-Node")},
		{Name: "serving-ip-elsewhere", Why: "One node would serve in place of another.", Spoil: alsoIP("192.0.2.8")},
		{Name: "serving-dns-elsewhere-alone", Why: "Another node's name is also refused without the good ones.", Spoil: rebuild(func(p *parts, _ string) {
			p.useSAN(dnsName("other-node"))
		})},
	})
}

// servingUndeclaredNames request, in addition to the good addresses, a DNS name that no NodeBootstrap declares.
func servingUndeclaredNames() []Case {
	return all(wait, addressNotDeclared, []Case{
		{Name: "serving-dns-unknown", Why: "The node would serve under any name.", Spoil: alsoDNS("www.example.org")},
		{Name: "serving-dns-longer", Why: "A name with the same beginning is another name.", Spoil: alsoDNS("<node>0")},
		{Name: "serving-dns-shorter", Why: "A name that is the beginning of the name is another name.", Spoil: alsoDNS("<nod>")},
		{Name: "serving-dns-ending", Why: "A name with the same ending is another name.", Spoil: alsoDNS("x<node>.example.com")},
		{Name: "serving-dns-subdomain", Why: "The owner of a name does not own all names below it.", Spoil: alsoDNS("www.<node>.example.com")},
		{Name: "serving-dns-parent", Why: "The owner of a name does not own the one above it.", Spoil: alsoDNS("example.com")},
		{Name: "serving-dns-other-domain", Why: "The node's name in another domain is another machine.", Spoil: alsoDNS("<node>.example.org")},
		{Name: "serving-dns-more-domain", Why: "A name that begins with the whole declared one belongs to someone else's domain.", Spoil: alsoDNS("<node>.example.com.evil.example")},
		{Name: "serving-dns-final-dot", Why: "A final dot is another spelling of the same name.", Spoil: alsoDNS("<node>.example.com.")},
		{Name: "serving-dns-leading-dot", Why: "A dot in front is a domain in some constraints.", Spoil: alsoDNS(".example.com")},
		{Name: "serving-dns-two-dots", Why: "An empty label is no name.", Spoil: alsoDNS("<node>..example.com")},
		{Name: "serving-dns-dot", Why: "The root of DNS is above all names.", Spoil: alsoDNS(".")},
		{Name: "serving-dns-empty", Why: "An empty name is a beginning and an ending of all names.", Spoil: alsoDNS("")},
		{Name: "serving-dns-wildcard-all", Why: "Some clients take a single star for every name.", Spoil: alsoDNS("*")},
		{Name: "serving-dns-wildcard-in-label", Why: "A star within a label matches other nodes.", Spoil: alsoDNS("<nod>*.example.com")},
		{Name: "serving-dns-wildcard-own", Why: "The owner of a name does not own all names below it.", Spoil: alsoDNS("*.<node>.example.com")},
		{Name: "serving-dns-final-nul", Why: "A reader written in C stops at the NUL.", Spoil: alsoDNS("<node>\x00")},
		{Name: "serving-dns-nul-and-more", Why: "A reader written in C stops at the NUL and sees another name.", Spoil: alsoDNS("<node>\x00.evil.example")},
		{Name: "serving-dns-nul-in-front", Why: "A reader written in C sees an empty name.", Spoil: alsoDNS("\x00<node>")},
		{Name: "serving-dns-final-space", Why: "A reader that trims finds the declared name.", Spoil: alsoDNS("<node> ")},
		{Name: "serving-dns-leading-space", Why: "A reader that trims finds the declared name.", Spoil: alsoDNS(" <node>")},
		{Name: "serving-dns-newline", Why: "A pattern that ends in $ may match before a newline.", Spoil: alsoDNS("<node>\n")},
		{Name: "serving-dns-two-names", Why: "A reader that splits at commas finds two names.", Spoil: alsoDNS("<node>,api.example.com")},
		{Name: "serving-dns-punycode", Why: "A Cyrillic letter looks like the Latin one where punycode is shown as text.", Spoil: alsoDNS("xn--wrker-jye.example.com")},
		{Name: "serving-dns-with-port", Why: "A name with a port is read as the name by some.", Spoil: alsoDNS("<node>:10250")},
		{Name: "serving-dns-as-url", Why: "A URL is no name.", Spoil: alsoDNS("https://<node>")},
		{Name: "serving-dns-escaped", Why: "A reader that undoes escapes finds another name.", Spoil: alsoDNS("<node>%2eexample.com")},
		{Name: "serving-dns-very-long", Why: "A DNS name has at most 253 characters.", Spoil: alsoDNS("<node>." + strings.Repeat("x.", 150) + "example.com")},
		{Name: "serving-dns-user", Why: "A user's name is no address.", Spoil: alsoDNS("system:node:<node>")},
		{Name: "serving-dns-service-like", Why: "A name that nearly begins like the kubernetes Service is another name.", Spoil: alsoDNS("kubernetes.default.svcx")},
		{Name: "serving-dns-service-other", Why: "A Service of another namespace is served by its Pods.", Spoil: alsoDNS("kubernetes-dashboard.kube-system.svc")},
		{Name: "serving-dns-declared-ip", Why: "Old clients take a DNS name that looks like an IP address for one.", Spoil: alsoDNS("192.0.2.7")},
		{Name: "serving-dns-declared-ip-v6", Why: "Old clients take a DNS name that looks like an IP address for one.", Spoil: alsoDNS("2001:db8::7")},
		{Name: "serving-dns-declared-range", Why: "The text of a declared range is not a name.", Spoil: alsoDNS("198.51.100.0/24")},
		{Name: "serving-dns-ip-in-range", Why: "A DNS name that looks like an address of the declared range is none.", Spoil: alsoDNS("198.51.100.9")},
		{Name: "serving-dns-ip-padded", Why: "Some readers take numbers with leading zeros as octal.", Spoil: alsoDNS("192.000.002.007")},
		{Name: "serving-dns-ip-as-number", Why: "Some readers take a single number for an address.", Spoil: alsoDNS("3221225991")},
		{Name: "serving-dns-ip-hexadecimal", Why: "Some readers take a hexadecimal number for an address.", Spoil: alsoDNS("0xc0000207")},
	})
}

// servingUndeclaredIPs request, in addition to the good addresses, an IP address that no NodeBootstrap declares.
func servingUndeclaredIPs() []Case {
	return all(wait, addressNotDeclared, []Case{
		{Name: "serving-ip-unknown", Why: "The node would serve under any name.", Spoil: alsoIP("203.0.113.7")},
		{Name: "serving-ip-one-below", Why: "The neighbour's address is not the node's.", Spoil: alsoIP("192.0.2.6")},
		{Name: "serving-ip-reversed", Why: "The bytes in reverse are another address.", Spoil: alsoIP("7.2.0.192")},
		{Name: "serving-ip-below-range", Why: "The address just below the declared range is outside.", Spoil: alsoIP("198.51.99.255")},
		{Name: "serving-ip-above-range", Why: "The address just above the declared range is outside.", Spoil: alsoIP("198.51.101.0")},
		{Name: "serving-ip-v6-one-below", Why: "The neighbour's address is not the node's.", Spoil: alsoIP("2001:db8::6")},
		{Name: "serving-ip-v6-one-above", Why: "The neighbour's address is not the node's.", Spoil: alsoIP("2001:db8::8")},
		{Name: "serving-ip-v6-other-network", Why: "The same host in another network is another machine.", Spoil: alsoIP("2001:db8:0:1::7")},
		{Name: "serving-ip-compatible", Why: "An IPv6 address that ends in the declared IPv4 one is another address.", Spoil: alsoIP("::192.0.2.7")},
		{Name: "serving-ip-translated", Why: "The SIIT address of the declared one is another address.", Spoil: alsoIP("::ffff:0:192.0.2.7")},
		{Name: "serving-ip-nat64", Why: "The NAT64 address of the declared one is another address.", Spoil: alsoIP("64:ff9b::192.0.2.7")},
		{Name: "serving-ip-nat64-loopback", Why: "NAT64 of a loopback address may reach the translator itself.", Spoil: alsoIP("64:ff9b::127.0.0.1")},
		{Name: "serving-ip-6to4", Why: "The 6to4 prefix of the declared one is a whole network.", Spoil: alsoIP("2002:c000:207::")},
		{Name: "serving-ip-isatap", Why: "The ISATAP address of the declared one is another address.", Spoil: alsoIP("fe80::5efe:192.0.2.7")},
		{Name: "serving-ip-range-in-v6", Why: "An IPv6 address that ends in one of the declared range is outside.", Spoil: alsoIP("::198.51.100.9")},
		{Name: "serving-ip-link-local", Why: "Clouds hand out credentials under this address.", Spoil: alsoIP("169.254.169.254")},
		{Name: "serving-ip-link-local-v6", Why: "A link-local address is that of a machine on each link.", Spoil: alsoIP("fe80::1")},
		{Name: "serving-ip-broadcast", Why: "The broadcast address is that of all machines.", Spoil: alsoIP("255.255.255.255")},
		{Name: "serving-ip-next-service", Why: "The address next to that of the kubernetes Service is usually that of the cluster's DNS.", Spoil: alsoIP("10.0.0.10")},
	})
}

// alsoDNS adds a DNS name after the good ones. <node> in it stands for the node's name.
func alsoDNS(template string) spoil {
	return rebuild(func(p *parts, node string) {
		p.useSAN(slices.Concat(p.dns...), dnsName(fill(template, node)), slices.Concat(p.ips...))
	})
}

// alsoIP adds an IP address after the good ones.
func alsoIP(ip string) spoil { return alsoNamed(ipAddress(net.ParseIP(ip))) }
