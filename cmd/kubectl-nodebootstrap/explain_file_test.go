// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/yaml"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/test/adversarial"
)

// fileOf writes objects as YAML documents.
func fileOf(t *testing.T, objects ...any) string {
	t.Helper()
	var content bytes.Buffer
	for _, o := range objects {
		document, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&content, "---\n%s", document)
	}
	path := filepath.Join(t.TempDir(), "request.yaml")
	if err := os.WriteFile(path, content.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func withKind(r *certificatesv1.CertificateSigningRequest) *certificatesv1.CertificateSigningRequest {
	r = r.DeepCopy()
	r.Kind, r.APIVersion = "CertificateSigningRequest", certificatesv1.SchemeGroupVersion.String()
	return r
}

// Without a cluster, the same code decides on what the file has, and what it does not have is marked.
func TestExplainFile(t *testing.T) {
	x, key := newExplained(), newKey(t)
	nb := x.nb.DeepCopy()
	nb.Kind, nb.APIVersion = "NodeBootstrap", v1alpha1.GroupVersion.String()
	bare := nb.DeepCopy()
	bare.Status, bare.UID = v1alpha1.NodeBootstrapStatus{}, ""
	pinned := nb.DeepCopy()
	pinned.Spec.ClientCertificate.KeyFingerprint = "SHA256:" + strings.Repeat("0", 64)
	good, other := withKind(x.clientRequest(key)), withKind(x.requestOf(adversarial.GoodClient("worker-2", x.tokenID, key)))
	unsent := withKind(x.clientRequest(key))
	unsent.Spec.Username, unsent.Spec.Groups, unsent.UID, unsent.CreationTimestamp = "", nil, "", metav1.Time{}
	renewal := withKind(x.requestOf(adversarial.GoodClient(node, x.tokenID, key)))
	renewal.Spec.Username, renewal.Spec.Groups = "system:node:"+node, []string{"system:nodes", "system:authenticated"}
	list := map[string]any{"apiVersion": "v1", "kind": "List", "items": []any{good}}
	for name, tc := range map[string]struct {
		objects []any
		want    []string
	}{
		"only the CSR":               {[]any{good}, []string{"! hasTokensSubject", "! hasPinnedKey", "the file does not have it", "✔ isSigned", "unless what is not known here"}},
		"a List of one":              {[]any{list}, []string{"! hasTokensSubject", "✔ isSigned"}},
		"with its NodeBootstrap":     {[]any{good, nb}, []string{"✔ sentWithToken", "✔ hasTokensSubject", "✔ hasPinnedKey", "! hasKeyOfNoOtherNode"}},
		"for another node":           {[]any{other, nb}, []string{"✗ hasTokensSubject", "the operator denies it: WrongSubject"}},
		"for another key":            {[]any{good, pinned}, []string{"✗ hasPinnedKey", "the operator denies it: KeyNotPinned"}},
		"a NodeBootstrap from Git":   {[]any{other, bare}, []string{"! sentWithToken", "✗ hasTokensSubject", "the operator denies it: WrongSubject"}},
		"not sent yet":               {[]any{unsent}, []string{"nobody yet", "! sentWithToken", "✔ asksForNothingElse"}},
		"not sent yet, for a node":   {[]any{unsent, nb}, []string{"! hasNoOtherIdentity", "✔ hasTokensSubject"}},
		"another node's":             {[]any{renewal}, []string{"renews its client certificate"}},
		"a serving certificate":      {[]any{withKind(x.servingRequest(key))}, []string{"! addressesAreDeclared", "! namesNothingReserved", "✔ namesAnAddress"}},
		"and its NodeBootstrap":      {[]any{withKind(x.servingRequest(key)), nb}, []string{"✔ addressesAreDeclared", "✔ namesWhatIsDeclared"}},
		"with an empty document too": {[]any{nil, good}, []string{"✔ isSigned"}},
	} {
		t.Run(name, func(t *testing.T) {
			never := cluster{err: errors.New("connected for a file")}
			mention(t, "the explanation", never.succeeds(t, "explain", "-f", fileOf(t, tc.objects...)).out, tc.want...)
		})
	}
	t.Run("stdin", func(t *testing.T) {
		content, err := os.ReadFile(fileOf(t, good, nb))
		if err != nil {
			t.Fatal(err)
		}
		streams, in, out, _ := genericiooptions.NewTestIOStreams()
		in.Write(content)
		cmd := newCommand(streams, nil, nil)
		cmd.SetArgs([]string{"explain", "--filename", "-"})
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		mention(t, "the explanation", out.String(), "✔ hasTokensSubject")
	})
	if e := explanationOf(t, cluster{}, "certificatesigningrequest.certificates.k8s.io/"+request, "-f", fileOf(t, good)); e.Name != request {
		t.Errorf("explains %s", e.Name)
	}
	two := good.DeepCopy()
	two.Name, two.UID = "csr-2", "uid-2"
	if e := explanationOf(t, cluster{}, "csr-2", "-f", fileOf(t, good, two)); e.Name != "csr-2" {
		t.Errorf("explains %s", e.Name)
	}
	old := withKind(good)
	old.APIVersion = "certificates.k8s.io/v1beta1"
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no file":       {[]string{"-f", filepath.Join(t.TempDir(), "none")}, "no such file"},
		"several":       {[]string{"-f", fileOf(t, good, two)}, "2 CertificateSigningRequests found"},
		"another name":  {[]string{"csr-3", "-f", fileOf(t, good)}, "no CertificateSigningRequest has the name csr-3"},
		"no CSR":        {[]string{"-f", fileOf(t, nb)}, "kubectl get csr NAME -o yaml"},
		"an old API":    {[]string{"-f", fileOf(t, old)}, "write certificates.k8s.io/v1"},
		"no object":     {[]string{"-f", fileOf(t, "text")}, "not a Kubernetes object"},
		"a PEM file":    {[]string{"-f", pemFile(t, key)}, "kubectl nodebootstrap sign"},
		"neither":       {nil, "--filename"},
		"two names":     {[]string{"a", "b"}, "2 were given"},
		"wrong format":  {[]string{request, "-o", "xml"}, "json or yaml"},
		"deleted, none": {[]string{request}, "does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			r := cluster{}.execute(t, append([]string{"explain"}, tc.args...)...)
			if r.err == nil || !strings.Contains(r.err.Error(), tc.want) || r.out != "" {
				t.Errorf("got %v and %q, want %q", r.err, r.out, tc.want)
			}
		})
	}
}

func pemFile(t *testing.T, key crypto.Signer) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node.csr")
	if err := os.WriteFile(path, requestPEM(t, key, node), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
