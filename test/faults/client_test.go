// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// uncachedReader reads from the API server.
type uncachedReader struct {
	client.Reader // panics on any method that is not implemented below
	w             *world
}

func (r uncachedReader) Get(_ context.Context, name client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	k := key{kindOf(into), name.Namespace, name.Name}
	return r.w.call(&call{class: uncached, what: "read " + k.String()}, func() error { return r.w.read(k, r.w.revision, false, into) })
}

// List implements the only list that the operator sends: that of the CSR of a name, because it may list CSRs and not get them.
func (r uncachedReader) List(_ context.Context, into client.ObjectList, opts ...client.ListOption) error {
	var o client.ListOptions
	o.ApplyOptions(opts)
	name, named := o.FieldSelector.RequiresExactMatch(metav1.ObjectNameField)
	requests, ok := into.(*certificatesv1.CertificateSigningRequestList)
	if !ok || !named {
		return fmt.Errorf("a list of %T by %s is not implemented", into, o.FieldSelector)
	}
	k := key{kind: "CertificateSigningRequest", name: name}
	return r.w.call(&call{class: uncached, what: "read " + k.String()}, func() error {
		var request certificatesv1.CertificateSigningRequest
		err := r.w.read(k, r.w.revision, false, &request)
		if err == nil {
			requests.Items = append(requests.Items, request)
		}
		return client.IgnoreNotFound(err)
	})
}

// apiClient reads from a cache and writes.
type apiClient struct {
	client.Client // panics on any method that is not implemented below
	w             *world
}

func (c apiClient) Get(_ context.Context, name client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	k := key{kindOf(into), name.Namespace, name.Name}
	if _, _, _, ok := cacheConfig(k.kind, k.namespace); !ok {
		return fmt.Errorf("unable to get %s: unknown namespace for the cache", k)
	}
	q := &call{class: fromCache, what: "get " + k.String(), kind: k.kind, cache: k.kind + " " + k.namespace, revision: c.w.seen(k.kind)}
	q.before, q.changed = c.w.before(q.revision, []key{k}, func(v *version) bool { return v.object != nil && shown(v).object != nil })
	return c.w.call(q, func() error { return c.w.read(k, q.revision, true, into) })
}

func (c apiClient) List(_ context.Context, into client.ObjectList, opts ...client.ListOption) error {
	sel := newSelector(into, opts)
	q := &call{class: fromCache, what: "list " + sel.String(), kind: sel.kind, cache: sel.kind + " " + sel.namespace, revision: c.w.seen(sel.kind)}
	q.before, q.changed = c.w.before(q.revision, c.w.kinds[sel.kind], sel.matches)
	return c.w.call(q, func() error {
		found := c.w.list(sel, q.revision)
		items := make([]runtime.Object, len(found))
		for i, o := range found {
			item := reflect.New(reflect.TypeOf(o).Elem()).Interface().(client.Object)
			hand(item, o)
			items[i] = item
		}
		return meta.SetList(into, items)
	})
}

// read answers as the API server does, or as a cache at a revision.
func (w *world) read(k key, revision int, fromCache bool, into client.Object) error {
	v := w.at(k, revision)
	if v == nil || fromCache && shown(v).object == nil {
		return apierrors.NewNotFound(resource(k), k.name)
	}
	o := v.object
	if fromCache {
		o = shown(v).object
	}
	if m, ok := into.(*metav1.PartialObjectMetadata); ok {
		p := &metav1.PartialObjectMetadata{TypeMeta: m.TypeMeta, ObjectMeta: metav1.ObjectMeta{
			Name: o.GetName(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(), CreationTimestamp: o.GetCreationTimestamp(),
			Labels: o.GetLabels(), Annotations: o.GetAnnotations(), DeletionTimestamp: o.GetDeletionTimestamp(),
		}}
		assign(m, p)
		return nil
	}
	if fromCache {
		hand(into, o)
	} else {
		assign(into, o)
	}
	return nil
}

func (c apiClient) Create(_ context.Context, o client.Object, opts ...client.CreateOption) error {
	var options client.CreateOptions
	if options.ApplyOptions(opts); len(options.DryRun) > 0 {
		return c.w.call(&call{class: writing, what: "create " + keyOf(o).String() + " (dry run)", kind: kindOf(o), key: keyOf(o), body: body(o)},
			func() error { return c.w.dryRun(o) })
	}
	switch review := o.(type) {
	case *authenticationv1.TokenReview:
		return c.w.call(&call{class: uncached, what: "review token", body: body(o)}, func() error {
			review.Status.Authenticated = c.w.tokenOf(review.Spec.Token) != nil
			return nil
		})
	case *authorizationv1.SubjectAccessReview:
		who := strings.Join(append(review.Spec.Groups, review.Spec.User), ",")
		return c.w.call(&call{class: uncached, what: "review access of " + who}, func() error {
			review.Status.Allowed, review.Status.Reason = c.w.allowed(review.Spec)
			return nil
		})
	default:
		return c.write("create", keyOf(o), o, func() error { return c.w.create(operatorAuthor, o) })
	}
}

func (c apiClient) Update(_ context.Context, o client.Object, _ ...client.UpdateOption) error {
	return c.write("update", keyOf(o), o, func() error { return c.w.update(operatorAuthor, o) })
}

func (c apiClient) Delete(_ context.Context, o client.Object, opts ...client.DeleteOption) error {
	var options client.DeleteOptions
	options.ApplyOptions(opts)
	return c.write("delete", keyOf(o), nil, func() error {
		return c.w.delete(operatorAuthor, keyOf(o), options.Preconditions)
	})
}

// Patch implements the only patch that the operator sends: it removes the finalizers of a CSR.
func (c apiClient) Patch(_ context.Context, o client.Object, patch client.Patch, _ ...client.PatchOption) error {
	data, err := patch.Data(o)
	if r, ok := o.(*certificatesv1.CertificateSigningRequest); !ok || err != nil ||
		string(data) != fmt.Sprintf(`{"metadata":{"uid":%q,"resourceVersion":%q,"finalizers":null}}`, r.UID, r.ResourceVersion) {
		return fmt.Errorf("the patch %s of %T is not implemented", data, o)
	}
	return c.write("patch", keyOf(o), nil, func() error { return c.w.removeFinalizers(operatorAuthor, o) })
}

func (c apiClient) write(verb string, k key, sent client.Object, run func() error) error {
	q := &call{class: writing, what: verb + " " + k.String(), kind: k.kind, key: k}
	had := c.w.latest(k) // webhooks see it too
	q.body = func() string {
		var out string
		if had != nil {
			out = body(had.object)()
		}
		if sent != nil {
			out += body(sent)()
		}
		return out
	}
	if s, ok := sent.(*corev1.Secret); ok {
		c.w.LearnPart(s) // whether it is stored or not
	}
	return c.w.call(q, run)
}

// body is what an API server or a webhook can repeat of a write: as text, and as it was on the wire.
func body(o client.Object) func() string {
	return func() string {
		data, _ := json.Marshal(o) //nolint:errchkjson // all of these can be marshalled
		out := string(data)
		if s, ok := o.(*corev1.Secret); ok {
			for name, value := range s.Data {
				out += fmt.Sprintf(" %s=%q", name, value)
			}
		}
		return out
	}
}

func (c apiClient) Status() client.SubResourceWriter { return c.SubResource("status") }

func (c apiClient) SubResource(name string) client.SubResourceClient {
	return subresource{w: c.w, name: name}
}

type subresource struct {
	client.SubResourceClient // panics on any method that is not implemented below
	w                        *world
	name                     string
}

func (s subresource) Update(_ context.Context, o client.Object, _ ...client.SubResourceUpdateOption) error {
	k := keyOf(o)
	switch o := o.(type) {
	case *v1alpha1.NodeBootstrap:
		q := &call{class: writing, what: "update status of " + k.String(), kind: k.kind, key: k, body: body(o)}
		return s.w.call(q, func() error { return s.w.updateStatus(operatorAuthor, o) })
	case *certificatesv1.CertificateSigningRequest:
		q := &call{class: writing, what: "decide on " + k.String(), kind: k.kind, key: k, body: body(o)}
		return s.w.call(q, func() error { return s.w.approve(operatorAuthor, o) })
	default:
		return fmt.Errorf("updating the %s of %T is not implemented", s.name, o)
	}
}

// approve stores only the conditions of a CSR, and stamps their times. A verdict is final.
func (s *store) approve(author string, o *certificatesv1.CertificateSigningRequest) error {
	have, err := s.current(o)
	if err != nil {
		return err
	}
	want := have.DeepCopyObject().(*certificatesv1.CertificateSigningRequest)
	want.Status.Conditions = overTheWire(o).(*certificatesv1.CertificateSigningRequest).Status.Conditions
	s.admitted(author, want, have)
	verdicts := 0
	now := metav1.NewTime(s.now().Truncate(time.Second))
	for i := range want.Status.Conditions {
		c := &want.Status.Conditions[i]
		if c.Type != certificatesv1.CertificateFailed {
			verdicts++
		}
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if c.LastTransitionTime.IsZero() {
			c.LastTransitionTime = now
		}
	}
	taken := func(t certificatesv1.RequestConditionType) bool {
		return invariants.Decided(have.(*certificatesv1.CertificateSigningRequest), t) && !invariants.Decided(want, t)
	}
	if verdicts > 1 || taken(certificatesv1.CertificateApproved) || taken(certificatesv1.CertificateDenied) {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "CertificateSigningRequest"}, o.Name, nil)
	}
	return s.keep(author, o, have, want)
}
