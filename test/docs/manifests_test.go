// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/test/env"
	"github.com/nodebootstrap/nodebootstrap/test/rendered"
)

// crds are CustomResourceDefinitions of other projects that our manifests use: files of Go modules, which are pinned by their
// checksums.
var crds = []struct {
	module, sum string
	files       []string
}{
	{"github.com/fluxcd/kustomize-controller@v1.9.6", "h1:XB+G3A0mky0j5uVHZWv4oSlS2RvZBoNIUhstIvY0JKE=",
		[]string{"config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml"}},
	{"github.com/fluxcd/source-controller@v1.9.6", "h1:nG534/bI6nVpyHra7ONAk6xDB3xPsVT+EOLHZHXPrrc=",
		[]string{"config/crd/bases/source.toolkit.fluxcd.io_gitrepositories.yaml"}},
	{"github.com/prometheus-operator/prometheus-operator@v0.85.0", "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
		[]string{"example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml", "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"}},
}

// notInTheCluster are kinds that no API server serves, or for whose definition a test would download fifty megabytes.
var notInTheCluster = []string{"audit.k8s.io", "kubeadm.k8s.io", "kubelet.config.k8s.io", "kustomize.config.k8s.io", "argoproj.io"}

// The API server accepts every manifest in the documents, in examples/ and in config/, with strict field validation.
func TestManifestsAreTaken(t *testing.T) {
	t.Parallel()
	p := newPlayground(t)
	p.operatorIsDead = true // nothing here needs it
	for _, c := range crds {
		dir := download(t, c.module, c.sum)
		for _, file := range c.files {
			p.run(t, "kubectl create -f "+filepath.Join(dir, filepath.FromSlash(file)))
		}
	}
	p.run(t, installed+"kubectl create namespace flux-system\nkubectl create namespace argocd\n")
	c, err := client.New(p.AdminConfig(), client.Options{})
	env.Must(t, err)
	strict := client.WithFieldValidation(client.NewDryRunClient(c), metav1.FieldValidationStrict)
	take := func(where string, o *unstructured.Unstructured) {
		group, _, _ := strings.Cut(o.GetAPIVersion(), "/")
		if slices.Contains(notInTheCluster, group) {
			return
		}
		env.Eventually(t, where, func() error {
			err := strict.Create(t.Context(), o.DeepCopy())
			switch {
			case meta.IsNoMatchError(err): // a new kind may be served a moment later
				return err
			case err != nil && !apierrors.IsAlreadyExists(err):
				t.Errorf("%s: %s %s: %v", where, o.GetKind(), o.GetName(), err)
			}
			return nil
		})
	}
	for where, content := range manifests(t) {
		for _, o := range decode(t, where, content) {
			take(where, o)
		}
	}
	monitored, err := rendered.Kustomize(t.Context(), "overlays/monitored")
	env.Must(t, err)
	for key, o := range monitored {
		take(key, o)
	}
}

// manifests are those of the documents and of examples, by their place.
func manifests(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	documents, err := Documents()
	env.Must(t, err)
	for _, name := range documents {
		blocks, err := Blocks(name)
		env.Must(t, err)
		for _, b := range blocks {
			if b.Language == "yaml" && b.Who != fragment {
				found[name+", "+b.Heading] += "---\n" + b.Text
			}
		}
	}
	root, err := localcluster.ProjectRoot()
	env.Must(t, err)
	files, err := filepath.Glob(filepath.Join(root, "examples", "*", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no examples (%v)", err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		env.Must(t, err)
		found[file] = string(content)
	}
	return found
}

func decode(t *testing.T, where, content string) []*unstructured.Unstructured {
	t.Helper()
	var objects []*unstructured.Unstructured
	for documents := yaml.NewYAMLOrJSONDecoder(strings.NewReader(content), 4096); ; {
		o := &unstructured.Unstructured{}
		switch err := documents.Decode(&o.Object); {
		case errors.Is(err, io.EOF):
			return objects
		case err != nil:
			t.Fatalf("%s: %v", where, err)
		case len(o.Object) == 0:
		case o.GetKind() == "" || o.GetAPIVersion() == "":
			t.Errorf("%s: not an object, and not marked as a fragment", where)
		default:
			objects = append(objects, o)
		}
	}
}

// download returns the directory of a module, if its checksum is the pinned one.
func download(t *testing.T, module, sum string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", module)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var m struct{ Dir, Sum, Error string }
	if err := errors.Join(err, json.Unmarshal(out, &m)); err != nil || m.Error != "" {
		t.Fatalf("%s: %v %s%s", module, err, m.Error, stderr.Bytes())
	}
	if m.Sum != sum {
		t.Fatalf("%s has the sum %s, want %s", module, m.Sum, sum)
	}
	return m.Dir
}
