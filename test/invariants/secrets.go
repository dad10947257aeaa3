// SPDX-License-Identifier: Apache-2.0

package invariants

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"regexp"
	"strings"
)

// Canaries are strings to look for, with their names.
type Canaries struct {
	byLength map[int]map[string]string
	starts   [1 << 16]bool // by their first two bytes
}

// CanariesOf are the secret parts of tokens, by their names: plain, in hex, and as they show in base64, where the bytes in front of one
// shift the encoding, and the characters at both ends depend on its neighbours.
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

// Found is a canary that was found, and what is around it, without it.
type Found struct{ Name, Around string }

// In looks for all canaries in a text, also in the hex dumps in it.
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

// Around is a place in a text, with what is searched for left out, and a bit before and after.
func Around(text []byte, at, length int) string {
	const margin = 60
	before, after := text[max(0, at-margin):at], text[at+length:min(len(text), at+length+margin)]
	return string(bytes.Join([][]byte{before, after}, []byte("(here)")))
}

// dumpLine is a line as hex.Dump writes it, 16 bytes in hex: client-go logs what it sends and gets like that.
var dumpLine = regexp.MustCompile(`[0-9a-f]{8}  ((?:[0-9a-f]{2}  ?){1,16}) *\|`)

// undump is what was dumped in hex somewhere in a text.
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
