// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// Searching for dots first finds the same tokens as the expression.
func TestFindTokens(t *testing.T) {
	text := rapid.SliceOfN(rapid.SampledFrom([]string{"abcdef", "0123456789abcdef", ".", ".", " ", "x", "-", "\n", nodetest.NthID(1) + "." + nodetest.Canary}), 0, 12)
	rapid.Check(t, func(t *rapid.T) {
		s := strings.Join(text.Draw(t, "text"), "")
		all := func(found [][][]byte) (out []string) {
			for _, m := range found {
				out = append(out, fmt.Sprintf("%s with %s", m[0], m[1]))
			}
			return out
		}
		if got, want := all(token.Find([]byte(s), 100)), all(token.TokenInText.FindAllSubmatch([]byte(s), -1)); !slices.Equal(got, want) {
			t.Fatalf("in %q it finds %q, want %q", s, got, want)
		}
	})
}

// A Secret is sent as JSON, with base64 data: a webhook that repeats its input repeats that.
func TestRedactKnowsBase64(t *testing.T) {
	tok := nodetest.Token(1, 0)
	for _, around := range []string{"", "x", "xx", "xxx"} { // in a kubeconfig other text precedes it
		b64 := base64.StdEncoding.EncodeToString([]byte(around + nodetest.Canary + around))
		got := token.RedactError(errors.New("webhook: denied {\"data\":\""+b64+"\"}"), &tok).Error()
		nodetest.Leaks(t, "the error", got)
		if !strings.Contains(got, "denied {") {
			t.Errorf("the error has lost its text: %s", got)
		}
	}
}

func TestRedact(t *testing.T) {
	made := nodetest.Token(1, 0)
	refused := fmt.Errorf("creating it: %w", errors.New("webhook: no "+nodetest.Canary+" and no "+made.Bearer()))
	got := token.RedactError(refused, &made)
	nodetest.Leaks(t, "the error", got.Error())
	if !errors.Is(got, refused) || !strings.Contains(got.Error(), "webhook: no (secret) and no "+nodetest.NthID(1)) {
		t.Errorf("got %v", got)
	}
	if got := token.RedactError(nodetest.ErrWrite, &made); got != nodetest.ErrWrite { //nolint:errorlint // the very same
		t.Errorf("got %v", got)
	}
	for _, t2 := range []*token.Token{nil, {}} {
		if got := token.Redact("text", t2); got != "text" {
			t.Errorf("got %q", got)
		}
	}
}
