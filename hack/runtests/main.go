// SPDX-License-Identifier: Apache-2.0

// Command runtests runs go test, shows how far it is, and prints a summary. The whole output of each package is in a log file;
// what is shown of it is that of failed tests.
//
// Usage: runtests [-without-cluster] [-logs DIRECTORY] PACKAGE ... [-- FLAG OF GO TEST ...]
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nodebootstrap/nodebootstrap/hack/progress"
)

const (
	project = "github.com/nodebootstrap/nodebootstrap/"
	// cluster is the package that all tests with a cluster depend on.
	cluster = project + "hack/localcluster"
)

func main() {
	without := flag.Bool("without-cluster", false, "leave out the packages whose tests depend on hack/localcluster: they can start a cluster")
	logs := flag.String("logs", "bin/test-logs", "the directory of the log files")
	flag.Parse()
	packages, flags := flag.Args(), []string(nil)
	if i := slices.Index(packages, "--"); i >= 0 {
		packages, flags = packages[:i], packages[i+1:]
	}
	if len(packages) == 0 {
		fmt.Fprintln(os.Stderr, "usage: runtests [-without-cluster] [-logs DIRECTORY] PACKAGE ... [-- FLAG OF GO TEST ...]")
		os.Exit(2)
	}
	code, err := run(packages, flags, *without, *logs)
	if err != nil {
		fmt.Fprintln(os.Stderr, "runtests:", err)
	}
	os.Exit(code)
}

func run(packages, flags []string, without bool, logs string) (int, error) {
	tested, err := list(packages)
	if err != nil {
		return 1, err
	}
	suites := len(tested)
	if without {
		packages = nil
		for pkg, deps := range tested {
			if !needsCluster(deps) {
				packages = append(packages, pkg)
			}
		}
		slices.Sort(packages)
		suites = len(packages)
	}
	show := progress.New(os.Stdout, 30*time.Second)
	r, err := newReport(show, logs, suites)
	if err != nil {
		return 1, err
	}
	stop := show.Every(r.State)
	code, err := goTest(append(packages, flags...), r.Read)
	stop()
	r.Summary()
	if code == 0 && r.failed() {
		code = 1
	}
	return code, err
}

// list returns what the tests of each package depend on, for those with tests.
func list(packages []string) (map[string][]string, error) {
	cmd := exec.Command("go", append([]string{"list", "-e", "-test", "-f", `{{.ImportPath}}{{range .Deps}}|{{.}}{{end}}`}, packages...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing the packages: %w", err)
	}
	tested := map[string][]string{}
	for line := range bytes.Lines(out) {
		words := strings.Split(strings.TrimSpace(string(line)), "|")
		if pkg, isTest := strings.CutSuffix(words[0], ".test"); isTest {
			tested[pkg] = words[1:]
		}
	}
	return tested, nil
}

// needsCluster reports whether dependencies include the local cluster, possibly compiled again for the test.
func needsCluster(deps []string) bool {
	return slices.ContainsFunc(deps, func(dep string) bool {
		path, _, _ := strings.Cut(dep, " ")
		return path == cluster
	})
}

// goTest runs go test in a process group of its own, passes signals on to that, and returns the exit code.
func goTest(args []string, read func(io.Reader)) (int, error) {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 1, err
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	interrupted := make(chan bool, 1)
	ended := make(chan struct{})
	go func() {
		was := false
		for {
			select {
			case s := <-signals:
				was = true
				_ = syscall.Kill(-cmd.Process.Pid, s.(syscall.Signal))
			case <-ended:
				interrupted <- was
				return
			}
		}
	}()
	read(out)
	err = cmd.Wait()
	close(ended)
	var exit *exec.ExitError
	switch {
	case <-interrupted:
		return 130, errors.New("interrupted")
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1), nil // what failed was printed
	case err != nil:
		return 1, err
	}
	return 0, nil
}
