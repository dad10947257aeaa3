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

// wholeToken matches any whole token. One whose Secret could not be stored is unknown here, but must not leak either.
var wholeToken = regexp.MustCompile(`\b[a-z0-9]{6}\.[a-z0-9]{16}\b`)

// searchFiles searches all files below a directory for all canaries. Files that only the operator fills are also
// searched for anything like a token. It also returns the number of bytes in each file.
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

// The files that the search must have read. Of stored objects it reads every version.
const (
	metricsFile  = "metrics.txt"  // /metrics, scraped again and again
	eventsFile   = "events.txt"   // each Event that was stored
	statusesFile = "statuses.txt" // each NodeBootstrap that was stored
	othersFile   = "others.txt"   // all other stored objects, except Secrets
	auditFile    = "audit.log"
	managerLog   = "manager-" // and a number
)

// canaryNode is a node's name as long as the secret part of a token, and is searched for like one: finding it wherever the
// operator names nodes proves that the search covers those files.
const canaryNode = "canary4node5name"

// printedLeaks is how many leaks are printed, because one bad line of code leaks in many places.
const printedLeaks = 20

// checkLeaks searches for the secret part of every token that ever existed: in the logs of managers, servers and kubelets,
// in the audit log, in /metrics, and in everything that was ever stored outside of Secrets.
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
		isName := strings.HasPrefix(f.Name, canaryNode) && f.file != metricsFile // metrics have no labels with names of nodes
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
