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

// newMapper is controller-runtime's mapper, asked once for each kind.
func newMapper(cfg *rest.Config, c *http.Client) (meta.RESTMapper, error) {
	dynamic, err := apiutil.NewDynamicRESTMapper(cfg, c)
	return &rememberingMapper{RESTMapper: dynamic}, err
}

// rememberingMapper remembers the resource of a kind. A cache of several namespaces asks for it with each read, and the mapper
// that it remembers for goes through all that the API server has. What it did not find it looks for again: the
// CustomResourceDefinition may be installed later.
type rememberingMapper struct {
	meta.RESTMapper
	found sync.Map // *meta.RESTMapping by schema.GroupVersionKind
}

// RESTMapping is of meta.RESTMapper.
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
