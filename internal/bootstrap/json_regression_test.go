// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"encoding/json"
	"fmt"
	"testing"
)

// A structured logger writes what it does not know as JSON.
func TestFactsAndPlansMarshalWithoutSecretParts(t *testing.T) {
	f := awaited(1, young)
	f.NodeBootstrap = nil
	p := decide(f, now)
	for name, v := range map[string]any{"facts": f, "a plan": p, "a pointer to a plan": &p} {
		data, _ := json.Marshal(v)
		leaks(t, name, string(data))
	}
	leaks(t, "facts by value", fmt.Sprintf("%+v", *f))
}
