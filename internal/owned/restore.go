// SPDX-License-Identifier: Apache-2.0

package owned

import (
	"bytes"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// Restored is a Secret with every field that the operator sets restored, or nil if nothing differs. Labels and annotations of others
// stay.
func Restored(have, want *corev1.Secret) *corev1.Secret {
	out := have.DeepCopy()
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	if out.Annotations == nil {
		out.Annotations = map[string]string{}
	}
	maps.Copy(out.Labels, want.Labels)
	maps.Copy(out.Annotations, want.Annotations)
	out.OwnerReferences = want.OwnerReferences
	if out.Data = have.Data; !maps.EqualFunc(have.Data, want.Data, bytes.Equal) { // DeepEqual would compare byte by byte
		out.Data = want.Data
	}
	if equality.Semantic.DeepEqual(have, out) {
		return nil
	}
	return out
}

// Immutable reports whether the data of a Secret cannot be changed.
func Immutable(s *corev1.Secret) bool { return s.Immutable != nil && *s.Immutable }
