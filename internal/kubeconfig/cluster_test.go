// SPDX-License-Identifier: Apache-2.0

package kubeconfig_test

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
)

// clusterInfoOf is the kubeconfig that kubeadm publishes in kube-public/cluster-info.
func clusterInfoOf(server string, ca []byte) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    server: %s\n    certificate-authority-data: %s\n",
		server, base64.StdEncoding.EncodeToString(ca))
}

// Each source has its own server and a CA with its own expiration, to show which one was used.
func TestResolveClusterTakesTheFirstSource(t *testing.T) {
	ca := func(hours int) []byte {
		return nodetest.Certificate(nodetest.Now.Add(-time.Hour), nodetest.Now.Add(time.Duration(hours)*time.Hour))
	}
	all := func() (v1alpha1.ClusterSpec, kubeconfig.Sources) {
		return v1alpha1.ClusterSpec{Server: "https://spec:6443", CABundle: string(ca(1))}, kubeconfig.Sources{
			FlagServer: "https://flag:6443", FlagCA: ca(2), ClusterInfo: clusterInfoOf("https://info:6443", ca(3)), RootCA: string(ca(4)),
		}
	}
	tests := map[string]struct {
		edit   func(*v1alpha1.ClusterSpec, *kubeconfig.Sources)
		server string
		ca     int
	}{
		"all":               {func(*v1alpha1.ClusterSpec, *kubeconfig.Sources) {}, "https://spec:6443", 1},
		"no server in spec": {func(c *v1alpha1.ClusterSpec, _ *kubeconfig.Sources) { c.Server = "" }, "https://flag:6443", 1},
		"no CA in spec":     {func(c *v1alpha1.ClusterSpec, _ *kubeconfig.Sources) { c.CABundle = "" }, "https://spec:6443", 2},
		"nothing in spec":   {func(c *v1alpha1.ClusterSpec, _ *kubeconfig.Sources) { *c = v1alpha1.ClusterSpec{} }, "https://flag:6443", 2},
		"no flags either": {func(c *v1alpha1.ClusterSpec, s *kubeconfig.Sources) {
			*c, s.FlagServer, s.FlagCA = v1alpha1.ClusterSpec{}, "", nil
		}, "https://info:6443", 3},
		"a server in spec": {func(c *v1alpha1.ClusterSpec, s *kubeconfig.Sources) { c.CABundle, s.FlagServer, s.FlagCA = "", "", nil }, "https://spec:6443", 3},
		"no cluster-info": {func(c *v1alpha1.ClusterSpec, s *kubeconfig.Sources) {
			c.CABundle, s.FlagCA, s.ClusterInfo = "", nil, ""
		}, "https://spec:6443", 4},
		"a cluster-info bare": {func(c *v1alpha1.ClusterSpec, s *kubeconfig.Sources) {
			c.CABundle, s.FlagCA, s.ClusterInfo = "", nil, "{}"
		}, "https://spec:6443", 4},
		"a bad file, unneeded":    {func(_ *v1alpha1.ClusterSpec, s *kubeconfig.Sources) { s.FlagCAError = errors.New("no such file") }, "https://spec:6443", 1},
		"an empty file, the same": {func(_ *v1alpha1.ClusterSpec, s *kubeconfig.Sources) { s.FlagCA = []byte{} }, "https://spec:6443", 1},
		"bad info, a file is set": {func(c *v1alpha1.ClusterSpec, s *kubeconfig.Sources) { c.CABundle, s.ClusterInfo = "", "\tnot yaml" }, "https://spec:6443", 2},
		"bad info, unneeded":      {func(_ *v1alpha1.ClusterSpec, s *kubeconfig.Sources) { s.ClusterInfo = "\tnot yaml" }, "https://spec:6443", 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			spec, sources := all()
			tt.edit(&spec, &sources)
			got, problem := kubeconfig.Resolve(spec, sources, nodetest.Now)
			if problem != nil {
				t.Fatalf("%s: %s", problem.Reason, problem.Message)
			}
			if expires := nodetest.Now.Add(time.Duration(tt.ca) * time.Hour); got.Server != tt.server || !got.CAExpires.Equal(expires) {
				t.Errorf("got %s with a CA until %s, want %s with one until %s", got.Server, got.CAExpires, tt.server, expires)
			}
		})
	}
}

func TestResolveClusterProblems(t *testing.T) {
	const password = "hunter2"
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")})
	server := func(url string) func(*v1alpha1.ClusterSpec, *kubeconfig.Sources) {
		return func(c *v1alpha1.ClusterSpec, _ *kubeconfig.Sources) { c.Server = url }
	}
	ca := func(data []byte) func(*v1alpha1.ClusterSpec, *kubeconfig.Sources) {
		return func(c *v1alpha1.ClusterSpec, _ *kubeconfig.Sources) { c.CABundle = string(data) }
	}
	expired := nodetest.Certificate(nodetest.Now.Add(-2*time.Hour), nodetest.Now.Add(-time.Hour))
	tests := map[string]struct {
		edit   func(*v1alpha1.ClusterSpec, *kubeconfig.Sources)
		reason string
		named  []string
	}{
		"no server":           {server(""), v1alpha1.ReasonServerUnknown, []string{kubeconfig.FromSpecServer, "--cluster-server", "kube-public/cluster-info"}},
		"http":                {server("http://api.example.com"), v1alpha1.ReasonServerInvalid, []string{kubeconfig.FromSpecServer, "https://"}},
		"no scheme":           {server("api.example.com:6443"), v1alpha1.ReasonServerInvalid, []string{kubeconfig.FromSpecServer, "https://"}},
		"no slashes":          {server("https:api.example.com"), v1alpha1.ReasonServerInvalid, []string{kubeconfig.FromSpecServer, "host"}},
		"no host":             {server("https://:6443"), v1alpha1.ReasonServerInvalid, []string{kubeconfig.FromSpecServer, "host"}},
		"only a path":         {server("https:///api"), v1alpha1.ReasonServerInvalid, []string{kubeconfig.FromSpecServer, "host"}},
		"a password":          {server("https://admin:" + password + "@api.example.com"), v1alpha1.ReasonServerInvalid, []string{kubeconfig.FromSpecServer, "credentials"}},
		"a user":              {server("https://admin@api.example.com"), v1alpha1.ReasonServerInvalid, []string{kubeconfig.FromSpecServer, "credentials"}},
		"a password, a space": {server("https://admin:" + password + "@api example.com"), v1alpha1.ReasonServerInvalid, []string{kubeconfig.FromSpecServer, "parsed"}},
		"a query":             {server("https://api.example.com?x=" + password), v1alpha1.ReasonServerInvalid, []string{kubeconfig.FromSpecServer, "query"}},
		"an empty query":      {server("https://api.example.com?"), v1alpha1.ReasonServerInvalid, []string{kubeconfig.FromSpecServer, "query"}},
		"a fragment":          {server("https://api.example.com#" + password), v1alpha1.ReasonServerInvalid, []string{kubeconfig.FromSpecServer, "fragment"}},
		"an empty fragment":   {server("https://api.example.com#"), v1alpha1.ReasonServerInvalid, []string{kubeconfig.FromSpecServer, "fragment"}},
		"a port in words":     {server("https://api.example.com:https"), v1alpha1.ReasonServerInvalid, []string{kubeconfig.FromSpecServer, "parsed"}},
		"a placeholder in cluster-info": {func(c *v1alpha1.ClusterSpec, s *kubeconfig.Sources) {
			c.Server, s.ClusterInfo = "", clusterInfoOf("https://<LB_IP>:6443", goodCA())
		}, v1alpha1.ReasonServerInvalid, []string{"kube-public/cluster-info", "placeholders"}},
		"http in the flag": {func(c *v1alpha1.ClusterSpec, s *kubeconfig.Sources) { c.Server, s.FlagServer = "", "http://x" }, v1alpha1.ReasonServerInvalid, []string{"--cluster-server"}},
		"http in cluster-info": {func(c *v1alpha1.ClusterSpec, s *kubeconfig.Sources) {
			c.Server, s.ClusterInfo = "", clusterInfoOf("http://x", goodCA())
		}, v1alpha1.ReasonServerInvalid, []string{"kube-public/cluster-info"}},
		"cluster-info no YAML": {func(c *v1alpha1.ClusterSpec, s *kubeconfig.Sources) { c.Server, s.ClusterInfo = "", "\tjunk" }, v1alpha1.ReasonServerInvalid, []string{"kube-public/cluster-info", kubeconfig.FromSpecServer}},
		"cluster-info bare":    {func(c *v1alpha1.ClusterSpec, s *kubeconfig.Sources) { c.Server, s.ClusterInfo = "", "{}" }, v1alpha1.ReasonServerUnknown, []string{kubeconfig.FromSpecServer}},

		"no CA": {ca(nil), v1alpha1.ReasonCAUnknown, []string{kubeconfig.FromSpecCA, "--cluster-ca-file", "kube-public/cluster-info", "kube-root-ca.crt"}},
		"a CA file amiss": {func(c *v1alpha1.ClusterSpec, s *kubeconfig.Sources) {
			c.CABundle, s.FlagCAError = "", errors.New("open /ca: no such file")
		}, v1alpha1.ReasonCAInvalid, []string{"--cluster-ca-file", "no such file"}},
		"a CA file no PEM": {func(c *v1alpha1.ClusterSpec, s *kubeconfig.Sources) { c.CABundle, s.FlagCA = "", []byte("junk") }, v1alpha1.ReasonCAInvalid, []string{"--cluster-ca-file"}},
		"root CA no PEM":   {func(c *v1alpha1.ClusterSpec, s *kubeconfig.Sources) { c.CABundle, s.RootCA = "", "junk" }, v1alpha1.ReasonCAInvalid, []string{"kube-root-ca.crt"}},
		"info's CA no PEM": {func(c *v1alpha1.ClusterSpec, s *kubeconfig.Sources) {
			c.CABundle, s.ClusterInfo = "", clusterInfoOf(nodetest.Server, []byte("junk"))
		}, v1alpha1.ReasonCAInvalid, []string{"kube-public/cluster-info"}},
		"no PEM":             {ca([]byte("junk")), v1alpha1.ReasonCAInvalid, []string{kubeconfig.FromSpecCA, "BEGIN CERTIFICATE"}},
		"base64 of PEM":      {ca([]byte(base64.StdEncoding.EncodeToString(goodCA()))), v1alpha1.ReasonCAInvalid, []string{kubeconfig.FromSpecCA}},
		"whitespace":         {ca([]byte(" \n")), v1alpha1.ReasonCAInvalid, []string{kubeconfig.FromSpecCA}},
		"a private key":      {ca(key), v1alpha1.ReasonCAInvalid, []string{kubeconfig.FromSpecCA, "PRIVATE KEY"}},
		"and a private key":  {ca(slices.Concat(goodCA(), key)), v1alpha1.ReasonCAInvalid, []string{kubeconfig.FromSpecCA, "PRIVATE KEY"}},
		"text after":         {ca(append(goodCA(), "junk"...)), v1alpha1.ReasonCAInvalid, []string{kubeconfig.FromSpecCA}},
		"half a certificate": {ca(goodCA()[:200]), v1alpha1.ReasonCAInvalid, []string{kubeconfig.FromSpecCA}},
		"junk in a block":    {ca(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("junk")})), v1alpha1.ReasonCAInvalid, []string{kubeconfig.FromSpecCA}},
		"expired":            {ca(expired), v1alpha1.ReasonCAExpired, []string{kubeconfig.FromSpecCA, "2026-03-04T04:06:07Z"}},
		"two expired":        {ca(slices.Concat(expired, expired)), v1alpha1.ReasonCAExpired, []string{kubeconfig.FromSpecCA}},
		"expires now":        {ca(nodetest.Certificate(nodetest.Now.Add(-time.Hour), nodetest.Now)), v1alpha1.ReasonCAExpired, []string{kubeconfig.FromSpecCA}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			spec, sources := v1alpha1.ClusterSpec{Server: nodetest.Server, CABundle: string(goodCA())}, kubeconfig.Sources{}
			tt.edit(&spec, &sources)
			_, problem := kubeconfig.Resolve(spec, sources, nodetest.Now)
			if problem == nil || problem.Reason != tt.reason {
				t.Fatalf("got %v, want %s", problem, tt.reason)
			}
			for _, name := range tt.named {
				if !strings.Contains(problem.Message, name) {
					t.Errorf("%q is not in the message: %s", name, problem.Message)
				}
			}
			if strings.Contains(problem.Message, password) {
				t.Errorf("the password is in the message: %s", problem.Message)
			}
		})
	}
}

// The kubeconfig must not change when only the spelling of the CA does.
func TestResolveClusterNormalisesTheCA(t *testing.T) {
	one, expired := goodCA(), nodetest.Certificate(nodetest.Now.Add(-2*time.Hour), nodetest.Now.Add(-time.Minute))
	early := nodetest.Certificate(nodetest.Now.Add(time.Minute), nodetest.Now.Add(time.Hour)) // for a clock that is a moment behind
	tests := map[string]struct{ given, want []byte }{
		"one":                 {one, one},
		"CRLF":                {bytes.ReplaceAll(one, []byte("\n"), []byte("\r\n")), one},
		"no newline":          {bytes.TrimSpace(one), one},
		"blank lines around":  {slices.Concat([]byte("\n\n"), one, []byte("\n\n")), one},
		"blank lines between": {slices.Concat(one, []byte("\n \n"), one), slices.Concat(one, one)},
		"one valid, one not":  {slices.Concat(one, expired), slices.Concat(one, expired)},
		"not valid yet":       {early, early},
		"one not, one valid":  {slices.Concat(expired, one), slices.Concat(expired, one)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, problem := kubeconfig.Resolve(v1alpha1.ClusterSpec{Server: nodetest.Server, CABundle: string(tt.given)}, kubeconfig.Sources{}, nodetest.Now)
			if problem != nil {
				t.Fatalf("%s: %s", problem.Reason, problem.Message)
			}
			if !bytes.Equal(got.CA, tt.want) || !got.CAExpires.Equal(nodetest.Now.Add(time.Hour)) {
				t.Errorf("got a CA until %s:\n%s\nwant\n%s", got.CAExpires, got.CA, tt.want)
			}
		})
	}
}

func TestValidateCA(t *testing.T) {
	if err := kubeconfig.ValidateCA(goodCA(), nodetest.Now); err != nil {
		t.Error(err)
	}
	if err := kubeconfig.ValidateCA([]byte("junk"), nodetest.Now); err == nil {
		t.Error("junk is accepted")
	}
}

// A CA that is too large is not published, whatever its source, and the message names the source.
func TestVeryLargeClusterFacts(t *testing.T) {
	one := string(goodCA()) // each has a different length
	ca := strings.Repeat(one, 1+kubeconfig.MaxCABytes/len(one))
	const server = "https://api.example.com:6443"
	for what, tt := range map[string]struct {
		spec    v1alpha1.ClusterSpec
		sources kubeconfig.Sources
		says    []string
	}{
		"spec":         {v1alpha1.ClusterSpec{CABundle: ca}, kubeconfig.Sources{}, []string{kubeconfig.FromSpecCA, "64 KiB"}},
		"flag":         {v1alpha1.ClusterSpec{}, kubeconfig.Sources{FlagCA: []byte(ca)}, []string{kubeconfig.FromFlagCA, "64 KiB"}},
		"root CA":      {v1alpha1.ClusterSpec{}, kubeconfig.Sources{RootCA: ca}, []string{kubeconfig.FromRootCA, "64 KiB"}},
		"root CA, cut": {v1alpha1.ClusterSpec{}, kubeconfig.Sources{RootCA: ca[:kubeconfig.MaxCABytes+1]}, []string{kubeconfig.FromRootCA, "64 KiB"}},
		"cluster-info": {v1alpha1.ClusterSpec{}, kubeconfig.Sources{ClusterInfo: strings.Repeat("#", kubeconfig.MaxClusterInfoBytes+1)}, []string{kubeconfig.FromClusterInfo, "256 KiB"}},
	} {
		tt.spec.Server = server
		_, problem := kubeconfig.Resolve(tt.spec, tt.sources, nodetest.Now)
		if problem == nil {
			t.Errorf("%s: no problem is reported", what)
			continue
		}
		for _, text := range tt.says {
			if !strings.Contains(problem.Message, text) {
				t.Errorf("%s: %s does not say %q", what, problem.Message, text)
			}
		}
	}
}

// pem.Decode silently skips text before a block, and damaged blocks.
func TestResolveClusterRefusesTextAroundTheCA(t *testing.T) {
	damaged := slices.Concat([]byte("-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n"), goodCA())
	for name, ca := range map[string][]byte{
		"text before":           append([]byte("the CA:\n"), goodCA()...),
		"text between":          slices.Concat(goodCA(), []byte("another:\n"), goodCA()),
		"a damaged certificate": damaged,
		"PEM headers":           []byte("-----BEGIN CERTIFICATE-----\nA: b\n\n" + string(goodCA())[len("-----BEGIN CERTIFICATE-----\n"):]),
	} {
		if _, problem := kubeconfig.Resolve(v1alpha1.ClusterSpec{Server: nodetest.Server, CABundle: string(ca)}, kubeconfig.Sources{}, nodetest.Now); problem == nil || problem.Reason != v1alpha1.ReasonCAInvalid {
			t.Errorf("%s: got %v", name, problem)
		}
	}
}

// A map has no order: with two clusters in cluster-info the kubeconfig would change from reconcile to reconcile.
func TestResolveClusterIsTheSameEachTime(t *testing.T) {
	info := "apiVersion: v1\nkind: Config\nclusters:\n" +
		"- {name: a, cluster: {server: \"https://a:6443\"}}\n- {name: b, cluster: {server: \"https://b:6443\"}}\n"
	seen := map[string]bool{}
	for range 100 {
		c, _ := kubeconfig.Resolve(v1alpha1.ClusterSpec{CABundle: string(goodCA())}, kubeconfig.Sources{ClusterInfo: info}, nodetest.Now)
		seen[c.Server] = true
	}
	if len(seen) != 1 {
		t.Errorf("got %v", seen)
	}
}

// A given flag is used, valid or not: an empty file is an error.
func TestResolveClusterRefusesAnEmptyCAFile(t *testing.T) {
	c, problem := kubeconfig.Resolve(v1alpha1.ClusterSpec{Server: nodetest.Server}, kubeconfig.Sources{FlagCA: []byte{}, RootCA: string(goodCA())}, nodetest.Now)
	if problem == nil || problem.Reason != v1alpha1.ReasonCAInvalid {
		t.Errorf("got %v and %s", problem, fmt.Sprint(len(c.CA)))
	}
}

// A cluster-info that cannot be parsed is a source too: its CA must not be silently replaced by that of another source.
func TestResolveClusterDoesNotSkipABrokenClusterInfo(t *testing.T) {
	_, problem := kubeconfig.Resolve(v1alpha1.ClusterSpec{Server: nodetest.Server}, kubeconfig.Sources{ClusterInfo: "\tjunk", RootCA: string(goodCA())}, nodetest.Now)
	if problem == nil {
		t.Error("the CA of kube-root-ca.crt was taken, although cluster-info comes first")
	}
}

// BenchmarkResolveCluster parses the CA, and renders the template.
func BenchmarkResolveCluster(b *testing.B) {
	spec := v1alpha1.ClusterSpec{Server: nodetest.Server, CABundle: string(goodCA())}
	b.ReportAllocs()
	for b.Loop() {
		if _, problem := kubeconfig.Resolve(spec, kubeconfig.Sources{}, nodetest.Now); problem != nil {
			b.Fatal(problem)
		}
	}
}
