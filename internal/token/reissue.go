// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/sha256"
	"encoding/hex"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// maxReissueBytes is the longest reissue request that is kept unchanged. A time has 35 bytes at most.
const maxReissueBytes = 128

// Reissue is the reissue that an object requests or, on a token's Secret, was created for; empty for none. Every reader of the annotation
// uses it.
func Reissue(o metav1.Object) string {
	return NormalReissue(o.GetAnnotations()[v1alpha1.ReissueRequestedAtAnnotation])
}

// NormalReissue is the form in which reissue requests are compared and stored: the value itself, or the hash of a long one. An annotation
// can have 256 KiB, and a token's Secret has no room for a copy next to its other annotations.
func NormalReissue(value string) string {
	if len(value) <= maxReissueBytes {
		return value
	}
	sum := sha256.Sum256([]byte(value))
	return "SHA256:" + hex.EncodeToString(sum[:])
}
