// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

func TestNormalReissue(t *testing.T) {
	long := strings.Repeat("x", 129)
	sum := sha256.Sum256([]byte(long))
	for value, want := range map[string]string{
		"":                       "",
		"2026-01-01T00:00:00Z":   "2026-01-01T00:00:00Z",
		strings.Repeat("x", 128): strings.Repeat("x", 128),
		long:                     fmt.Sprintf("SHA256:%x", sum),
	} {
		if got := token.NormalReissue(value); got != want || token.NormalReissue(got) != got {
			t.Errorf("%.20s: got %q, want %q, and of that %q", value, got, want, token.NormalReissue(got))
		}
	}
	if a, b := token.NormalReissue(strings.Repeat("x", 1000)), token.NormalReissue(strings.Repeat("x", 1001)); a == b {
		t.Error("two long requests count as the same")
	}
}
