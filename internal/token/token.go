// SPDX-License-Identifier: Apache-2.0

// Package token knows bootstrap tokens: their IDs, secret parts, lifetimes and Secrets.
package token

import (
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
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
