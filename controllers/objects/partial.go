// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"maps"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/controllers/apiserver"
)

const (
	// PartialAnnotation is on an object in the cache of which something was left out that an update would erase, such as labels of
	// others: it has to be read again before. Its value is IsLarge for one that takes much memory while it is read or written. It is
	// never stored.
	PartialAnnotation = "nodebootstrap.io/partial"
	large             = "large"

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
	partialAnnotations = map[string]string{PartialAnnotation: ""}
	largeAnnotations   = map[string]string{PartialAnnotation: large}
)

// IsLarge reports whether an object takes much memory while it is read or written.
func IsLarge(o metav1.Object) bool { return o.GetAnnotations()[PartialAnnotation] == large }

// IsPartial reports whether an update of an object would erase what the cache leaves out.
func IsPartial(o metav1.Object) bool {
	_, is := o.GetAnnotations()[PartialAnnotation]
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
	if size > apiserver.LargeBytes {
		NoteLarge(size)
	}
	switch {
	case size > apiserver.LargeBytes || IsLarge(m):
		left = much
	case IsPartial(m) || !maps.Equal(m.Labels, labels) || !maps.Equal(m.Annotations, annotations) || len(m.Finalizers) > 0 || len(m.OwnerReferences) > 0:
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
		m.Annotations[PartialAnnotation] = large
	case len(m.Annotations) > 0:
		m.Annotations[PartialAnnotation] = ""
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
