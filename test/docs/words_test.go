// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

func read(t *testing.T, name string) string {
	t.Helper()
	root, err := localcluster.ProjectRoot()
	env.Must(t, err)
	content, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
	env.Must(t, err)
	return string(content)
}

var constant = regexp.MustCompile(`(?m)^\s*(Condition|Reason)\w+\s+= "(\w+)"$`)

// docs/troubleshooting.md explains each condition, each of its reasons, and each reason of a verdict. docs/verdicts.md lists all
// reasons of verdicts.
func TestEachReasonIsExplained(t *testing.T) {
	troubleshooting, reference := read(t, "docs/troubleshooting.md"), read(t, "docs/verdicts.md")
	found := constant.FindAllStringSubmatch(read(t, "api/v1alpha1/conditions.go"), -1)
	for _, file := range []string{"csr.go", "client.go", "serving.go"} {
		verdicts := constant.FindAllStringSubmatch(read(t, "internal/csr/"+file), -1)
		found = append(found, verdicts...)
		for _, m := range verdicts {
			if !strings.Contains(reference, "\n| `"+m[2]+"` |") {
				t.Errorf("the table in docs/verdicts.md does not have %s", m[2])
			}
		}
	}
	if len(found) < 40 {
		t.Fatalf("only %d conditions and reasons are found", len(found))
	}
	for _, m := range found {
		name := "`" + m[2] + "`"
		if m[1] == "Condition" {
			name = m[2]
		}
		if !strings.Contains(troubleshooting, name) {
			t.Errorf("docs/troubleshooting.md does not have %s", m[2])
		}
	}
}

// docs/verdicts.md has each check of a CSR by its name.
func TestEachCheckIsListed(t *testing.T) {
	doc := read(t, "docs/verdicts.md")
	for _, f := range slices.Concat(csr.ClientFindings(csr.Result{}), csr.ServingFindings(csr.Result{})) {
		if !strings.Contains(doc, "`"+f.Check+"`") {
			t.Errorf("docs/verdicts.md does not have %s", f.Check)
		}
	}
}

var alert = regexp.MustCompile(`(?m)^ *- alert: (\w+)$`)

// docs/metrics.md lists each alert that ships.
func TestEachAlertIsListed(t *testing.T) {
	doc := read(t, "docs/metrics.md")
	alerts := alert.FindAllStringSubmatch(read(t, "config/components/prometheus/rules.yaml"), -1)
	if len(alerts) < 10 {
		t.Fatalf("only %d alerts are found", len(alerts))
	}
	for _, m := range alerts {
		if !strings.Contains(doc, "| `"+m[1]+"` |") {
			t.Errorf("docs/metrics.md does not list %s", m[1])
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// Links within the project have a target, including the heading.
func TestLinks(t *testing.T) {
	documents, err := Documents()
	env.Must(t, err)
	for _, name := range documents {
		for _, m := range link.FindAllStringSubmatch(withoutBlocks(read(t, name)), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(m[1], "#")
			target := name
			if path != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(name), filepath.FromSlash(path)))
			}
			if !isThere(t, target) {
				t.Errorf("%s: %s is not there", name, m[1])
			} else if anchor != "" && !HasHeading(read(t, target), anchor) {
				t.Errorf("%s: %s has no such heading", name, m[1])
			}
		}
	}
}

func isThere(t *testing.T, name string) bool {
	t.Helper()
	root, err := localcluster.ProjectRoot()
	env.Must(t, err)
	_, err = os.Stat(filepath.Join(root, filepath.FromSlash(name)))
	return err == nil
}

var (
	use    = regexp.MustCompile(`(?m)^\s*(?:- )?uses: (.*)$`)
	pinned = regexp.MustCompile(`^[\w.-]+/[\w./-]+@[0-9a-f]{40} # v[0-9.]+$`)
)

// An action is pinned by its commit, so that a moved tag changes nothing.
func TestActionsArePinned(t *testing.T) {
	for _, name := range []string{".github/workflows/ci.yaml", ".github/workflows/release.yaml"} {
		found := use.FindAllStringSubmatch(read(t, name), -1)
		if len(found) == 0 {
			t.Errorf("%s uses no action", name)
		}
		for _, m := range found {
			if !pinned.MatchString(m[1]) {
				t.Errorf("%s: %s is not pinned by its commit", name, m[1])
			}
		}
	}
}
