// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

func TestServerHost(t *testing.T) {
	for server, want := range map[string]string{
		"":                                   "",
		"https://api.example.com:6443":       "api.example.com",
		"https://API.example.com.":           "api.example.com",
		"HTTPS://api.example.com/clusters/a": "api.example.com",
		"api.example.com:6443":               "api.example.com",
		"api.example.com":                    "api.example.com",
		"https://[2001:DB8::1]:6443":         "2001:db8::1",
		"https://[::ffff:192.0.2.1]":         "192.0.2.1",
		"https://[fe80::1%25eth0]:6443":      "fe80::1",
		"https://a:b@api.example.com":        "api.example.com",
		"https://api.example.com@evil.org":   "evil.org",
		"https://api.b\u00fccher.example":    "api.xn--bcher-kva.example",
		"https://api.b%C3%BCcher.example":    "api.xn--bcher-kva.example",
		"https://:6443":                      "",
		"https://api.example.com:x":          "",
		"https://api.example.com\\@evil.org": "",
	} {
		if got := ServerHost(server); got != want {
			t.Errorf("the host of %q is %q, want %q", server, got, want)
		}
	}
}

func TestServerHosts(t *testing.T) {
	nb := nodeBootstrap()
	if got := ServerHosts(nb); got != nil {
		t.Errorf("got %v", got)
	}
	nb.Spec.Cluster.Server = "https://b.example:6443"
	nb.Status.Server = "https://A.example:6443"
	nb.Status.APIServerHosts = []string{"c.example", "a.example"}
	if got := ServerHosts(nb); !slices.Equal(got, []string{"b.example", "a.example", "c.example"}) {
		t.Errorf("got %v", got)
	}
}

func TestReservedBySources(t *testing.T) {
	const info = "clusters: [{name: a, cluster: {server: 'https://a.example'}}, {name: b, cluster: {server: 'https://B.example:1'}}]"
	got := ReservedBySources(ClusterSources{FlagServer: "https://flag.example", ClusterInfo: info})
	want := []csr.Reservation{{Host: "flag.example", By: fromFlagServer}, {Host: "a.example", By: fromClusterInfo}, {Host: "b.example", By: fromClusterInfo}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	for _, info := range []string{"", "no kubeconfig", "{}"} {
		if got := ReservedBySources(ClusterSources{ClusterInfo: info}); len(got) != 1 || got[0].Host != "" {
			t.Errorf("of %q: %v", info, got)
		}
	}
}

func TestReservedByCertificate(t *testing.T) {
	got := ReservedByCertificate(&x509.Certificate{DNSNames: []string{"a.example", "*.b.example"}, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1), net.ParseIP("2001:db8::1")}})
	var hosts []string
	for _, r := range got {
		hosts = append(hosts, r.Host)
	}
	if !slices.Equal(hosts, []string{"a.example", "*.b.example", "192.0.2.1", "2001:db8::1"}) {
		t.Errorf("got %v", got)
	}
}

func TestAddHosts(t *testing.T) {
	many := func(n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf("h%d.example", i))
		}
		return out
	}
	for name, tt := range map[string]struct {
		hosts, servers, want []string
	}{
		"none":           {nil, nil, nil},
		"nothing":        {[]string{"a.example"}, []string{"", "https://"}, []string{"a.example"}},
		"the first":      {nil, []string{"https://a.example:6443"}, []string{"a.example"}},
		"the same":       {[]string{"a.example"}, []string{"https://A.example"}, []string{"a.example"}},
		"another":        {[]string{"a.example"}, []string{"https://b.example"}, []string{"a.example", "b.example"}},
		"one of before":  {[]string{"a.example", "b.example"}, []string{"https://a.example"}, []string{"b.example", "a.example"}},
		"two":            {[]string{"a.example"}, []string{"https://a.example", "https://b.example"}, []string{"a.example", "b.example"}},
		"too many":       {many(16), []string{"https://h16.example"}, many(17)[1:]},
		"again the last": {many(16), []string{"https://h15.example"}, many(16)},
	} {
		before := slices.Clone(tt.hosts)
		if got := addHosts(tt.hosts, tt.servers...); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v", name, got)
		}
		if !slices.Equal(before, tt.hosts) {
			t.Errorf("%s: what was read is changed: %v", name, tt.hosts)
		}
	}
}

// The hosts stay when the node has joined, when its server changes, and when an answer was lost; those of a status of an earlier
// version come in with its server.
func TestHostsAreKept(t *testing.T) {
	f := awaited(1, young)
	f.NodeBootstrap.Status.Server = "https://before.example:6443"
	p := decide(f, now)
	hosts := func(o *Outcome) []string {
		s := Report(f, &p, o, now)
		if s.Server != "" && s.Server != f.Cluster.Server && s.Server != f.NodeBootstrap.Status.Server {
			t.Errorf("the server is %s", s.Server)
		}
		f.NodeBootstrap.Status = *s
		return s.APIServerHosts
	}
	want := []string{"before.example", "api.example.com"}
	if got := hosts(&Outcome{Token: p.Token, Published: true, Acceptance: Accepted, Err: fmt.Errorf("the answer was lost")}); !slices.Equal(got, want) {
		t.Errorf("after a lost answer: %v", got)
	}
	if got := hosts(&Outcome{Token: p.Token, Published: true, Acceptance: Accepted}); !slices.Equal(got, want) {
		t.Errorf("published: %v", got)
	}
	f.Cluster, f.ClusterProblem = Cluster{Server: "https://wrong.example"}, &Problem{Reason: v1alpha1.ReasonCADoesNotVerify}
	p = decide(f, now)
	if got := hosts(&Outcome{Token: p.Token, Published: true, Acceptance: Accepted}); !slices.Equal(got, want) {
		t.Errorf("what was not published is noted: %v", got)
	}
	p = Plan{Phase: Joined}
	if got := hosts(&Outcome{Revoked: true}); !slices.Equal(got, want) || f.NodeBootstrap.Status.Server != "" {
		t.Errorf("joined: %v", got)
	}
}
