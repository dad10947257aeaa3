// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// The fake client of controller-runtime is not used: a write to it takes a millisecond, and it drops past versions,
// which a stale cache must show.

// key names an object.
type key struct{ kind, namespace, name string }

func (k key) String() string {
	if k.namespace == "" {
		return k.kind + " " + k.name
	}
	return k.kind + " " + k.namespace + "/" + k.name
}

func keyOf(o client.Object) key {
	return key{kindOf(o), o.GetNamespace(), o.GetName()}
}

// kindOf is the kind of an object, or of the items of a list.
func kindOf(o any) string {
	if m, ok := o.(*metav1.PartialObjectMetadata); ok {
		return m.Kind
	}
	return strings.TrimSuffix(reflect.TypeOf(o).Elem().Name(), "List")
}

// The authors of changes. All others are part of the cluster.
const (
	operatorAuthor = "operator"
	userAuthor     = "user"
)

// A version is an object as it was stored once. It is immutable.
type version struct {
	revision int
	at       time.Time
	author   string
	object   client.Object // nil: deleted
	cached   *cached       // what a cache shows of it, once it was read
}

// store is the storage of an API server, with all past versions.
type store struct {
	revision int
	versions map[key][]*version
	kinds    map[string][]key // sorted
	created  map[key]int
	now      func() time.Time
	changed  func(k key, old, new *version)
	reversed bool // caches list backwards
	// admits changes what the operator writes, and reports whether it does; nil if nothing does.
	admits func(sent, have client.Object) bool
}

func newStore(now func() time.Time) *store {
	return &store{versions: map[key][]*version{}, kinds: map[string][]key{}, created: map[key]int{}, now: now}
}

// admitted lets admission change what the operator writes, and reports whether it does.
func (s *store) admitted(author string, sent, have client.Object) bool {
	return author == operatorAuthor && s.admits != nil && s.admits(sent, have)
}

// at is the version of an object at a revision; nil if it did not exist.
func (s *store) at(k key, revision int) *version {
	all := s.versions[k]
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].revision <= revision {
			if all[i].object == nil {
				return nil
			}
			return all[i]
		}
	}
	return nil
}

// since are the versions of an object after a revision.
func (s *store) since(k key, revision int) []*version {
	all := s.versions[k]
	i := slices.IndexFunc(all, func(v *version) bool { return v.revision > revision })
	if i < 0 {
		return nil
	}
	return all[i:]
}

func (s *store) latest(k key) *version { return s.at(k, s.revision) }

// get is an object as it is stored; the zero value if it does not exist. Callers must not change it.
func get[T client.Object](s *store, namespace, name string) T {
	var zero T
	v := s.latest(key{kindOf(reflect.New(reflect.TypeFor[T]().Elem()).Interface()), namespace, name})
	if v == nil {
		return zero
	}
	return v.object.(T)
}

// all are the objects of a kind, by namespace and name. Callers must not change them.
func all[T client.Object](s *store) []T {
	var out []T
	for _, k := range s.kinds[reflect.TypeFor[T]().Elem().Name()] {
		if v := s.latest(k); v != nil {
			out = append(out, v.object.(T))
		}
	}
	return out
}

// put stores a version. The object belongs to the store from then on; nil deletes.
func (s *store) put(author string, k key, o client.Object) {
	old := s.latest(k)
	s.revision++
	if o != nil {
		o.SetResourceVersion(strconv.Itoa(s.revision))
	}
	v := &version{revision: s.revision, at: s.now(), author: author, object: o}
	if _, known := s.versions[k]; !known {
		at, _ := slices.BinarySearchFunc(s.kinds[k.kind], k, func(a, b key) int { return strings.Compare(a.String(), b.String()) })
		s.kinds[k.kind] = slices.Insert(s.kinds[k.kind], at, k)
	}
	s.versions[k] = append(s.versions[k], v)
	s.changed(k, old, v)
}

// overTheWire is an object after serialization: times in whole seconds, empty maps as nil.
func overTheWire(o client.Object) client.Object {
	data, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	out := reflect.New(reflect.TypeOf(o).Elem()).Interface().(client.Object)
	if err := json.Unmarshal(data, out); err != nil {
		panic(err)
	}
	if _, typed := out.(*metav1.PartialObjectMetadata); !typed {
		out.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	return out
}

// assign copies from into into.
func assign(into, from client.Object) {
	reflect.ValueOf(into).Elem().Set(reflect.ValueOf(from.DeepCopyObject()).Elem())
}

func resource(k key) schema.GroupResource { return schema.GroupResource{Resource: k.kind} }

// uidOf depends only on the name and on how often an object of the name was created, so that it is the same in a run with faults.
func uidOf(k key, n int) types.UID {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s#%d", k, n))
	return types.UID(hex.EncodeToString(sum[:8]))
}

// create stores a new object and sets the fields that an API server sets.
func (s *store) create(author string, o client.Object) error {
	k := keyOf(o)
	switch {
	case s.latest(k) != nil:
		return apierrors.NewAlreadyExists(resource(k), k.name)
	case o.GetResourceVersion() != "":
		return apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	created := overTheWire(o)
	if s.created[k]++; s.admitted(author, created, nil) { // it is created again with the same UID, as in the undisturbed run
		defer func() { s.created[k]-- }()
	}
	created.SetUID(uidOf(k, s.created[k]))
	created.SetCreationTimestamp(metav1.NewTime(s.now().Truncate(time.Second)))
	created.SetGeneration(1)
	if r, ok := created.(*certificatesv1.CertificateSigningRequest); ok {
		r.Status = certificatesv1.CertificateSigningRequestStatus{}
	}
	s.put(author, k, created)
	assign(o, created)
	return nil
}

// current is the stored object for an update, if it exists and there is no conflict.
func (s *store) current(o client.Object) (client.Object, error) {
	k := keyOf(o)
	v := s.latest(k)
	switch rv := o.GetResourceVersion(); {
	case v == nil:
		return nil, apierrors.NewNotFound(resource(k), k.name)
	case o.GetUID() != "" && o.GetUID() != v.object.GetUID():
		return nil, apierrors.NewConflict(resource(k), k.name, fmt.Errorf("the UID in the precondition is not that of the object"))
	case rv != "" && rv != v.object.GetResourceVersion():
		return nil, apierrors.NewConflict(resource(k), k.name, fmt.Errorf("the object has been modified"))
	}
	return v.object, nil
}

// update stores all of an object except its subresources.
func (s *store) update(author string, o client.Object) error {
	have, err := s.current(o)
	if err != nil {
		return err
	}
	want := overTheWire(o)
	s.admitted(author, want, have)
	if err := immutable(have, want); err != nil {
		return err
	}
	want.SetUID(have.GetUID())
	want.SetCreationTimestamp(have.GetCreationTimestamp())
	want.SetGeneration(have.GetGeneration())
	switch w := want.(type) {
	case *v1alpha1.NodeBootstrap:
		h := have.(*v1alpha1.NodeBootstrap)
		w.Status = *h.Status.DeepCopy()
		if !reflect.DeepEqual(w.Spec, h.Spec) {
			w.Generation++
		}
	case *certificatesv1.CertificateSigningRequest:
		h := have.(*certificatesv1.CertificateSigningRequest).DeepCopy()
		w.Spec, w.Status = h.Spec, h.Status
	}
	return s.keep(author, o, have, want)
}

// keep stores an update; one that changes nothing is no version, as with an API server.
func (s *store) keep(author string, o, have, want client.Object) error {
	want.SetResourceVersion(have.GetResourceVersion())
	if !reflect.DeepEqual(have, want) {
		s.put(author, keyOf(have), want)
	}
	assign(o, want)
	return nil
}

func immutable(have, want client.Object) error {
	h, ok := have.(*corev1.Secret)
	if !ok {
		return nil
	}
	w := want.(*corev1.Secret)
	if h.Type != w.Type || h.Immutable != nil && *h.Immutable && !reflect.DeepEqual(h.Data, w.Data) {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "Secret"}, h.Name, nil)
	}
	return nil
}

// updateStatus stores only the status.
func (s *store) updateStatus(author string, o *v1alpha1.NodeBootstrap) error {
	have, err := s.current(o)
	if err != nil {
		return err
	}
	want := have.DeepCopyObject().(*v1alpha1.NodeBootstrap)
	want.Status = overTheWire(o).(*v1alpha1.NodeBootstrap).Status
	s.admitted(author, want, have)
	if len(want.Status.Certificates) > 16 { // MaxItems in the CRD
		return apierrors.NewInvalid(schema.GroupKind{Kind: "NodeBootstrap"}, o.Name, nil)
	}
	return s.keep(author, o, have, want)
}

// delete deletes an object, or only marks it if it has finalizers. Of preconditions it knows only the UID.
func (s *store) delete(author string, k key, still *metav1.Preconditions) error {
	v := s.latest(k)
	switch {
	case v == nil:
		return apierrors.NewNotFound(resource(k), k.name)
	case still != nil && still.UID != nil && *still.UID != v.object.GetUID():
		return apierrors.NewConflict(resource(k), k.name, fmt.Errorf("the UID in the precondition is not that of the object"))
	case still != nil && still.ResourceVersion != nil && *still.ResourceVersion != v.object.GetResourceVersion():
		return apierrors.NewConflict(resource(k), k.name, fmt.Errorf("the resourceVersion in the precondition is not that of the object"))
	case len(v.object.GetFinalizers()) == 0:
		s.put(author, k, nil)
	case v.object.GetDeletionTimestamp() == nil:
		marked := v.object.DeepCopyObject().(client.Object)
		marked.SetDeletionTimestamp(new(metav1.NewTime(s.now().Truncate(time.Second))))
		s.put(author, k, marked)
	}
	return nil
}

// removeFinalizers removes the finalizers of an object, which completes a deletion.
func (s *store) removeFinalizers(author string, o client.Object) error {
	have, err := s.current(o)
	if err != nil {
		return err
	}
	want := have.DeepCopyObject().(client.Object)
	want.SetFinalizers(nil)
	if s.admitted(author, want, have) { // admission control adds them again
		want.SetFinalizers(have.GetFinalizers())
		return s.keep(author, o, have, want)
	}
	if have.GetDeletionTimestamp() != nil {
		s.put(author, keyOf(have), nil)
		assign(o, want)
		return nil
	}
	return s.keep(author, o, have, want)
}

// edit changes an object in any way, as a cluster administrator may; it does nothing if it does not exist.
func edit[T client.Object](s *store, author, namespace, name string, how func(T)) bool {
	have := get[T](s, namespace, name)
	if reflect.ValueOf(have).IsNil() {
		return false
	}
	want := have.DeepCopyObject().(T)
	how(want)
	if reflect.DeepEqual(have, want) {
		return false
	}
	if nb, ok := any(want).(*v1alpha1.NodeBootstrap); ok && !reflect.DeepEqual(nb.Spec, any(have).(*v1alpha1.NodeBootstrap).Spec) {
		nb.Generation++
	}
	s.put(author, keyOf(have), want)
	return true
}
