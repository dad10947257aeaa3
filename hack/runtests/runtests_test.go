// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/hack/progress"
)

// tested is a module with a package for each way in which tests end.
var tested = map[string]string{
	"go.mod":            "module example.com/tested\n\ngo 1.26\n",
	"good/good_test.go": "package good\nimport \"testing\"\nfunc TestGood(t *testing.T) { t.Run(\"sub\", func(t *testing.T) { t.Log(\"not shown\") }); t.Run(\"left out\", func(t *testing.T) { t.Skip(\"not shown\") }) }\n",
	"bad/bad_test.go": "package bad\nimport \"testing\"\nfunc TestGood(t *testing.T) { t.Log(\"not shown\") }\n" +
		"func TestBad(t *testing.T) { t.Run(\"good\", func(t *testing.T) { t.Log(\"not shown\") }); t.Run(\"bad\", func(t *testing.T) { t.Log(\"what led to it\"); t.Error(\"it failed\") }) }\n",
	"panics/panics_test.go": "package panics\nimport \"testing\"\nfunc TestGood(t *testing.T) {}\nfunc TestPanic(t *testing.T) { panic(\"for no reason\") }\n",
	"exits/exits_test.go":   "package exits\nimport (\"os\"; \"testing\")\nfunc TestMain(m *testing.M) { println(\"no cluster\"); os.Exit(3) }\nfunc TestGood(t *testing.T) {}\n",
	"broken/broken_test.go": "package broken\nimport \"testing\"\nfunc TestGood(t *testing.T) { undefined() }\n",
	"none/none.go":          "package none\n",
	"waits/waits_test.go":   "package waits\nimport \"testing\"\nfunc TestWaits(t *testing.T) { println(\"it waits\"); select {} }\n",
}

// runIn builds this program and returns a command that runs it in the module above.
func command(t *testing.T, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range tested {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	program := filepath.Join(dir, "runtests")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), program, append([]string{"-logs", "logs"}, args...)...)
	output := &bytes.Buffer{}
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, output, output
	return cmd, output
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// squeezed has one space for several, so that tables can be compared.
func squeezed(output *bytes.Buffer) string {
	var lines []string
	for line := range strings.Lines(output.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

func want(t *testing.T, output string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(output, part) {
			t.Errorf("the output lacks %q:\n%s", part, output)
		}
	}
}

// Failed tests are shown in full, with what a compiler or a panic says, and what passed is not; the exit code says that some failed.
func TestFailures(t *testing.T) {
	cmd, output := command(t, "./good", "./bad", "./panics", "./exits", "./broken", "./none", "--", "-count=1", "-p=1")
	err := cmd.Run()
	if cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended with %v", err)
	}
	text := squeezed(output)
	want(t, text, "ok 1 of 5: example.com/tested/good, 2 passed, 1 skipped, ", "FAIL 2 of 5: example.com/tested/bad, 2 passed, 2 failed, ",
		"what led to it", "it failed", "panic: for no reason", "no cluster", "undefined: undefined",
		"example.com/tested/good 2 0 1 ", "example.com/tested/bad 2 2 0 ", "all 5 3 1 ", "9 tests, subtests included. The log of each suite is in logs.",
		"FAIL example.com/tested/bad: TestBad TestBad/bad", "FAIL example.com/tested/panics: TestPanic", "FAIL example.com/tested/exits:", "FAIL example.com/tested/broken:")
	for _, part := range []string{"not shown", "did not run", "tested/none"} {
		if strings.Contains(text, part) {
			t.Errorf("the output has %q:\n%s", part, text)
		}
	}
	log, err := os.ReadFile(filepath.Join(cmd.Dir, "logs", "example.com-tested-bad.log"))
	must(t, err)
	want(t, string(log), "not shown", "it failed")
}

func TestSuccess(t *testing.T) {
	cmd, output := command(t, "./good", "./none", "--", "-count=1")
	if err := cmd.Run(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
	want(t, squeezed(output), "ok 1 of 1: example.com/tested/good", "all 2 0 1 ")
}

// A package that does not exist, or a flag, is no success.
func TestUsage(t *testing.T) {
	for args, code := range map[string]int{"./absent": 1, "./good -- -no-such-flag": 1, "": 2} {
		cmd, output := command(t, strings.Fields(args)...)
		_ = cmd.Run()
		if cmd.ProcessState.ExitCode() != code {
			t.Errorf("%q ended with %d, want %d\n%s", args, cmd.ProcessState.ExitCode(), code, output)
		}
	}
}

// An interrupt ends the tests, and what has run so far is in the summary.
func TestInterrupt(t *testing.T) {
	cmd, output := command(t, "./good", "./waits", "--", "-count=1", "-p=1")
	must(t, cmd.Start())
	log := filepath.Join(cmd.Dir, "logs", "example.com-tested-waits.log")
	for {
		if content, _ := os.ReadFile(log); bytes.Contains(content, []byte("it waits")) {
			break
		}
		select {
		case <-t.Context().Done():
			t.Fatal("it never waits")
		case <-time.After(10 * time.Millisecond):
		}
	}
	must(t, cmd.Process.Signal(os.Interrupt))
	_ = cmd.Wait()
	if cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("it ended with %d", cmd.ProcessState.ExitCode())
	}
	want(t, squeezed(output), "ok 1 of 2: example.com/tested/good", "all 2 0 1 ", "FAIL example.com/tested/waits", "interrupted")
}

// Those packages need a cluster whose tests depend on the local one, however indirectly.
func TestWithoutCluster(t *testing.T) {
	packages, err := list([]string{project + "..."})
	must(t, err)
	for name, need := range map[string]bool{
		"controllers": true, "test/e2e": true, "test/join": true, "hack/localcluster": true,
		"internal/csr": false, "cmd/kubectl-nodebootstrap": false, "test/faults": false, "test/rendered": false, "test/monitoring": false,
	} {
		deps, ok := packages[project+name]
		if !ok || needsCluster(deps) != need {
			t.Errorf("%s: has tests: %v, needs a cluster: %v", name, ok, needsCluster(deps))
		}
	}
}

func TestState(t *testing.T) {
	r, err := newReport(progress.NewPlain(&bytes.Buffer{}, time.Hour), t.TempDir(), 3)
	must(t, err)
	want(t, r.State(), "0s: compiling suite 1 of 3")
	for i := range 2 {
		r.handle(event{Action: "pass", Package: project + "test/e2e", Test: fmt.Sprint(i)})
	}
	want(t, r.State(), "1 of 3: test/e2e, 2 passed, 0s")
	r.handle(event{Action: "fail", Package: project + "test/join", Test: "T"})
	want(t, r.State(), "1 of 3: test/e2e, 2 passed, 0s; 2 of 3: test/join, 0 passed, 1 failed, 0s")
	r.handle(event{Action: "pass", Package: project + "test/e2e"})
	want(t, r.State(), "2 of 3: test/join, 0 passed, 1 failed, 0s")
}
