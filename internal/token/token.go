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
	// Secret is the secret part. It goes into Secrets alone.
	Secret SecretPart
	// Created is when the API server stored the Secret.
	Created time.Time
	// Expires is when the API server stops accepting the token; zero when the Secret does not say it in RFC 3339.
	Expires time.Time
	// Object is the Secret as it was read.
	Object *corev1.Secret
}

// SecretPart is the secret part of a token, sixteen characters. It is held by a pointer, so that nothing prints it, not even
// as a field that is not exported, whose methods fmt may not call.
type SecretPart struct{ text *string }

// NewSecretPart holds a secret part.
func NewSecretPart(text string) SecretPart { return SecretPart{&text} }

// Reveal is the text; empty when there is none.
func (p SecretPart) Reveal() string {
	if p.text == nil {
		return ""
	}
	return *p.text
}

// String leaves the secret part out, so that a token that gets into a log gives nothing away.
func (t Token) String() string { return "bootstrap token " + t.ID }

// Format is String for every verb.
func (t Token) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, t.String()) }

// MarshalText is String too: structured logs take it.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Live reports whether the API server accepts the token at a time.
func (t Token) Live(now time.Time) bool { return now.Before(t.Expires) }

// Bearer is the token in the form in which it authenticates.
func (t Token) Bearer() string { return bootstraputil.TokenFromIDAndSecret(t.ID, t.Secret.Reveal()) }
