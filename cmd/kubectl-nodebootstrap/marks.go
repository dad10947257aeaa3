// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"

	"github.com/jedib0t/go-pretty/v6/text"
	"k8s.io/cli-runtime/pkg/printers"
)

// The marks with which the line of a result begins.
const (
	markGood    = "✔"
	markBad     = "✗"
	markWarning = "!"
)

// marker colors marks on a terminal. The mark itself says what the color says.
type marker struct{ colors bool }

// newMarker returns a marker for an output.
func newMarker(out io.Writer) marker {
	return marker{wantsColors(printers.IsTerminal(out), os.Getenv)}
}

// wantsColors reports whether an output may have colors, as https://no-color.org says.
func wantsColors(isTerminal bool, getenv func(string) string) bool {
	return isTerminal && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
}

// mark returns a mark as it is printed. Pad the text beside it, and not the mark: colors count as width.
func (m marker) mark(mark string) string {
	colors := map[string]text.Color{markGood: text.FgGreen, markBad: text.FgRed, markWarning: text.FgYellow}
	color, known := colors[mark]
	if !m.colors || !known {
		return mark
	}
	return color.Sprint(mark)
}
