// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"testing"
)

// On a terminal the state is replaced in its line; elsewhere each state is a line.
func TestDisplay(t *testing.T) {
	for terminal, want := range map[bool]string{
		true:  "one\r   \rtwo\r   \rdone\n",
		false: "one\ntwo\ndone\n",
	} {
		var b bytes.Buffer
		d := &Display{w: &b, terminal: terminal}
		d.State("one")
		d.State("two")
		d.Line("done")
		if b.String() != want {
			t.Errorf("it prints %q, want %q", b.String(), want)
		}
	}
}
