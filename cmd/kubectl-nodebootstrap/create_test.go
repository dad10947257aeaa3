// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

const (
	fourLines = "apiVersion: nodebootstrap.io/v1alpha1\nkind: NodeBootstrap\nmetadata:\n  name: worker-1\n"
	someKey   = "SHA256:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
)

// What is printed has only what was set, and no cluster is asked for it.
func TestCreatePrints(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, []byte("PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"nothing set": {nil, fourLines},
		"all set": {
			[]string{"--server", "https://api.example.com:6443", "--ca-file", ca, "--ttl", "90m", "--join-deadline", "168h", "--approval", "Manual",
				"--approval-delay", "1m", "--key-fingerprint", someKey, "--serving-address", "worker-1,192.0.2.7", "--serving-address", "2001:db8::/64"},
			fourLines + "spec:\n  clientCertificate:\n    approval: Manual\n    approvalDelay: 1m\n    keyFingerprint: " + someKey +
				"\n  cluster:\n    caBundle: PEM\n    server: https://api.example.com:6443\n  servingCertificate:\n    addresses:\n    - worker-1\n    - 192.0.2.7\n    - 2001:db8::/64\n" +
				"  token:\n    joinDeadline: 168h\n    ttl: 1h30m\n",
		},
		"seconds": {[]string{"--ttl", "10m1s"}, fourLines + "spec:\n  token:\n    ttl: 10m1s\n"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"create", node, "--dry-run=client"}, tc.args...)
			nowhere := cluster{err: errors.New("asked a cluster")}
			if r := nowhere.succeeds(t, append(args, "-o", "yaml")...); r.out != tc.want {
				t.Errorf("got:\n%s\nwant:\n%s", r.out, tc.want)
			}
			var fromJSON, fromYAML any
			r := nowhere.succeeds(t, append(args, "-o", "json")...)
			if err := errors.Join(yaml.Unmarshal([]byte(r.out), &fromJSON), yaml.Unmarshal([]byte(tc.want), &fromYAML)); err != nil {
				t.Fatal(err)
			}
			if got, want := mustYAML(t, fromJSON), mustYAML(t, fromYAML); got != want {
				t.Errorf("as JSON it is\n%s, not\n%s", got, want)
			}
		})
	}
	for want, output := range map[string][]string{" created (dry run)\n": nil, "\n": {"-o", "name"}} {
		r := cluster{err: errors.New("asked a cluster")}.succeeds(t, append([]string{"create", node, "--dry-run", "client"}, output...)...)
		if r.out != "nodebootstrap.nodebootstrap.io/worker-1"+want {
			t.Errorf("%q prints %q", output, r.out)
		}
	}
}

func mustYAML(t *testing.T, value any) string {
	t.Helper()
	text, err := yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestCreate(t *testing.T) {
	c := cluster{}.client(t)
	connect := func() (client.WithWatch, error) { return c, nil }
	r := execute(t, connect, "create", node, "--dry-run=server", "--ttl", "1h")
	if r.err != nil || r.out != "nodebootstrap.nodebootstrap.io/worker-1 created (server dry run)\n" {
		t.Fatalf("got %q and %v", r.out, r.err)
	}
	if _, err := get(t.Context(), c, node); err == nil {
		t.Fatal("a dry run created it")
	}
	r = execute(t, connect, "create", node, "--ttl", "1h", "-o", "yaml")
	if r.err != nil || r.out != fourLines+"spec:\n  token:\n    ttl: 1h\n" {
		t.Fatalf("got %q and %v", r.out, r.err)
	}
	nb, err := get(t.Context(), c, node)
	if err != nil || nb.Spec.TokenTTL() != time.Hour {
		t.Fatalf("created %v, %v", nb, err)
	}
	r = execute(t, connect, "create", node, "--ttl", "2h")
	if r.err == nil || exitCode(r.err) != exitFailed {
		t.Fatalf("created a second time: %v", r.err)
	}
	mention(t, "the error", r.err.Error(), "NodeBootstrap worker-1 exists already", "kubectl nodebootstrap status worker-1", "kubectl nodebootstrap reissue worker-1")
}

// A refusal of the API server is shown, and so is a missing permission.
func TestCreateFails(t *testing.T) {
	r := cluster{funcs: interceptor.Funcs{Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
		return forbidden(nodeBootstraps, node)
	}}}.execute(t, "create", node)
	if r.err == nil {
		t.Fatal("no error")
	}
	mention(t, "the error", r.err.Error(), "permission to create", "no rule allows it")
}

// Values are refused before the cluster is asked, with the exit code of a wrong command line.
func TestCreateRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no name":               {nil, "name of one NodeBootstrap"},
		"a name of no node":     {[]string{strings.Repeat("a", 64)}, "at most 63 characters"},
		"an odd dry run":        {[]string{node, "--dry-run=maybe"}, "--dry-run is client, server or none"},
		"an odd format":         {[]string{node, "-o", "table"}, "json, yaml or name"},
		"http":                  {[]string{node, "--server", "http://api.example.com"}, "https://"},
		"a short life":          {[]string{node, "--ttl", "5m"}, "--ttl is from 10m"},
		"parts of a second":     {[]string{node, "--join-deadline", "10m0.5s"}, "--join-deadline is from 10m"},
		"a long delay":          {[]string{node, "--approval-delay", "11m"}, "--approval-delay"},
		"an odd approval":       {[]string{node, "--approval", "node"}, "Node, Manual, ClusterWide"},
		"an odd fingerprint":    {[]string{node, "--key-fingerprint", "sha256:00"}, "64 lower-case hex digits"},
		"a key with no meaning": {[]string{node, "--approval", "ClusterWide", "--key-fingerprint", someKey}, "leave one of the two out"},
		"a wildcard":            {[]string{node, "--serving-address", "*.example.com"}, "not \"*.example.com\""},
	} {
		t.Run(name, func(t *testing.T) {
			r := cluster{err: errors.New("asked the cluster")}.execute(t, append([]string{"create"}, tc.args...)...)
			if r.err == nil || exitCode(r.err) != exitUsage {
				t.Fatalf("got the error %v", r.err)
			}
			mention(t, "the error", r.err.Error(), tc.want)
		})
	}
}

// create and join --create make the same object.
func TestJoinCreatesTheSame(t *testing.T) {
	m := machines{signing: signing{cluster: cluster{}}}
	m.execute(t, node, "--ssh", host, "--timeout", "1s", "--create", "--ttl", "1h", "--server-url", "https://api.example.com", "--serving-address", "192.0.2.7")
	var created v1alpha1.NodeBootstrap
	if err := m.client.Get(t.Context(), client.ObjectKey{Name: node}, &created); err != nil {
		t.Fatal(err)
	}
	r := cluster{}.succeeds(t, "create", node, "--dry-run=client", "--ttl", "1h", "--server", "https://api.example.com", "--serving-address", "192.0.2.7", "-o", "yaml")
	var printed v1alpha1.NodeBootstrap
	if err := yaml.UnmarshalStrict([]byte(r.out), &printed); err != nil {
		t.Fatal(err)
	}
	if got, want := mustYAML(t, created.Spec), mustYAML(t, printed.Spec); got != want {
		t.Errorf("join created\n%s, and create prints\n%s", got, want)
	}
}
