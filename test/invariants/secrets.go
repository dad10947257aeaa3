// SPDX-License-Identifier: Apache-2.0

package invariants

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"regexp"
	"strings"
)

// Canaries are strings to search for, with their names.
type Canaries struct {
	byLength map[int]map[string]string
	starts   [1 << 16]bool // by their first two bytes
}

// CanariesOf are the secret parts of tokens, by their names: plain, in hex, and in base64 at each of the three offsets, without
// the characters at both ends, which depend on their neighbours.
func CanariesOf(parts map[string]string) *Canaries {
	c := &Canaries{byLength: map[int]map[string]string{}}
	for part, name := range parts {
		c.put(part, name)
		c.put(hex.EncodeToString([]byte(part)), name+" in hex")
		for shift := range 3 {
			encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + part))
			first, last := (8*shift+5)/6, 8*(shift+len(part))/6
			c.put(encoded[first:last], name+" in base64")
		}
	}
	return c
}

func (c *Canaries) put(s, name string) {
	if c.byLength[len(s)] == nil {
		c.byLength[len(s)] = map[string]string{}
	}
	c.byLength[len(s)][s] = name
	c.starts[int(s[0])<<8|int(s[1])] = true
}

// Found is a canary that was found, and the text around it, without it.
type Found struct{ Name, Around string }

// In searches a text for all canaries, also in hex dumps.
func (c *Canaries) In(text []byte) []Found {
	found := c.in(text)
	if bytes.Contains(text, []byte("00000000  ")) {
		found = append(found, c.in(undump(text))...)
	}
	return found
}

func (c *Canaries) in(text []byte) []Found {
	var found []Found
	for i := 0; i+1 < len(text); i++ {
		if !c.starts[int(text[i])<<8|int(text[i+1])] {
			continue
		}
		for length, known := range c.byLength {
			if i+length > len(text) {
				continue
			}
			if name, ok := known[string(text[i:i+length])]; ok {
				found = append(found, Found{name, Around(text, i, length)})
			}
		}
	}
	return found
}

// Around is the text around a match, which is left out.
func Around(text []byte, at, length int) string {
	const margin = 60
	before, after := text[max(0, at-margin):at], text[at+length:min(len(text), at+length+margin)]
	return string(bytes.Join([][]byte{before, after}, []byte("(here)")))
}

// dumpLine is a line as hex.Dump writes it, 16 bytes in hex: client-go logs bodies in this way.
var dumpLine = regexp.MustCompile(`[0-9a-f]{8}  ((?:[0-9a-f]{2}  ?){1,16}) *\|`)

// undump is the bytes of all hex dumps in a text.
func undump(text []byte) []byte {
	var out []byte
	for _, line := range dumpLine.FindAllSubmatch(text, -1) {
		decoded, err := hex.DecodeString(strings.ReplaceAll(string(line[1]), " ", ""))
		if err == nil {
			out = append(out, decoded...)
		}
	}
	return out
}
