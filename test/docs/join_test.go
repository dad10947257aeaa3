// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/internal/nodescript"
)

// docs/join.md lists each exit code of the script for a machine, with the words that the script has for it.
func TestEachExitCodeIsListed(t *testing.T) {
	doc := read(t, "docs/join.md")
	if len(nodescript.ExitCodes) < 10 {
		t.Fatalf("only %d exit codes are found", len(nodescript.ExitCodes))
	}
	for _, code := range nodescript.ExitCodes {
		if row := fmt.Sprintf("\n| %d | %s |\n", code.Code, code.What); !strings.Contains(doc, row) {
			t.Errorf("docs/join.md does not have the row %q", row)
		}
	}
}
