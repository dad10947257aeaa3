// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// countingMapper counts the calls of RESTMapping.
type countingMapper struct {
	*meta.DefaultRESTMapper
	calls int
}

func (m *countingMapper) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	m.calls++
	return m.DefaultRESTMapper.RESTMapping(kind, versions...)
}

func TestMapperRemembersWhatItHasFound(t *testing.T) {
	counting := &countingMapper{DefaultRESTMapper: meta.NewDefaultRESTMapper([]schema.GroupVersion{{Version: "v1"}})}
	m := &rememberingMapper{RESTMapper: counting}
	secret := schema.GroupVersionKind{Version: "v1", Kind: "Secret"}
	for range 2 {
		if _, err := m.RESTMapping(secret.GroupKind(), "v1"); !meta.IsNoMatchError(err) {
			t.Fatalf("a kind that is not installed: %v", err)
		}
	}
	counting.Add(secret, meta.RESTScopeNamespace)
	counting.calls = 0
	for range 3 {
		mapping, err := m.RESTMapping(secret.GroupKind(), "v1")
		if err != nil || mapping.Resource.Resource != "secrets" || mapping.Scope.Name() != meta.RESTScopeNameNamespace {
			t.Fatalf("got %+v, %v", mapping, err)
		}
	}
	if counting.calls != 1 {
		t.Errorf("%d calls for one version of a kind, want 1", counting.calls)
	}
	if _, err := m.RESTMapping(secret.GroupKind(), "v2"); !meta.IsNoMatchError(err) {
		t.Errorf("another version: %v", err)
	}
	for range 2 {
		if mapping, err := m.RESTMapping(secret.GroupKind()); err != nil || mapping.GroupVersionKind != secret {
			t.Errorf("without a version: got %+v, %v", mapping, err)
		}
	}
	if counting.calls != 4 {
		t.Errorf("%d calls; without a version each needs one, since the preferred version may change", counting.calls)
	}
}
