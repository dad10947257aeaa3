// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

func TestParseToken(t *testing.T) {
	tests := map[string]struct {
		edit func(*corev1.Secret)
		ok   bool
	}{
		"unchanged":               {func(*corev1.Secret) {}, true},
		"another type":            {func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }, false},
		"a name of another token": {func(s *corev1.Secret) { s.Name = "bootstrap-token-zzzzzz" }, false},
		"another id":              {func(s *corev1.Secret) { s.Data["token-id"] = []byte("zzzzzz") }, false},
		"no id":                   {func(s *corev1.Secret) { delete(s.Data, "token-id") }, false},
		"an id in upper case": {func(s *corev1.Secret) {
			s.Data["token-id"] = []byte("ABCDEF")
			s.Name = "bootstrap-token-ABCDEF"
		}, false},
		"no secret part":         {func(s *corev1.Secret) { delete(s.Data, "token-secret") }, false},
		"a short secret part":    {func(s *corev1.Secret) { s.Data["token-secret"] = []byte("short") }, false},
		"a newline after it":     {func(s *corev1.Secret) { s.Data["token-secret"] = []byte(nodetest.Canary + "\n") }, false},
		"no data":                {func(s *corev1.Secret) { s.Data = nil }, false},
		"no expiration":          {func(s *corev1.Secret) { delete(s.Data, "expiration") }, true},
		"an expiration in words": {func(s *corev1.Secret) { s.Data["expiration"] = []byte("tomorrow") }, true},
		"no usages and no groups": {func(s *corev1.Secret) {
			delete(s.Data, "usage-bootstrap-authentication")
			delete(s.Data, "auth-extra-groups")
		}, true},
		"an owner of another kind": {func(s *corev1.Secret) { s.OwnerReferences[0].Kind = "Machine" }, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := nodetest.TokenSecret(1, time.Hour)
			tt.edit(s)
			got, ok := token.Parse(s)
			if ok != tt.ok {
				t.Fatalf("got %v, want %v", ok, tt.ok)
			}
			if ok && (got.ID != nodetest.NthID(1) || got.Secret.Reveal() != nodetest.Canary || !got.Created.Equal(nodetest.Now.Add(-time.Hour)) || got.Object != s) {
				t.Errorf("got %s, created at %s", got, got.Created)
			}
			want, _ := time.Parse(time.RFC3339, string(s.Data["expiration"])) // zero if it has none
			if !got.Expires.Equal(want) {
				t.Errorf("it expires at %s, want %s", got.Expires, want)
			}
		})
	}
}

func TestTokenLive(t *testing.T) {
	tests := map[string]struct {
		expires time.Time
		want    bool
	}{
		"in a second":      {nodetest.Now.Add(time.Second), true},
		"now":              {nodetest.Now, false},
		"a second ago":     {nodetest.Now.Add(-time.Second), false},
		"at an unset time": {time.Time{}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := (token.Token{Expires: tt.expires}).Live(nodetest.Now); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestTokenPrintsWithoutItsSecretPart(t *testing.T) {
	tok := nodetest.Token(1, time.Hour)
	type holder struct {
		Value   token.Token
		Pointer *token.Token
		Slice   []token.Token
		Map     map[string]token.Token
	}
	values := map[string]any{
		"a token": tok, "a pointer": &tok, "a slice": []token.Token{tok}, "a slice of pointers": []*token.Token{&tok},
		"a struct": holder{tok, &tok, []token.Token{tok}, map[string]token.Token{"x": tok}}, "an outcome": status.Outcome{Token: &tok}, "a pointer to it": &status.Outcome{Token: &tok},
	}
	for name, v := range values {
		for _, verb := range []string{"%s", "%v", "%+v", "%#v", "%q", "%x"} {
			t.Run(name+" "+verb, func(t *testing.T) { nodetest.Leaks(t, verb, fmt.Sprintf(verb, v)) })
		}
	}
	if got := tok.String(); got != "bootstrap token "+nodetest.NthID(1) {
		t.Errorf("got %q", got)
	}
}

// fmt calls no methods on values in unexported fields.
func TestTokenPrintsWithoutItsSecretPartWhereFmtMayNotCall(t *testing.T) {
	tok := nodetest.Token(1, 0)
	nodetest.Leaks(t, "a field that is not exported", fmt.Sprintf("%+v", struct{ t token.Token }{tok}))
	nodetest.Leaks(t, "a slice that is not exported", fmt.Sprintf("%+v", struct{ t []token.Token }{[]token.Token{tok}}))
	for _, verb := range []string{"%d", "%t"} {
		nodetest.Leaks(t, verb, fmt.Sprintf(verb, tok))
	}
	data, _ := json.Marshal(tok)
	nodetest.Leaks(t, "JSON", string(data)) // structured loggers write other types than Stringers as JSON
	data, _ = json.Marshal(status.Outcome{Token: &tok})
	nodetest.Leaks(t, "JSON of an outcome", string(data))
}

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
