// SPDX-License-Identifier: Apache-2.0

// Package token knows bootstrap tokens: their IDs, secret parts, lifetimes and Secrets.
package token

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
)

// Token is a bootstrap token of ours, as its Secret holds it.
type Token struct {
	// ID is the public part, six characters.
	ID string
	// Secret is the secret part. It enters only Secrets.
	Secret SecretPart
	// Created is when the API server stored the Secret.
	Created time.Time
	// Expires is when the API server stops accepting the token; zero if the Secret has no time in RFC 3339.
	Expires time.Time
	// Object is the Secret as it was read.
	Object *corev1.Secret
}

// SecretPart is the secret part of a token, sixteen characters. It is behind a pointer, so that nothing prints it, not even as an
// unexported field, whose methods fmt may not call.
type SecretPart struct{ text *string }

// NewSecretPart wraps a secret part.
func NewSecretPart(text string) SecretPart { return SecretPart{&text} }

// Reveal is the text; empty for the zero value.
func (p SecretPart) Reveal() string {
	if p.text == nil {
		return ""
	}
	return *p.text
}

// String leaves out the secret part, so that logging a token reveals nothing.
func (t Token) String() string { return "bootstrap token " + t.ID }

// Format prints String for every verb.
func (t Token) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, t.String()) }

// MarshalText returns String for structured logs.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Live reports whether the API server accepts the token at a time.
func (t Token) Live(now time.Time) bool { return now.Before(t.Expires) }

// Bearer is the token in the form for authentication: <id>.<secret part>.
func (t Token) Bearer() string { return bootstraputil.TokenFromIDAndSecret(t.ID, t.Secret.Reveal()) }

// redact removes the secret part of a token from a text, plain or in base64, the encoding of Secret data.
func redact(text string, t *Token) string {
	if t == nil || t.Secret.Reveal() == "" {
		return text
	}
	const hidden = "(secret)"
	part := t.Secret.Reveal()
	text = strings.ReplaceAll(text, part, hidden)
	for offset := range 3 { // preceding bytes shift the encoding; the characters at both ends depend on neighbours
		encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", offset) + part))
		first, last := (8*offset+5)/6, 8*(offset+len(part))/6
		text = strings.ReplaceAll(text, encoded[first:last], hidden)
	}
	return text
}

// RedactError is an error without the secret part of a token in its text: an API server or an admission webhook can repeat it in an
// answer. It unwraps to the error.
func RedactError(err error, t *Token) error {
	text := redact(err.Error(), t)
	if text == err.Error() {
		return err
	}
	return &redactedError{text: text, err: err}
}

type redactedError struct {
	text string
	err  error
}

func (e *redactedError) Error() string { return e.text }

func (e *redactedError) Unwrap() error { return e.err }

// tokenInText matches a bootstrap token in a kubeconfig (bootstrapapi.BootstrapTokenPattern), whose last part is secret.
var tokenInText = regexp.MustCompile(`\b[a-z0-9]{6}\.([a-z0-9]{16})\b`)

// Find returns the tokens in a text, each with its secret part (tokenInText). Most of a kubeconfig is base64, which contains no dot and
// for which the expression is slow.
func Find(text []byte, most int) (found [][][]byte) {
	const before, after = bootstrapapi.BootstrapTokenIDBytes + 1, 1 + bootstrapapi.BootstrapTokenSecretBytes + 1
	for i, c := range text[:min(len(text), maxScannedBytes)] {
		if c == '.' && between(text, i) {
			found = append(found, tokenInText.FindAllSubmatch(text[max(0, i-before):min(len(text), i+after)], -1)...)
		}
		if len(found) >= most {
			return found[:most]
		}
	}
	return found
}

// maxScannedBytes is larger than a kubeconfig with the largest CA. In a larger text no token of the operator comes after it.
const maxScannedBytes = 256 << 10

// between reports whether the dot at an index can be in a token.
func between(text []byte, dot int) bool {
	return dot > 0 && inToken(text[dot-1]) && dot+1 < len(text) && inToken(text[dot+1])
}

func inToken(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// WithoutAnswer is the error of a deletion without the API server's answer if the Secret is a stray token: an admission webhook sees the
// deleted object and can repeat its secret part, which the cache does not keep.
func WithoutAnswer(s *corev1.Secret, err error) error {
	if err == nil || !Stray(s) {
		return err
	}
	return &redactedError{err: err, text: fmt.Sprintf("deleting the Secret %s/%s, a token that no NodeBootstrap owns: %s",
		s.Namespace, s.Name, cmp.Or(string(apierrors.ReasonForError(err)), "no answer"))}
}
