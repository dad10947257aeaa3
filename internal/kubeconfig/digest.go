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
	// DigestKey is a key that the API server does not accept.
	DigestKey = "(digest)"
	// maxDigestTokens bounds the tokens in a digest. The operator's kubeconfigs have one token; one with more is written again.
	maxDigestTokens = 16
)

// Digest is the in-memory form of the data of a kubeconfig Secret: its SHA-256, and the tokens in the kubeconfig, for Carries and
// RedactSecrets. The digest of a digest is the same digest.
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

// tokensIn is a text with the tokens in a kubeconfig Secret, complete or a digest.
func tokensIn(s *corev1.Secret) []byte {
	if digest, is := s.Data[DigestKey]; is {
		return digest
	}
	return s.Data[Key]
}

// Restored is owned.Restored for a Secret with only the Digest of its data.
func Restored(have, want *corev1.Secret) *corev1.Secret {
	digested := *want
	digested.Data = Digest(want.Data)
	out := owned.Restored(have, &digested)
	if out != nil {
		out.Data = want.Data
	}
	return out
}

// Immovable reports whether an update cannot give a Secret of the operator, which may have only the Digest of its data, its wanted
// content, so that it must be deleted and created again. An immutable Secret with that content is fine.
func Immovable(have, want *corev1.Secret) bool {
	return have.Type != want.Type || owned.Immutable(have) && !maps.EqualFunc(Digest(have.Data), Digest(want.Data), bytes.Equal)
}

// RedactSecrets is an error without the secret parts of the tokens in some Secrets, including those in kubeconfigs: an admission webhook
// sees deleted or replaced objects and can repeat them.
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

// Carries reports whether a kubeconfig Secret contains a token.
func Carries(s *corev1.Secret, t token.Token) bool {
	return s != nil && bytes.Contains(tokensIn(s), []byte(t.Bearer()))
}
