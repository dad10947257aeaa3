// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/userdata"
)

var renderedAt = regexp.MustCompile(`(?m)^nb_rendered='\d+'$`)

// undated returns a script without the time at which it was rendered.
func undated(t *testing.T, script string) string {
	t.Helper()
	if !renderedAt.MatchString(script) {
		t.Fatalf("no time of rendering in\n%s", script)
	}
	return renderedAt.ReplaceAllString(script, "")
}

// scriptIn returns the script in the output of a format.
func scriptIn(t *testing.T, format, out string) string {
	t.Helper()
	if format == formatScript {
		return out
	}
	var config struct {
		WriteFiles []struct{ Content string } `json:"write_files"`
		Storage    struct {
			Files []struct{ Contents struct{ Source string } }
		}
	}
	if err := yaml.Unmarshal([]byte(out), &config); err != nil { // JSON is YAML
		t.Fatal(err)
	}
	packed := ""
	if format == formatCloudInit {
		packed = config.WriteFiles[0].Content
	} else {
		packed = strings.TrimPrefix(config.Storage.Files[0].Contents.Source, "data:;base64,")
	}
	r, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(packed)))
	if err != nil {
		t.Fatal(err)
	}
	script, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(script)
}

// Each format has the same script, with the published kubeconfig in it.
func TestUserdata(t *testing.T) {
	published := renderedSecret(t)
	cl := cluster{objects: []client.Object{awaiting(), published}}
	script := cl.succeeds(t, "userdata", node).out
	mention(t, "the script", script, "#!/bin/sh\n", string(published.Data[kubeconfig.Key]), "nb_node='worker-1'\n",
		"nb_server='https://api.example.com:6443'\n", "nb_kubeconfig='/etc/kubernetes/kubelet.conf'\n",
		fmt.Sprintf("nb_expires='%d'\n", start.Add(24*time.Hour).Unix()))
	for format, first := range map[string]string{formatScript: "#!/bin/sh\n", formatCloudInit: "#cloud-config\n", formatIgnition: "{\n"} {
		t.Run(format, func(t *testing.T) {
			r := cl.succeeds(t, "userdata", node, "--format", format)
			if !strings.HasPrefix(r.out, first) || undated(t, scriptIn(t, format, r.out)) != undated(t, script) {
				t.Errorf("got\n%s", r.out)
			}
			if isWrapped := strings.Contains(r.out, userdata.Unit); isWrapped != (format != formatScript) {
				t.Errorf("it has the unit: %t", isWrapped)
			}
			mention(t, "the error output", r.errOut, "bootstrap token abcdef", "join as worker-1", "expired, at 2126-11-02T12:00:00Z (in 99y)",
				"spec.token.ttl", "--recipient")
			if strings.Contains(r.errOut, "joinDeadline") || strings.Contains(r.errOut, "bytes") || strings.Contains(r.errOut, "Manual") {
				t.Errorf("it warns of too much:\n%s", r.errOut)
			}
		})
	}
}

func TestUserdataWithFlags(t *testing.T) {
	configuration := filepath.Join(t.TempDir(), "kubelet.yaml")
	if err := os.WriteFile(configuration, []byte("kind: KubeletConfiguration\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := cluster{objects: []client.Object{awaiting(), renderedSecret(t)}}.succeeds(t, "userdata", node, "--with", "kubelet", "--unit", "kubelet-2",
		"--runtime-socket", "/run/crio/crio.sock", "--kubeconfig-path", "/var/lib/kubelet/kubeconfig", "--kubelet-config", configuration)
	mention(t, "the script", r.out, "nb_method='kubelet'\n", "nb_unit='kubelet-2'\n", "nb_runtime='/run/crio/crio.sock'\n",
		"nb_kubeconfig='/var/lib/kubelet/kubeconfig'\n", "nb_kubelet_configuration='kind: KubeletConfiguration\n'\n")
}

func TestUserdataWarnings(t *testing.T) {
	incompressible := make([]byte, 12<<10)
	if _, err := rand.Read(incompressible); err != nil {
		t.Fatal(err)
	}
	large := renderedSecret(t)
	large.Data[kubeconfig.Key] = bytes.Replace(large.Data[kubeconfig.Key], []byte("apiVersion: v1\n"), fmt.Appendf(nil, "apiVersion: v1\n# %x\n", incompressible), 1)
	for name, tc := range map[string]struct {
		change func(*v1alpha1.NodeBootstrap)
		secret *corev1.Secret
		format string
		want   []string
	}{
		"deadline": {
			func(nb *v1alpha1.NodeBootstrap) {
				nb.Spec.Token.JoinDeadline = &metav1.Duration{Duration: 72 * time.Hour}
			}, renderedSecret(t), formatScript,
			[]string{"renews the token until 2126-11-04T12:00:00Z", "spec.token.joinDeadline", "request a reissue"},
		},
		"ClusterWide": {approves(v1alpha1.ApprovalClusterWide), renderedSecret(t), formatScript, []string{"can join as any node, because of approval ClusterWide"}},
		"Manual":      {approves(v1alpha1.ApprovalManual), renderedSecret(t), formatScript, []string{"Manual", "waits 14 minutes", "kubectl nodebootstrap status worker-1"}},
		"expired": {
			func(nb *v1alpha1.NodeBootstrap) {
				nb.Status.Token.ExpirationTime = metav1.NewTime(time.Now().Add(-time.Hour))
			}, renderedSecret(t), formatScript,
			[]string{"token abcdef expired", "60m ago"},
		},
		"large": {func(*v1alpha1.NodeBootstrap) {}, large, formatCloudInit, []string{"bytes", "EC2, accept at most 16384"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := cluster{objects: []client.Object{awaiting(tc.change), tc.secret}}.succeeds(t, "userdata", node, "--format", tc.format)
			mention(t, "the error output", r.errOut, tc.want...)
		})
	}
}

func approves(a v1alpha1.Approval) func(*v1alpha1.NodeBootstrap) {
	return func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = a }
}

// With approval Manual the machine waits for a person.
func TestUserdataLimit(t *testing.T) {
	for approval, want := range map[v1alpha1.Approval]string{v1alpha1.ApprovalNode: "nb_limit='120'\n", v1alpha1.ApprovalManual: "nb_limit='840'\n"} {
		r := cluster{objects: []client.Object{awaiting(approves(approval)), renderedSecret(t)}}.succeeds(t, "userdata", node)
		mention(t, "the script", r.out, want)
	}
}

func TestUserdataThatDoesNotExist(t *testing.T) {
	path := filepath.Join(t.TempDir(), "user-data")
	for name, tc := range map[string]struct {
		cluster cluster
		want    []string
	}{
		"pinned": {
			cluster{objects: []client.Object{awaiting(pins("SHA256:0f")), renderedSecret(t)}},
			[]string{"pins the key SHA256:0f", "is denied", "kubectl nodebootstrap join worker-1 --ssh", "docs/pinned-keys.md"},
		},
		"pinned, and not ready": {cluster{objects: []client.Object{awaiting(isNew, pins("SHA256:0f"))}}, []string{"pins the key"}},
		"joined":                {cluster{objects: []client.Object{awaiting(hasJoined)}}, []string{"has already joined", "reissue"}},
		"reconciling":           {cluster{objects: []client.Object{awaiting(isReconciling)}}, []string{"not ready", "--wait 1m"}},
		"misused":               {cluster{objects: []client.Object{awaiting(isMisused), renderedSecret(t)}}, []string{"was misused"}},
		"no token": {
			cluster{objects: []client.Object{awaiting(func(nb *v1alpha1.NodeBootstrap) { nb.Status.Token = nil }), renderedSecret(t)}},
			[]string{"names no token"},
		},
		"renewed meanwhile": {
			cluster{objects: []client.Object{awaiting(func(nb *v1alpha1.NodeBootstrap) { nb.Status.Token.ID = "abcde" }), renderedSecret(t)}},
			[]string{"was renewed", "again"},
		},
		"not a kubeconfig": {cluster{objects: []client.Object{awaiting(), publishedSecret()}}, []string{"is not valid", "try again"}},
		"Secret deleted":   {cluster{objects: []client.Object{awaiting()}}, []string{"does not exist", "try again"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := tc.cluster.execute(t, "userdata", node, "--output-file", path)
			if r.err == nil || r.out != "" {
				t.Fatalf("got %q and the error %v", r.out, r.err)
			}
			mention(t, "the error", r.err.Error(), tc.want...)
			wantFiles(t, filepath.Dir(path))
		})
	}
	t.Run("a method that does not exist", func(t *testing.T) {
		r := cluster{objects: []client.Object{awaiting(), renderedSecret(t)}}.execute(t, "userdata", node, "--with", "magic")
		if r.err == nil || r.out != "" {
			t.Fatalf("got %q and the error %v", r.out, r.err)
		}
		mention(t, "the error", r.err.Error(), "kubelet or kubeadm", `"magic"`)
	})
}

func TestUserdataWait(t *testing.T) {
	w := waiting{
		cluster: cluster{objects: []client.Object{awaiting(isNew), renderedSecret(t)}},
		onWatch: func(ctx context.Context, c client.WithWatch, _ int) error { return put(ctx, c, awaiting()) },
		limit:   "1m", command: "userdata",
	}
	if r := w.execute(t); r.err != nil || !strings.HasPrefix(r.out, "#!/bin/sh\n") {
		t.Errorf("got %q and the error %v", r.out, r.err)
	}
	w.onWatch = func(ctx context.Context, c client.WithWatch, _ int) error { // a key is pinned while it waits
		return c.Patch(ctx, awaiting(), client.RawPatch(types.MergePatchType, []byte(`{"spec":{"clientCertificate":{"keyFingerprint":"SHA256:0f"}}}`)))
	}
	r := w.execute(t)
	if r.err == nil || r.out != "" {
		t.Fatalf("got %q and the error %v", r.out, r.err)
	}
	mention(t, "the error", r.err.Error(), "pins the key")
}

func TestUserdataToFile(t *testing.T) {
	cl := cluster{objects: []client.Object{awaiting(), renderedSecret(t)}}
	path := filepath.Join(t.TempDir(), "user-data")
	r := cl.succeeds(t, "userdata", node, "--output-file", path, "--format", formatCloudInit)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, path, string(content))
	mention(t, "the script", scriptIn(t, formatCloudInit, string(content)), canary)
	mention(t, "the error output", r.errOut, "Wrote "+path+": give it to the machine that joins as worker-1")
	if r := cl.execute(t, "userdata", node, "--output-file", path); r.err == nil || !strings.Contains(r.err.Error(), "already exists") {
		t.Errorf("it replaces the file: %v", r.err)
	}

	pair := keyPairs(t)["ssh-ed25519"]
	r = cl.succeeds(t, "userdata", node, "--output-file", path, "--overwrite", "--recipient", pair.recipient)
	if content, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	if undated(t, decrypt(t, string(content), pair.identity)) != undated(t, cl.succeeds(t, "userdata", node).out) {
		t.Error("the decrypted file is not the plain output")
	}
	mention(t, "the error output", r.errOut, "bootstrap token abcdef", "age -d -i KEY "+path)
}
