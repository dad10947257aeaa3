// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
)

// namespace is the operator's.
const namespace = "nodebootstrap-system"

// cached is a version as a cache shows it; nil if its selectors exclude the object.
type cached struct {
	object    client.Object
	unchanged runtime.Object // a copy that nothing else can reach
	index     map[string][]string
}

// caching is how the operator configures its cache: the selectors, transforms and indexes that ship.
var caching = func() (c struct {
	options map[string]cache.ByObject
	indexes map[string]map[string]client.IndexerFunc
}) {
	c.options = map[string]cache.ByObject{}
	for o, by := range objects.CacheOptions(namespace).ByObject {
		c.options[kindOf(o)] = by
	}
	c.indexes = map[string]map[string]client.IndexerFunc{}
	if err := objects.AddIndexes(context.Background(), indexer(c.indexes)); err != nil {
		panic(err)
	}
	return c
}()

type indexer map[string]map[string]client.IndexerFunc

func (i indexer) IndexField(_ context.Context, o client.Object, field string, values client.IndexerFunc) error {
	if i[kindOf(o)] == nil {
		i[kindOf(o)] = map[string]client.IndexerFunc{}
	}
	i[kindOf(o)][field] = values
	return nil
}

// cacheConfig is how objects of a kind in a namespace are cached; false if they are not.
func cacheConfig(kind, namespace string) (label labels.Selector, field fields.Selector, transform toolscache.TransformFunc, ok bool) {
	by := caching.options[kind]
	label, field, transform = by.Label, by.Field, by.Transform
	if by.Namespaces == nil {
		return label, field, transform, true
	}
	c, ok := by.Namespaces[namespace]
	if c.LabelSelector != nil {
		label = c.LabelSelector
	}
	if c.FieldSelector != nil {
		field = c.FieldSelector
	}
	if c.Transform != nil {
		transform = c.Transform
	}
	return label, field, transform, ok
}

// shown is a version as a cache shows it.
func shown(v *version) *cached {
	if v.cached != nil {
		return v.cached
	}
	v.cached = &cached{}
	o := v.object
	label, field, transform, ok := cacheConfig(kindOf(o), o.GetNamespace())
	set := fields.Set{metav1.ObjectNameField: o.GetName()}
	if r, ok := o.(*certificatesv1.CertificateSigningRequest); ok {
		set["spec.signerName"] = r.Spec.SignerName
	}
	if s, ok := o.(*corev1.Secret); ok {
		set["type"] = string(s.Type)
	}
	if !ok || label != nil && !label.Matches(labels.Set(o.GetLabels())) || field != nil && !field.Matches(set) {
		return v.cached
	}
	o = o.DeepCopyObject().(client.Object)
	if transform != nil {
		changed, err := transform(o)
		if err != nil {
			panic(err)
		}
		o = changed.(client.Object)
	}
	v.cached.object, v.cached.unchanged = o, o.DeepCopyObject()
	v.cached.index = map[string][]string{}
	for name, values := range caching.indexes[kindOf(o)] {
		v.cached.index[name] = values(o)
	}
	return v.cached
}

// hand returns an object from a cache without a copy, as the operator's cache is configured.
func hand(into, from client.Object) {
	reflect.ValueOf(into).Elem().Set(reflect.ValueOf(from).Elem())
}

// checkCaches finds objects in the cache that the operator has modified.
func (w *world) checkCaches() {
	for k, versions := range w.versions {
		for _, v := range versions {
			if c := v.cached; c != nil && c.object != nil && !reflect.DeepEqual(c.object, c.unchanged) {
				w.violated(fmt.Sprintf("the cache is only read: %s at revision %d was\n%s\nand is\n%s", k, v.revision, asJSON(c.unchanged), asJSON(c.object)))
			}
		}
	}
}

// selector is the selector of a list.
type selector struct{ kind, namespace, field, value string }

func newSelector(list client.ObjectList, opts []client.ListOption) selector {
	var o client.ListOptions
	o.ApplyOptions(opts)
	s := selector{kind: kindOf(list), namespace: o.Namespace}
	if o.LabelSelector != nil {
		panic("lists by label are not known here")
	}
	if o.FieldSelector != nil {
		all := o.FieldSelector.Requirements()
		if len(all) != 1 || caching.indexes[s.kind][all[0].Field] == nil {
			panic(fmt.Sprintf("there is no index for %s", o.FieldSelector))
		}
		s.field, s.value = all[0].Field, all[0].Value
	}
	return s
}

func (s selector) String() string {
	out := s.kind
	if s.namespace != "" {
		out += " " + s.namespace
	}
	if s.field != "" {
		out += " " + s.field + "=" + s.value
	}
	return out
}

func (s selector) matches(v *version) bool {
	if v == nil || v.object == nil || s.namespace != "" && v.object.GetNamespace() != s.namespace {
		return false
	}
	c := shown(v)
	return c.object != nil && (s.field == "" || slices.Contains(c.index[s.field], s.value))
}

// list is the answer of a cache at a revision.
func (s *store) list(sel selector, revision int) []client.Object {
	var out []client.Object
	for _, k := range s.kinds[sel.kind] {
		if v := s.at(k, revision); sel.matches(v) {
			out = append(out, shown(v).object)
		}
	}
	if s.reversed { // a cache has no order
		slices.Reverse(out)
	}
	return out
}

// before is the revision before the last change that affects the answer to a get or a list, and the time of that change;
// zero if there was none.
func (s *store) before(revision int, keys []key, concerned func(*version) bool) (int, time.Time) {
	found, at := 0, time.Time{}
	for _, k := range keys {
		versions := s.versions[k]
		for i := len(versions) - 1; i >= 0; i-- {
			v := versions[i]
			if v.revision <= found {
				break
			}
			if v.revision <= revision && (concerned(v) || i > 0 && concerned(versions[i-1])) {
				found, at = v.revision, v.at
				break
			}
		}
	}
	return found - 1, at
}
