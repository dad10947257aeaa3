// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/check"
)

// checking is a cluster whose API server answers at a URL, where the operator does not run.
type checking struct {
	server *httptest.Server
	ca     []byte
	nb     *v1alpha1.NodeBootstrap
}

func newChecking(t *testing.T) *checking {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/version" {
			t.Errorf("%s was read", r.URL)
		}
		_ = json.NewEncoder(w).Encode(apiversion.Info{GitVersion: "v1.37.2"})
	}))
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	nb := awaiting(func(nb *v1alpha1.NodeBootstrap) {
		nb.Spec.Cluster.Server = s.URL
		nb.Status.Server = s.URL
	})
	return &checking{s, ca, nb}
}

// execute runs a command line. Nothing may be read that is secret.
func (c *checking) execute(t *testing.T, args ...string) result {
	t.Helper()
	fake := cluster{objects: []client.Object{c.nb, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": string(c.ca)},
	}}}.client(t)
	streams, _, out, errOut := genericiooptions.NewTestIOStreams()
	cmd := newCommand(streams, nil, nil)
	cmd.AddCommand(newCheckCommand(streams, func() (client.WithWatch, error) { return fake, nil }, func() (*rest.Config, error) {
		return &rest.Config{Host: c.server.URL, TLSClientConfig: rest.TLSClientConfig{CAData: c.ca}}, nil
	}))
	cmd.SetArgs(append([]string{"check"}, args...))
	err := cmd.ExecuteContext(t.Context())
	return result{out.String(), errOut.String(), err}
}

func TestCheckOutput(t *testing.T) {
	c := newChecking(t)
	r := c.execute(t)
	if !errors.Is(r.err, errNotInOrder) || exitCode(r.err) != 1 {
		t.Errorf("got %v", r.err)
	}
	mention(t, "the output", r.out, "✔ kubernetes-version: v1.37.2\n", "✗ crd: the CustomResourceDefinition does not exist: the operator is not installed\n    kubectl apply -k config/crd\n",
		"✔ server-reachable: "+c.server.URL, "✔ server-certificate: ", "- kubeadm-join: ")
	if strings.Contains(r.out, "\x1b") {
		t.Errorf("a buffer has colors: %q", r.out)
	}
	for format, decode := range map[string]func([]byte, any) error{
		"json": json.Unmarshal, "yaml": func(b []byte, into any) error { return yaml.Unmarshal(b, into) },
	} {
		var printed map[string][]check.Result
		r := c.execute(t, node, "-o", format)
		if err := decode([]byte(r.out), &printed); err != nil || len(printed["checks"]) < 20 {
			t.Errorf("%s is %v, %v", format, printed, err)
		}
		if exitCode(r.err) != 1 {
			t.Errorf("the exit code with %s is %d", format, exitCode(r.err))
		}
	}
	skipped := c.execute(t, "--skip", "crd,operator-running", "--skip", "operator-leading,renewal")
	if skipped.err != nil || strings.Contains(skipped.out, "crd") || strings.Contains(skipped.out, "renewal") {
		t.Errorf("with --skip: %v\n%s", skipped.err, skipped.out)
	}
}

func TestCheckUsage(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"two names":           {[]string{"a", "b"}, "at most one name"},
		"no name":             {[]string{"A_b"}, "not a valid name"},
		"pre with a name":     {[]string{node, "--pre"}, "goes with no name"},
		"ssh without a name":  {[]string{"--ssh", host}, "check NAME --ssh USER@HOST"},
		"sudo without ssh":    {[]string{node, "--sudo"}, "go with --ssh"},
		"an option as a host": {[]string{node, "--ssh", "-oProxyCommand=reboot"}, "begins with -"},
		"unknown check":       {[]string{"--skip", "weather"}, "kubernetes-version"},
		"unknown output":      {[]string{"-o", "wide"}, "write json or yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newChecking(t).execute(t, tc.args...)
			if exitCode(r.err) != exitUsage || r.out != "" {
				t.Fatalf("got %v\n%s", r.err, r.out)
			}
			mention(t, "the error", r.err.Error(), tc.want, "See kubectl nodebootstrap check --help")
		})
	}
}

// The script runs only the checks, has no token, and what it prints are results.
func TestCheckMachine(t *testing.T) {
	for name, tc := range map[string]struct {
		ssh    string
		change func(*v1alpha1.NodeBootstrap)
		want   []string
		script string
	}{
		"in order": {ssh: "script; echo '[done] all checks passed. Nothing was changed.' >&2", script: "nb_check_only='true'",
			want: []string{"✔ machine: all is well\n", "✔ machine: all checks passed. Nothing was changed.\n"}},
		"not in order": {ssh: "script; echo 'error: the clock is wrong. Set it.' >&2; exit 16", script: "nb_check_only='true'",
			want: []string{"✔ machine: all is well\n", ": the clock is wrong\n    Set it.\n"}},
		"not let in": {ssh: "echo 'Permission denied (publickey).' >&2; exit 255", want: []string{"✗ machine: " + host + " let nobody in\n    Check the user"}},
		"a member": {ssh: "script; echo '[done] this machine is the node' >&2; echo NODEBOOTSTRAP-MEMBER", change: hasJoined, script: "nb_only_member='true'",
			want: []string{"✔ machine: this machine is the node\n"}},
		"hostile": {ssh: `script; printf '[check] \033[2Jgone\n' >&2`, want: []string{"✔ machine: �[2Jgone\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(fakeSSH+tc.ssh+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			t.Setenv("DIR", dir)
			t.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
			c := newChecking(t)
			if tc.change != nil {
				tc.change(c.nb)
			}
			r := c.execute(t, node, "--ssh", host)
			mention(t, "the output", r.out, tc.want...)
			script, _ := os.ReadFile(filepath.Join(dir, host, "script"))
			mention(t, "the script", string(script), tc.script)
			if tc.script != "" {
				mention(t, "the script", string(script), "nb_token_kubeconfig=''", "nb_server='"+c.server.URL+"'")
			}
			if strings.Contains(r.out+r.errOut+string(script), canary) {
				t.Error("the token is in the output or the script")
			}
		})
	}
}
