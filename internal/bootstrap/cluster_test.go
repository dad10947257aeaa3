// SPDX-License-Identifier: Apache-2.0

package bootstrap

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
)

// clusterInfo is what kubeadm publishes in kube-public/cluster-info.
func clusterInfoOf(server string, ca []byte) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    server: %s\n    certificate-authority-data: %s\n",
		server, base64.StdEncoding.EncodeToString(ca))
}

// Each source has its own server and a CA that expires at an hour of its own, so that it shows which one was taken.
func TestResolveClusterTakesTheFirstSource(t *testing.T) {
	ca := func(hours int) []byte {
		return certificate(now.Add(-time.Hour), now.Add(time.Duration(hours)*time.Hour))
	}
	all := func() (v1alpha1.ClusterSpec, ClusterSources) {
		return v1alpha1.ClusterSpec{Server: "https://spec:6443", CABundle: string(ca(1))}, ClusterSources{
			FlagServer: "https://flag:6443", FlagCA: ca(2), ClusterInfo: clusterInfoOf("https://info:6443", ca(3)), RootCA: string(ca(4)),
		}
	}
	tests := map[string]struct {
		edit   func(*v1alpha1.ClusterSpec, *ClusterSources)
		server string
		ca     int
	}{
		"all":               {func(*v1alpha1.ClusterSpec, *ClusterSources) {}, "https://spec:6443", 1},
		"no server in spec": {func(c *v1alpha1.ClusterSpec, _ *ClusterSources) { c.Server = "" }, "https://flag:6443", 1},
		"no CA in spec":     {func(c *v1alpha1.ClusterSpec, _ *ClusterSources) { c.CABundle = "" }, "https://spec:6443", 2},
		"nothing in spec":   {func(c *v1alpha1.ClusterSpec, _ *ClusterSources) { *c = v1alpha1.ClusterSpec{} }, "https://flag:6443", 2},
		"no flags either": {func(c *v1alpha1.ClusterSpec, s *ClusterSources) {
			*c, s.FlagServer, s.FlagCA = v1alpha1.ClusterSpec{}, "", nil
		}, "https://info:6443", 3},
		"a server in spec":          {func(c *v1alpha1.ClusterSpec, s *ClusterSources) { c.CABundle, s.FlagServer, s.FlagCA = "", "", nil }, "https://spec:6443", 3},
		"no cluster-info":           {func(c *v1alpha1.ClusterSpec, s *ClusterSources) { c.CABundle, s.FlagCA, s.ClusterInfo = "", nil, "" }, "https://spec:6443", 4},
		"a cluster-info bare":       {func(c *v1alpha1.ClusterSpec, s *ClusterSources) { c.CABundle, s.FlagCA, s.ClusterInfo = "", nil, "{}" }, "https://spec:6443", 4},
		"a bad file, unneeded":      {func(_ *v1alpha1.ClusterSpec, s *ClusterSources) { s.FlagCAError = errors.New("no such file") }, "https://spec:6443", 1},
		"an empty file, the same":   {func(_ *v1alpha1.ClusterSpec, s *ClusterSources) { s.FlagCA = []byte{} }, "https://spec:6443", 1},
		"bad info, there is a file": {func(c *v1alpha1.ClusterSpec, s *ClusterSources) { c.CABundle, s.ClusterInfo = "", "\tnot yaml" }, "https://spec:6443", 2},
		"bad info, unneeded":        {func(_ *v1alpha1.ClusterSpec, s *ClusterSources) { s.ClusterInfo = "\tnot yaml" }, "https://spec:6443", 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			spec, sources := all()
			tt.edit(&spec, &sources)
			got, problem := ResolveCluster(spec, sources, now)
			if problem != nil {
				t.Fatalf("%s: %s", problem.Reason, problem.Message)
			}
			if expires := now.Add(time.Duration(tt.ca) * time.Hour); got.Server != tt.server || !got.CAExpires.Equal(expires) {
				t.Errorf("got %s with a CA until %s, want %s with one until %s", got.Server, got.CAExpires, tt.server, expires)
			}
		})
	}
}

func TestResolveClusterProblems(t *testing.T) {
	const password = "hunter2"
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")})
	server := func(url string) func(*v1alpha1.ClusterSpec, *ClusterSources) {
		return func(c *v1alpha1.ClusterSpec, _ *ClusterSources) { c.Server = url }
	}
	ca := func(data []byte) func(*v1alpha1.ClusterSpec, *ClusterSources) {
		return func(c *v1alpha1.ClusterSpec, _ *ClusterSources) { c.CABundle = string(data) }
	}
	expired := certificate(now.Add(-2*time.Hour), now.Add(-time.Hour))
	tests := map[string]struct {
		edit   func(*v1alpha1.ClusterSpec, *ClusterSources)
		reason string
		named  []string
	}{
		"no server":           {server(""), v1alpha1.ReasonServerUnknown, []string{fromSpecServer, "--cluster-server", "kube-public/cluster-info"}},
		"http":                {server("http://api.example.com"), v1alpha1.ReasonServerInvalid, []string{fromSpecServer, "https://"}},
		"no scheme":           {server("api.example.com:6443"), v1alpha1.ReasonServerInvalid, []string{fromSpecServer, "https://"}},
		"no slashes":          {server("https:api.example.com"), v1alpha1.ReasonServerInvalid, []string{fromSpecServer, "host"}},
		"no host":             {server("https://:6443"), v1alpha1.ReasonServerInvalid, []string{fromSpecServer, "host"}},
		"a path alone":        {server("https:///api"), v1alpha1.ReasonServerInvalid, []string{fromSpecServer, "host"}},
		"a password":          {server("https://admin:" + password + "@api.example.com"), v1alpha1.ReasonServerInvalid, []string{fromSpecServer, "credentials"}},
		"a user":              {server("https://admin@api.example.com"), v1alpha1.ReasonServerInvalid, []string{fromSpecServer, "credentials"}},
		"a password, a space": {server("https://admin:" + password + "@api example.com"), v1alpha1.ReasonServerInvalid, []string{fromSpecServer, "parsed"}},
		"a query":             {server("https://api.example.com?x=" + password), v1alpha1.ReasonServerInvalid, []string{fromSpecServer, "query"}},
		"an empty query":      {server("https://api.example.com?"), v1alpha1.ReasonServerInvalid, []string{fromSpecServer, "query"}},
		"a fragment":          {server("https://api.example.com#" + password), v1alpha1.ReasonServerInvalid, []string{fromSpecServer, "fragment"}},
		"an empty fragment":   {server("https://api.example.com#"), v1alpha1.ReasonServerInvalid, []string{fromSpecServer, "fragment"}},
		"a port in words":     {server("https://api.example.com:https"), v1alpha1.ReasonServerInvalid, []string{fromSpecServer, "parsed"}},
		"a placeholder in cluster-info": {func(c *v1alpha1.ClusterSpec, s *ClusterSources) {
			c.Server, s.ClusterInfo = "", clusterInfoOf("https://<LB_IP>:6443", goodCA())
		}, v1alpha1.ReasonServerInvalid, []string{"kube-public/cluster-info", "placeholders"}},
		"http in the flag": {func(c *v1alpha1.ClusterSpec, s *ClusterSources) { c.Server, s.FlagServer = "", "http://x" }, v1alpha1.ReasonServerInvalid, []string{"--cluster-server"}},
		"http in cluster-info": {func(c *v1alpha1.ClusterSpec, s *ClusterSources) {
			c.Server, s.ClusterInfo = "", clusterInfoOf("http://x", goodCA())
		}, v1alpha1.ReasonServerInvalid, []string{"kube-public/cluster-info"}},
		"cluster-info no YAML": {func(c *v1alpha1.ClusterSpec, s *ClusterSources) { c.Server, s.ClusterInfo = "", "\tjunk" }, v1alpha1.ReasonServerInvalid, []string{"kube-public/cluster-info", fromSpecServer}},
		"cluster-info bare":    {func(c *v1alpha1.ClusterSpec, s *ClusterSources) { c.Server, s.ClusterInfo = "", "{}" }, v1alpha1.ReasonServerUnknown, []string{fromSpecServer}},

		"no CA": {ca(nil), v1alpha1.ReasonCAUnknown, []string{fromSpecCA, "--cluster-ca-file", "kube-public/cluster-info", "kube-root-ca.crt"}},
		"a CA file amiss": {func(c *v1alpha1.ClusterSpec, s *ClusterSources) {
			c.CABundle, s.FlagCAError = "", errors.New("open /ca: no such file")
		}, v1alpha1.ReasonCAInvalid, []string{"--cluster-ca-file", "no such file"}},
		"a CA file no PEM": {func(c *v1alpha1.ClusterSpec, s *ClusterSources) { c.CABundle, s.FlagCA = "", []byte("junk") }, v1alpha1.ReasonCAInvalid, []string{"--cluster-ca-file"}},
		"root CA no PEM":   {func(c *v1alpha1.ClusterSpec, s *ClusterSources) { c.CABundle, s.RootCA = "", "junk" }, v1alpha1.ReasonCAInvalid, []string{"kube-root-ca.crt"}},
		"info's CA no PEM": {func(c *v1alpha1.ClusterSpec, s *ClusterSources) {
			c.CABundle, s.ClusterInfo = "", clusterInfoOf(testServer, []byte("junk"))
		}, v1alpha1.ReasonCAInvalid, []string{"kube-public/cluster-info"}},
		"no PEM":             {ca([]byte("junk")), v1alpha1.ReasonCAInvalid, []string{fromSpecCA, "BEGIN CERTIFICATE"}},
		"base64 of PEM":      {ca([]byte(base64.StdEncoding.EncodeToString(goodCA()))), v1alpha1.ReasonCAInvalid, []string{fromSpecCA}},
		"whitespace":         {ca([]byte(" \n")), v1alpha1.ReasonCAInvalid, []string{fromSpecCA}},
		"a private key":      {ca(key), v1alpha1.ReasonCAInvalid, []string{fromSpecCA, "PRIVATE KEY"}},
		"and a private key":  {ca(slices.Concat(goodCA(), key)), v1alpha1.ReasonCAInvalid, []string{fromSpecCA, "PRIVATE KEY"}},
		"text after":         {ca(append(goodCA(), "junk"...)), v1alpha1.ReasonCAInvalid, []string{fromSpecCA}},
		"half a certificate": {ca(goodCA()[:200]), v1alpha1.ReasonCAInvalid, []string{fromSpecCA}},
		"junk in a block":    {ca(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("junk")})), v1alpha1.ReasonCAInvalid, []string{fromSpecCA}},
		"expired":            {ca(expired), v1alpha1.ReasonCAExpired, []string{fromSpecCA, "2026-03-04T04:06:07Z"}},
		"two expired":        {ca(slices.Concat(expired, expired)), v1alpha1.ReasonCAExpired, []string{fromSpecCA}},
		"expires now":        {ca(certificate(now.Add(-time.Hour), now)), v1alpha1.ReasonCAExpired, []string{fromSpecCA}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			spec, sources := v1alpha1.ClusterSpec{Server: testServer, CABundle: string(goodCA())}, ClusterSources{}
			tt.edit(&spec, &sources)
			_, problem := ResolveCluster(spec, sources, now)
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
	one, expired := goodCA(), certificate(now.Add(-2*time.Hour), now.Add(-time.Minute))
	early := certificate(now.Add(time.Minute), now.Add(time.Hour)) // to a clock a moment behind
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
			got, problem := ResolveCluster(v1alpha1.ClusterSpec{Server: testServer, CABundle: string(tt.given)}, ClusterSources{}, now)
			if problem != nil {
				t.Fatalf("%s: %s", problem.Reason, problem.Message)
			}
			if !bytes.Equal(got.CA, tt.want) || !got.CAExpires.Equal(now.Add(time.Hour)) {
				t.Errorf("got a CA until %s:\n%s\nwant\n%s", got.CAExpires, got.CA, tt.want)
			}
		})
	}
}

func TestValidateCA(t *testing.T) {
	if err := ValidateCA(goodCA(), now); err != nil {
		t.Error(err)
	}
	if err := ValidateCA([]byte("junk"), now); err == nil {
		t.Error("junk passes")
	}
}
