// SPDX-License-Identifier: Apache-2.0

package kubeconfig

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

const (
	// DigestKey is no key that the API server would take.
	DigestKey = "(digest)"
	// maxDigestTokens bounds a digest. A kubeconfig of ours carries one token; one that carries more is written again.
	maxDigestTokens = 16
)

// Digest is what is held in memory of the data of a kubeconfig Secret: a SHA-256 of it, and the tokens in the kubeconfig, by
// which Carries and RedactSecrets go. The digest of a digest is that digest.
func Digest(data map[string][]byte) map[string][]byte {
	if _, is := data[DigestKey]; is {
		return data
	}
	sum := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(data)) {
		fmt.Fprintf(sum, "%q=%d:", key, len(data[key]))
		sum.Write(data[key])
	}
	digest := sum.Sum(nil)
	for _, t := range token.Find(data[Key], maxDigestTokens) {
		digest = append(append(digest, '\n'), t[0]...)
	}
	return map[string][]byte{DigestKey: digest}
}

// tokensIn is a text with the tokens in a kubeconfig Secret, be it whole or a digest.
func tokensIn(s *corev1.Secret) []byte {
	if digest, is := s.Data[DigestKey]; is {
		return digest
	}
	return s.Data[Key]
}

// Restored is Restored for a Secret of which there are digests alone.
func Restored(have, want *corev1.Secret) *corev1.Secret {
	digested := *want
	digested.Data = Digest(want.Data)
	out := owned.Restored(have, &digested)
	if out != nil {
		out.Data = want.Data
	}
	return out
}

// Immovable reports whether a Secret of ours, which may have the Digest of its data only, cannot be brought to its wanted content by an
// update, so that it has to be deleted and created again. One that is immutable and has that content is good.
func Immovable(have, want *corev1.Secret) bool {
	return have.Type != want.Type || owned.Immutable(have) && !maps.EqualFunc(Digest(have.Data), Digest(want.Data), bytes.Equal)
}

// RedactSecrets is an error without the secret parts of tokens that some Secrets hold, be it in a kubeconfig, in its text: an
// admission webhook is shown what is deleted or replaced, and may repeat it.
func RedactSecrets(err error, secrets ...*corev1.Secret) error {
	for _, s := range secrets {
		if s == nil {
			continue
		}
		parts := []string{string(s.Data[bootstrapapi.BootstrapTokenSecretKey])}
		for _, m := range token.Find(tokensIn(s), maxDigestTokens) {
			parts = append(parts, string(m[1]))
		}
		for _, part := range parts {
			err = token.RedactError(err, &token.Token{Secret: token.NewSecretPart(part)})
		}
	}
	return err
}

// Carries reports whether a kubeconfig Secret carries a token.
func Carries(s *corev1.Secret, t token.Token) bool {
	return s != nil && bytes.Contains(tokensIn(s), []byte(t.Bearer()))
}
