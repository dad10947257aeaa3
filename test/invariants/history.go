// SPDX-License-Identifier: Apache-2.0

package invariants

import (
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// History has all versions of some objects, the newest last. It implements Storage.
type History map[Key][]Version

// Version is an object as it was stored at a revision; nil if it was deleted.
type Version struct {
	Revision int64
	Object   client.Object
}

// At implements Storage.
func (h History) At(k Key, revision int64) client.Object {
	for _, v := range slices.Backward(h[k]) {
		if v.Revision <= revision {
			return v.Object
		}
	}
	return nil
}

// Since implements Storage.
func (h History) Since(k Key, revision int64) []client.Object {
	var out []client.Object
	for _, v := range h[k] {
		if v.Revision > revision {
			out = append(out, v.Object)
		}
	}
	return out
}

// Keys implements Storage.
func (h History) Keys(kind string) []Key {
	var out []Key
	for k := range h {
		if k.Kind == kind {
			out = append(out, k)
		}
	}
	return out
}
