// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
)

const (
	// partialAnnotation is on an object in the cache of which something was left out that an update would erase, such as labels of
	// others: it has to be read again before. Its value is isLarge for one that takes much memory while it is read or written. It is
	// never stored.
	partialAnnotation = "nodebootstrap.io/partial"
	large             = "large"
	// largeBytes is from how many bytes on an object is large: many times the size of any that nobody has blown up.
	largeBytes = 64 << 10

	// maxNameBytes is how long a name may be in Kubernetes (a DNS subdomain).
	maxNameBytes = 253
	// maxWordBytes is longer than any kind, group, label value, condition or UID that is compared.
	maxWordBytes = 256
	// otherEntry stands for all finalizers, or for all owners but the controller: that there are any is all that matters.
	otherEntry = "(other)"
)

// A remainder is what the cache leaves out of an object that an update would erase.
type remainder int

const (
	nothing remainder = iota
	something
	much
)

// partialAnnotations and largeAnnotations are those of an object that has no others that are kept. The maps are shared, and never
// changed.
var (
	partialAnnotations = map[string]string{partialAnnotation: ""}
	largeAnnotations   = map[string]string{partialAnnotation: large}
)

// isLarge reports whether an object takes much memory while it is read or written.
func isLarge(o metav1.Object) bool { return o.GetAnnotations()[partialAnnotation] == large }

// isPartial reports whether an update of an object would erase what the cache leaves out.
func isPartial(o metav1.Object) bool {
	_, is := o.GetAnnotations()[partialAnnotation]
	return is
}

// cut leaves the beginning of a long text, in memory of its own.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.Clone(s[:most])
}

// only is a map with some of its keys, or nil. Values are cut to a length that none that is compared has.
func only(m map[string]string, most int, keys ...string) map[string]string {
	var out map[string]string
	for _, key := range keys {
		if value, ok := m[key]; ok {
			if out == nil {
				out = make(map[string]string, len(keys))
			}
			out[key] = cut(value, most)
		}
	}
	return out
}

// bareMetadata leaves of metadata which object it is, in which version, since when, and some labels and annotations. It returns what
// it left out, now or before, of an object of a size in bytes.
func bareMetadata(m *metav1.ObjectMeta, size int, labels, annotations map[string]string) (left remainder) {
	if size > largeBytes {
		noteLarge(size)
	}
	switch {
	case size > largeBytes || isLarge(m):
		left = much
	case isPartial(m) || !maps.Equal(m.Labels, labels) || !maps.Equal(m.Annotations, annotations) || len(m.Finalizers) > 0 || len(m.OwnerReferences) > 0:
		left = something
	}
	*m = metav1.ObjectMeta{
		Name: m.Name, GenerateName: m.GenerateName, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion, Generation: m.Generation,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp, DeletionGracePeriodSeconds: m.DeletionGracePeriodSeconds,
		Labels: labels, Annotations: annotations,
	}
	return left
}

// mark says of an object that it has to be read again before an update, when something was left out.
func (left remainder) mark(m *metav1.ObjectMeta) {
	switch all := left == nothing; {
	case all:
	case len(m.Annotations) > 0 && left == much:
		m.Annotations[partialAnnotation] = large
	case len(m.Annotations) > 0:
		m.Annotations[partialAnnotation] = ""
	case left == much:
		m.Annotations = largeAnnotations
	default:
		m.Annotations = partialAnnotations
	}
}

// metadataSize is about how many bytes metadata takes.
func metadataSize(m *metav1.ObjectMeta) (n int) {
	for _, texts := range []map[string]string{m.Labels, m.Annotations} {
		for key, value := range texts {
			n += len(key) + len(value)
		}
	}
	for _, f := range m.Finalizers {
		n += len(f)
	}
	for _, o := range m.OwnerReferences {
		n += len(o.APIVersion) + len(o.Kind) + len(o.Name) + len(o.UID)
	}
	return n
}

// errBehind is a conflict: what the cache shows of an object is not what is there now.
func errBehind(resource schema.GroupResource, name string) error {
	return apierrors.NewConflict(resource, name, errors.New("the cache is behind"))
}

// sameVersion reports whether two objects are the same one in the same version.
func sameVersion(a, b metav1.Object) bool {
	return a.GetUID() == b.GetUID() && a.GetResourceVersion() == b.GetResourceVersion()
}

// readByName reads a cluster-scoped object of a kind that the operator may list and not get.
func readByName(ctx context.Context, reader client.Reader, list client.ObjectList, name string) error {
	if err := reader.List(ctx, list, client.MatchingFields{metav1.ObjectNameField: name}); err != nil {
		return fmt.Errorf("reading %s in %T: %w", name, list, err)
	}
	return nil
}

// liveSecret reads a Secret that is looked at for a node, and keeps of it what the cache would.
func (r *NodeReconciler) liveSecret(ctx context.Context, node, namespace, name string) (*corev1.Secret, error) {
	s, err := find(ctx, r.Live, namespace, name, &corev1.Secret{})
	if s != nil {
		stripSecretOf(s, node)
	}
	return s, err
}

// updateSecret stores a Secret that was restored out of the cache. When the cache has left out labels, annotations, finalizers or
// owners of others, the Secret is read before, so that they stay.
//
// It returns the Secret as it is stored; nil when nothing had to be restored.
func (r *NodeReconciler) updateSecret(ctx context.Context, restored *corev1.Secret) (*corev1.Secret, error) {
	if !isPartial(restored) {
		return r.storeSecret(ctx, restored)
	}
	whole, err := find(ctx, r.Live, restored.Namespace, restored.Name, &corev1.Secret{})
	if err != nil {
		return nil, err
	}
	if whole == nil || !sameVersion(whole, restored) {
		return nil, errBehind(corev1.Resource("secrets"), restored.Name)
	}
	want := *restored
	want.Annotations = maps.Clone(restored.Annotations)
	delete(want.Annotations, partialAnnotation)
	if whole = bootstrap.Restored(whole, &want); whole == nil {
		return nil, nil
	}
	return r.storeSecret(ctx, whole)
}

func (r *NodeReconciler) storeSecret(ctx context.Context, s *corev1.Secret) (*corev1.Secret, error) {
	if err := r.Client.Update(ctx, s); err != nil {
		return nil, err
	}
	r.consistency.WroteAt(s, r.Clock.Now())
	return s, nil
}

// wholeNodeBootstrap reads the CA of a large NodeBootstrap, which is not in the cache: a bundle may have 64 KiB, and each another one.
func (r *NodeReconciler) wholeNodeBootstrap(ctx context.Context, f *bootstrap.Facts) error {
	if !isLarge(f.NodeBootstrap) {
		return nil
	}
	whole, err := r.nodeBootstrap(ctx, r.Live, f.Name)
	if err != nil {
		return err
	}
	if whole == nil || !sameVersion(whole, f.NodeBootstrap) {
		return errBehind(v1alpha1.GroupVersion.WithResource("nodebootstraps").GroupResource(), f.Name)
	}
	shown := f.NodeBootstrap.DeepCopy()
	shown.Spec.Cluster.CABundle = whole.Spec.Cluster.CABundle
	f.NodeBootstrap = shown
	return nil
}
