// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

// rememberingMapper remembers the resource of each kind. A cache of several namespaces needs it for each read, and without
// this controller-runtime's mapper searches all kinds of the API server each time: docs/performance.md has the figures.
type rememberingMapper struct {
	meta.RESTMapper
	found sync.Map // *meta.RESTMapping by schema.GroupVersionKind
}

func newMapper(cfg *rest.Config, c *http.Client) (meta.RESTMapper, error) {
	dynamic, err := apiutil.NewDynamicRESTMapper(cfg, c)
	return &rememberingMapper{RESTMapper: dynamic}, err
}

// RESTMapping implements meta.RESTMapper. It does not remember failures: the CustomResourceDefinition may be installed later.
func (m *rememberingMapper) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	if len(versions) != 1 { // the preferred version may change
		return m.RESTMapper.RESTMapping(kind, versions...)
	}
	key := kind.WithVersion(versions[0])
	if found, ok := m.found.Load(key); ok {
		return found.(*meta.RESTMapping), nil
	}
	mapping, err := m.RESTMapper.RESTMapping(kind, versions...)
	if err == nil {
		m.found.Store(key, mapping)
	}
	return mapping, err
}
