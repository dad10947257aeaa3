// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"testing"
)

func TestHeldKeys(t *testing.T) {
	var h heldKeys
	hold := func(node, want string) {
		t.Helper()
		if got := h.hold("key", node); got != want {
			t.Errorf("%s asks for the key: it is held for %q, want %q", node, got, want)
		}
	}
	hold("a", "a")
	hold("b", "a")
	h.release("key", "a") // no effect: the claim is being written
	hold("b", "a")
	h.stored("key", "b") // no effect: b does not hold the key
	h.stored("key", "a")
	hold("b", "a")
	hold("a", "a")
	h.stored("key", "a")
	h.release("key", "b") // no effect: b does not hold the key
	hold("b", "a")
	h.release("key", "a")
	hold("b", "b")
	hold("a", "b")
	if got := h.holder("key"); got != "b" {
		t.Errorf("the holder is %q", got)
	}
	if got := h.holder("another"); got != "" {
		t.Errorf("the holder of a key that nobody claims is %q", got)
	}
}

// A key whose claim is being written is never forgotten.
func TestHeldKeysAreBounded(t *testing.T) {
	var h heldKeys
	h.hold("mine", "a")
	for i := range 2*maxHeldKeys + 10 {
		key := fmt.Sprint(i)
		h.hold(key, "b")
		h.stored(key, "b")
	}
	if len(h.held) > maxHeldKeys {
		t.Errorf("%d keys are held, want %d at most", len(h.held), maxHeldKeys)
	}
	if got := h.holder("mine"); got != "a" {
		t.Errorf("the key whose claim is being written is held for %q", got)
	}
}
