// SPDX-License-Identifier: Apache-2.0

// Package rendered renders config/ with kustomize and charts/ with Helm, and returns the objects.
package rendered

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/nodebootstrap/nodebootstrap/hack/project"
)

// namespace is where config/ puts the operator.
const namespace = "nodebootstrap-system"

// Objects are by kind, namespace and name.
type Objects map[string]*unstructured.Unstructured

// Key identifies an object.
func Key(kind, namespace, name string) string { return kind + " " + namespace + "/" + name }

// Kustomize renders a directory below config.
func Kustomize(ctx context.Context, dir string) (Objects, error) {
	return render(ctx, "kustomize", "build", filepath.Join("config", dir))
}

// Helm renders the chart for the namespace of config/, with additional arguments of helm template.
func Helm(ctx context.Context, args ...string) (Objects, error) {
	return render(ctx, append([]string{"helm", "template", "nodebootstrap", "charts/nodebootstrap", "--namespace", namespace}, args...)...)
}

// render runs one of the tools that are pinned in hack/tools.
func render(ctx context.Context, tool ...string) (Objects, error) {
	root, err := project.Root()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"tool", "-modfile=hack/tools/go.mod"}, tool...)...)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%v: %w: %s", tool, err, stderr.Bytes())
	}
	return decode(out)
}

func decode(content []byte) (Objects, error) {
	objects := Objects{}
	for documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096); ; {
		o := &unstructured.Unstructured{}
		switch err := documents.Decode(&o.Object); {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, err
		case len(o.Object) == 0: // only a comment
			continue
		}
		key := Key(o.GetKind(), o.GetNamespace(), o.GetName())
		if objects[key] != nil {
			return nil, fmt.Errorf("%s exists twice", key)
		}
		objects[key] = o
	}
}
