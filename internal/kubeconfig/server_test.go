// SPDX-License-Identifier: Apache-2.0

package kubeconfig_test

import (
	"crypto/x509"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/test/servers"
)

func TestValidateServer(t *testing.T) {
	for _, server := range servers.Good() {
		if err := kubeconfig.ValidateServer(server); err != nil {
			t.Errorf("%q: %v", server, err)
		}
	}
	for _, server := range servers.Bad() {
		if err := kubeconfig.ValidateServer(server); err == nil {
			t.Errorf("%q is accepted", server)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the password is in the error: %v", server, err)
		}
	}
}

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
		if got := kubeconfig.ServerHost(server); got != want {
			t.Errorf("the host of %q is %q, want %q", server, got, want)
		}
	}
}

func TestServerHosts(t *testing.T) {
	nb := nodetest.NodeBootstrap()
	if got := kubeconfig.ServerHosts(nb); got != nil {
		t.Errorf("got %v", got)
	}
	nb.Spec.Cluster.Server = "https://b.example:6443"
	nb.Status.Server = "https://A.example:6443"
	nb.Status.APIServerHosts = []string{"c.example", "a.example"}
	if got := kubeconfig.ServerHosts(nb); !slices.Equal(got, []string{"b.example", "a.example", "c.example"}) {
		t.Errorf("got %v", got)
	}
}

func TestReservedBySources(t *testing.T) {
	const info = "clusters: [{name: a, cluster: {server: 'https://a.example'}}, {name: b, cluster: {server: 'https://B.example:1'}}]"
	got := kubeconfig.ReservedBySources(kubeconfig.Sources{FlagServer: "https://flag.example", ClusterInfo: info})
	want := []csr.Reservation{{Host: "flag.example", By: kubeconfig.FromFlagServer}, {Host: "a.example", By: kubeconfig.FromClusterInfo}, {Host: "b.example", By: kubeconfig.FromClusterInfo}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	for _, info := range []string{"", "no kubeconfig", "{}"} {
		if got := kubeconfig.ReservedBySources(kubeconfig.Sources{ClusterInfo: info}); len(got) != 1 || got[0].Host != "" {
			t.Errorf("of %q: %v", info, got)
		}
	}
}

func TestReservedByCertificate(t *testing.T) {
	got := kubeconfig.ReservedByCertificate(&x509.Certificate{DNSNames: []string{"a.example", "*.b.example"}, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1), net.ParseIP("2001:db8::1")}})
	var hosts []string
	for _, r := range got {
		hosts = append(hosts, r.Host)
	}
	if !slices.Equal(hosts, []string{"a.example", "*.b.example", "192.0.2.1", "2001:db8::1"}) {
		t.Errorf("got %v", got)
	}
}
