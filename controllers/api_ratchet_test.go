// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// After the rules become stricter, existing NodeBootstraps can still be changed, and their status written, as long as their
// invalid fields do not change. The test removes the rules from a copy of the CustomResourceDefinition and restores them.
func TestStricterRulesKeepExistingObjectsUsable(t *testing.T) {
	strict := crdCopy(t)
	name := strict.GetName()
	lax := strict.DeepCopy()
	withoutRules(lax.Object)
	cluster.Create(t, lax)
	old := &unstructured.Unstructured{}
	old.SetGroupVersionKind(schema.GroupVersionKind{Group: "older.example", Version: "v1alpha1", Kind: "NodeBootstrap"})
	old.SetName(strings.Repeat("n", 200))
	setSpec(t, old, []string{"cluster", "server"}, "https://<LB_IP>:6443")
	setSpec(t, old, []string{"servingCertificate", "addresses"}, []any{"10.0.0.300"})
	env.Eventually(t, "a NodeBootstrap of the old rules", func() error { return cluster.Client.Create(t.Context(), old.DeepCopy()) })
	cluster.Get(t, "", name, lax)
	lax.Object["spec"] = strict.Object["spec"]
	if err := cluster.Client.Update(t.Context(), lax); err != nil {
		t.Fatal(err)
	}
	fresh := old.DeepCopy()
	fresh.SetName("fresh")
	env.Eventually(t, "the new rules", func() error {
		if err := cluster.Client.Create(t.Context(), fresh.DeepCopy(), client.DryRunAll); err == nil {
			return fmt.Errorf("they are not in effect yet")
		}
		return nil
	})
	patch := func(what, content string, status bool) error {
		var err error
		if status {
			err = cluster.Client.Status().Patch(t.Context(), old.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(content)))
		} else {
			err = cluster.Client.Patch(t.Context(), old.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(content)))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	}
	for _, err := range []error{
		patch("an annotation", `{"metadata":{"annotations":{"a":"b"}}}`, false),
		patch("another field", `{"spec":{"token":{"ttl":"1h"}}}`, false),
		patch("the status", `{"status":{"server":"https://a"}}`, true),
		patch("the addresses again", `{"spec":{"servingCertificate":{"addresses":["10.0.0.300"]},"token":{"ttl":"2h"}}}`, false),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if err := patch("another server", `{"spec":{"cluster":{"server":"https://<LB_IP>:6444"}}}`, false); err == nil {
		t.Error("a change to another invalid server is accepted")
	}
	if err := patch("fixed", `{"spec":{"cluster":{"server":"https://api.example.com:6443"},"servingCertificate":{"addresses":["10.0.0.30"]}}}`, false); err != nil {
		t.Error(err)
	}
}

// crdCopy returns the CustomResourceDefinition under another group.
func crdCopy(t *testing.T) *unstructured.Unstructured {
	t.Helper()
	root, err := localcluster.ProjectRoot()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "config", "crd", "bases", "nodebootstrap.io_nodebootstraps.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	crd := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(text, &crd.Object); err != nil {
		t.Fatal(err)
	}
	crd.SetName("nodebootstraps.older.example")
	if err := unstructured.SetNestedField(crd.Object, "older.example", "spec", "group"); err != nil {
		t.Fatal(err)
	}
	if err := unstructured.SetNestedStringSlice(crd.Object, []string{"oldnb"}, "spec", "names", "shortNames"); err != nil {
		t.Fatal(err)
	}
	return crd
}

func withoutRules(o any) {
	switch o := o.(type) {
	case map[string]any:
		delete(o, "x-kubernetes-validations")
		for _, child := range o {
			withoutRules(child)
		}
	case []any:
		for _, child := range o {
			withoutRules(child)
		}
	}
}
