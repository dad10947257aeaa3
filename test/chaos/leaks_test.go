// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// canaries are strings to look for, with their names, by their length.
type canaries map[int]map[string]string

// add adds the secret part of a token: plain, in hex, and as it shows in base64, where the bytes in front of it shift the
// encoding, and the characters at both ends depend on its neighbours.
func (c canaries) add(secret, name string) {
	c.put(secret, name)
	c.put(hex.EncodeToString([]byte(secret)), name+" in hex")
	for shift := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + secret))
		first, last := (8*shift+5)/6, 8*(shift+len(secret))/6
		c.put(encoded[first:last], name+" in base64")
	}
}

func (c canaries) put(s, name string) {
	if c[len(s)] == nil {
		c[len(s)] = map[string]string{}
	}
	c[len(s)][s] = name
}

// finding is a canary that was found in a file.
type finding struct{ file, name, where string }

func (f finding) String() string { return fmt.Sprintf("%s holds %s: %q", f.file, f.name, f.where) }

// find looks for all canaries in a text, also in the hex dumps in it.
func (c canaries) find(file string, text []byte) []finding {
	var found []finding
	for _, text := range [][]byte{text, undump(text)} {
		for length, known := range c {
			for i := 0; i+length <= len(text); i++ {
				if name, ok := known[string(text[i:i+length])]; ok {
					found = append(found, finding{file, name, around(text, i, length)})
				}
			}
		}
	}
	return found
}

// around is a place in a text, with what is searched for left out, and a bit before and after.
func around(text []byte, at, length int) string {
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

// wholeToken is what a whole token looks like. One whose Secret could not be stored is not known, but must not be told either.
var wholeToken = regexp.MustCompile(`\b[a-z0-9]{6}\.[a-z0-9]{16}\b`)

// searchFiles looks for all canaries in all files below a directory. In those that the operator alone fills it looks for
// anything like a token besides. It returns the number of bytes in each file, too.
func (c canaries) searchFiles(dir string) (found []finding, sizes map[string]int, err error) {
	sizes = map[string]int{}
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := entry.Name()
		sizes[name] = len(content)
		found = append(found, c.find(name, content)...)
		if strings.HasPrefix(name, managerLog) || name == metricsFile {
			for _, at := range wholeToken.FindAllIndex(content, -1) {
				found = append(found, finding{name, "what looks like a token", around(content, at[0], at[1]-at[0])})
			}
		}
		return nil
	})
	return found, sizes, err
}

// The files that the search has to have seen. Of what is stored every version counts.
const (
	metricsFile  = "metrics.txt"  // what /metrics said, again and again
	eventsFile   = "events.txt"   // each Event that was stored
	statusesFile = "statuses.txt" // each NodeBootstrap that was stored
	othersFile   = "others.txt"   // all else that was stored, except for Secrets
	auditFile    = "audit.log"
	managerLog   = "manager-" // and a number
)

// canaryNode is a node's name that is as long as the secret part of a token, and is searched for like one: that it is found
// wherever the operator names nodes shows that the search looks there.
const canaryNode = "canary4node5name"

// printedLeaks is how many leaks are printed: one bad line of code leaks in many places.
const printedLeaks = 20

// checkLeaks looks for the secret part of every token that there ever was: in the logs of managers, servers and kubelets, in
// the audit log, in what /metrics said, and in whatever was ever stored outside of Secrets.
func (s *suite) checkLeaks() {
	known := canaries{}
	known.add(canaryNode, canaryNode)
	tokens := look(s.seen, func(l *ledger) int {
		for part, name := range l.parts {
			known.add(part, name)
		}
		return len(l.parts)
	})
	found, sizes, err := known.searchFiles(s.dir)
	if err != nil {
		s.t.Error(err)
	}
	named := map[string]bool{}
	leaks := slices.DeleteFunc(found, func(f finding) bool {
		isName := strings.HasPrefix(f.name, canaryNode) && f.file != metricsFile // names of nodes have no place in metrics
		switch {
		case isName && strings.HasPrefix(f.file, managerLog):
			named[managerLog] = true
		case isName:
			named[f.file] = true
		}
		return isName
	})
	for _, leak := range leaks[:min(len(leaks), printedLeaks)] {
		s.t.Error(leak)
	}
	if more := len(leaks) - printedLeaks; more > 0 {
		s.t.Errorf("and %d more", more)
	}
	total := 0
	for _, size := range sizes {
		total += size
	}
	s.t.Logf("searched %d files with %d bytes for the secret parts of %d tokens", len(sizes), total, tokens)
	for _, file := range []string{eventsFile, statusesFile, auditFile, managerLog} {
		if !named[file] {
			s.t.Errorf("the search did not find the name of the node %s in %s", canaryNode, file)
		}
	}
	for _, file := range []string{metricsFile, othersFile, "kube-apiserver.log", "etcd.log", "kube-controller-manager.log"} {
		if sizes[file] == 0 {
			s.t.Errorf("there was nothing to search in %s", file)
		}
	}
}
