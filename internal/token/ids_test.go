// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"

	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

func TestTokenIDOfUser(t *testing.T) {
	for user, want := range map[string]string{
		"system:bootstrap:abc123":   "abc123",
		"system:bootstrap:ABC123":   "",
		"system:bootstrap:abc1234":  "",
		"system:bootstrap:":         "",
		"system:bootstrap:abc123\n": "",
		"system:node:abc123":        "",
		"abc123":                    "",
		"":                          "",
	} {
		if got := token.IDOfUser(user); got != want {
			t.Errorf("%q: got %q, want %q", user, got, want)
		}
	}
}

// A token is recognized by its id when its Secret has nothing else that identifies it.
func TestGave(t *testing.T) {
	nb := nodetest.NodeBootstrap()
	if nb.Status.LastTokenID = ""; token.Gave(nb, nodetest.NthID(1)) {
		t.Error("a NodeBootstrap without a token has given an id")
	}
	nb.Status = nodetest.StatusOf(4, nodetest.Young)
	for n, want := range map[int]bool{1: true, 3: true, 4: true, 5: false, 9: false} {
		if got := token.Gave(nb, nodetest.NthID(n)); got != want {
			t.Errorf("the id %d: got %v", n, got)
		}
	}
	if nb.Status.LastTokenID = ""; !token.Gave(nb, nodetest.NthID(4)) || !token.Gave(nb, nodetest.NthID(2)) || token.Gave(nb, nodetest.NthID(5)) {
		t.Error("the id of the current token is not recognized")
	}
	for _, id := range []string{"", "abcdef"} {
		if token.Gave(nb, id) {
			t.Errorf("%q was given", id)
		}
	}
	if token.IDOfSecret("bootstrap-token-abcdef") != "abcdef" || token.IDOfSecret("bootstrap-token-ABC") != "" || token.IDOfSecret("abcdef") != "" {
		t.Error("ids are not those of the Secrets' names")
	}
}

func TestNextTokenID(t *testing.T) {
	first := token.NextID(nodetest.UID, "")
	if again := token.NextID(nodetest.UID, ""); again != first {
		t.Errorf("got %s and then %s: a second creation would create a second token", first, again)
	}
	if other := token.NextID(nodetest.FormerUID, ""); other == first {
		t.Errorf("two NodeBootstraps share the id %s", first)
	}
	if next := token.NextID(nodetest.UID, first); next == first {
		t.Errorf("the id %s follows itself", first)
	}
}

// The API server does not recognize a token with an id of another form.
func TestNextTokenIDHasTheRightForm(t *testing.T) {
	id := ""
	for i := range 100_000 {
		id = token.NextID(nodetest.UID, id)
		if !bootstraputil.IsValidBootstrapTokenID(id) {
			t.Fatalf("the id number %d is %q", i, id)
		}
	}
}

// Tokens of different nodes share one namespace: 5,000 first ids should have no collision, and 20,000 hardly any.
func TestNextTokenIDIsSpread(t *testing.T) {
	seen := map[string]bool{}
	for i := range 20_000 {
		seen[token.NextID(types.UID(fmt.Sprintf("uid-%d", i)), "")] = true
	}
	if len(seen) < 19_998 {
		t.Errorf("only %d ids are different", len(seen))
	}
}
