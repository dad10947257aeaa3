// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/sha256"
	"encoding/hex"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// maxReissueBytes is how long a reissue request may be to be kept as it is. A time has 35 bytes at most.
const maxReissueBytes = 128

// Reissue is the reissue that an object asks for or, on a token's Secret, was made for; empty for none. Every reader of the
// annotation goes through it.
func Reissue(o metav1.Object) string {
	return NormalReissue(o.GetAnnotations()[v1alpha1.ReissueRequestedAtAnnotation])
}

// NormalReissue is what a reissue request is compared and stored by: the value itself, or the hash of a long one. An annotation may
// have 256 KiB, of which a token's Secret could not hold a copy beside its other annotations.
func NormalReissue(value string) string {
	if len(value) <= maxReissueBytes {
		return value
	}
	sum := sha256.Sum256([]byte(value))
	return "SHA256:" + hex.EncodeToString(sum[:])
}
