// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// The shipped RBAC is sufficient, since every test here and in test/e2e runs under it. This test checks that it grants nothing
// more.
func TestRBACIsNoMoreThanNeeded(t *testing.T) {
	content, err := os.ReadFile("../config/rbac/role.yaml")
	if err != nil {
		t.Fatal(err)
	}
	secretNamespaces := []string{}
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		var role rbacv1.Role // a ClusterRole has the same fields and no namespace
		if err := documents.Decode(&role); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, rule := range role.Rules {
			where := role.Kind + " " + role.Namespace
			for _, broad := range []string{"*", "escalate", "impersonate"} {
				if slices.Contains(slices.Concat(rule.Verbs, rule.Resources, rule.APIGroups), broad) {
					t.Errorf("%s has %q: %+v", where, broad, rule)
				}
			}
			for _, powerful := range []string{"bind", "approve"} {
				if slices.Contains(rule.Verbs, powerful) && len(rule.ResourceNames) == 0 {
					t.Errorf("%s may %s anything: %+v", where, powerful, rule)
				}
			}
			if slices.Contains(rule.Resources, "secrets") {
				secretNamespaces = append(secretNamespaces, role.Namespace)
			}
		}
	}
	if want := []string{"kube-system", "nodebootstrap-system"}; !slices.Equal(slices.Sorted(slices.Values(secretNamespaces)), want) {
		t.Errorf("Secrets may be used in %q, want %q", secretNamespaces, want)
	}
}
