// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// finding is a canary that was found in a file.
type finding struct {
	file string
	invariants.Found
}

func (f finding) String() string {
	return invariants.Secrets.Violated("%s has %s: %q", f.file, f.Name, f.Around)
}

// wholeToken is what a whole token looks like. One whose Secret could not be stored is not known, but must not be told either.
var wholeToken = regexp.MustCompile(`\b[a-z0-9]{6}\.[a-z0-9]{16}\b`)

// searchFiles looks for all canaries in all files below a directory. In those that the operator alone fills it looks for
// anything like a token besides. It returns the number of bytes in each file, too.
func searchFiles(known *invariants.Canaries, dir string) (found []finding, sizes map[string]int, err error) {
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
		for _, f := range known.In(content) {
			found = append(found, finding{name, f})
		}
		if strings.HasPrefix(name, managerLog) || name == metricsFile {
			for _, at := range wholeToken.FindAllIndex(content, -1) {
				found = append(found, finding{name, invariants.Found{Name: "what looks like a token", Around: invariants.Around(content, at[0], at[1]-at[0])}})
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
	parts := look(s.seen, func(l *ledger) map[string]string { return maps.Clone(l.Parts) })
	tokens := len(parts)
	parts[canaryNode] = canaryNode
	found, sizes, err := searchFiles(invariants.CanariesOf(parts), s.dir)
	if err != nil {
		s.t.Error(err)
	}
	named := map[string]bool{}
	leaks := slices.DeleteFunc(found, func(f finding) bool {
		isName := strings.HasPrefix(f.Name, canaryNode) && f.file != metricsFile // names of nodes have no place in metrics
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
