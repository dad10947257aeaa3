// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nodebootstrap/nodebootstrap/hack/progress"
)

// event is one of go test -json: see go doc test2json, and go help buildjson.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
	ImportPath, FailedBuild       string
}

// suite is the tests of one package.
type suite struct {
	name                    string
	log                     *os.File
	began                   time.Time
	took                    time.Duration
	cached                  bool
	passed, failed, skipped int
	broken                  bool // the package failed, with or without a failed test

	// lines are the output so far, and results the results of tests by name.
	lines   []line
	results map[string]string
}

type line struct{ test, text string }

// report follows the events of go test.
type report struct {
	show   *progress.Display
	logs   string
	suites int
	began  time.Time

	mu      sync.Mutex
	running []*suite
	ended   []*suite
	builds  map[string][]string // output of the compiler, by package
}

func newReport(show *progress.Display, logs string, suites int) (*report, error) {
	return &report{show: show, logs: logs, suites: suites, began: time.Now(), builds: map[string][]string{}}, os.MkdirAll(logs, 0o755)
}

// Read follows events until they end.
func (r *report) Read(events io.Reader) {
	for lines := bufio.NewReader(events); ; {
		text, err := lines.ReadString('\n')
		var e event
		switch {
		case text == "":
		case json.Unmarshal([]byte(text), &e) != nil:
			r.show.Line("%s", strings.TrimSuffix(text, "\n"))
		default:
			r.handle(e)
		}
		if err != nil {
			return
		}
	}
}

func (r *report) handle(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch e.Action {
	case "build-output":
		r.builds[e.ImportPath] = append(r.builds[e.ImportPath], e.Output)
		return
	case "build-fail":
		return
	}
	s := r.suite(e.Package)
	switch {
	case e.Action == "output":
		s.output(e)
	case e.Test != "" && slices.Contains([]string{"pass", "fail", "skip"}, e.Action):
		s.results[e.Test] = e.Action
		*map[string]*int{"pass": &s.passed, "fail": &s.failed, "skip": &s.skipped}[e.Action]++
	case e.Test == "" && slices.Contains([]string{"pass", "fail", "skip"}, e.Action):
		for _, text := range r.builds[e.FailedBuild] {
			s.output(event{Output: text})
		}
		r.end(s, e)
	}
}

// suite returns a package's suite, which begins with its first event.
func (r *report) suite(pkg string) *suite {
	name := strings.TrimPrefix(pkg, project)
	for _, s := range r.running {
		if s.name == name {
			return s
		}
	}
	s := &suite{name: name, began: time.Now(), results: map[string]string{}}
	var err error
	s.log, err = os.Create(filepath.Join(r.logs, strings.ReplaceAll(name, "/", "-")+".log"))
	if err != nil {
		r.show.Line("There is no log of %s: %v", name, err)
	}
	r.running = append(r.running, s)
	return s
}

func (s *suite) output(e event) {
	if s.log != nil {
		_, _ = s.log.WriteString(e.Output)
	}
	s.lines = append(s.lines, line{e.Test, e.Output})
	s.cached = s.cached || e.Test == "" && strings.HasPrefix(e.Output, "ok ") && strings.Contains(e.Output, "(cached)")
}

// end prints the result of a suite. Packages without tests are not mentioned.
func (r *report) end(s *suite, e event) {
	r.running = slices.DeleteFunc(r.running, func(other *suite) bool { return other == s })
	if s.log != nil {
		s.log.Close()
	}
	s.took = time.Duration(e.Elapsed * float64(time.Second)).Round(100 * time.Millisecond)
	s.broken = e.Action == "fail"
	if e.Action == "skip" && len(s.results) == 0 {
		if s.log != nil {
			_ = os.Remove(s.log.Name())
		}
		return
	}
	r.ended = append(r.ended, s)
	result := "ok  "
	if s.broken {
		r.printFailed(s)
		result = "FAIL"
	}
	r.show.Line("%s %2d of %d: %s, %s, %s", result, len(r.ended), max(r.suites, len(r.ended)), s.name, s.counts(), s.time())
	s.lines = nil
}

// printFailed prints the output of the tests of a suite that neither passed nor were skipped, in order, and what belongs to no test.
func (r *report) printFailed(s *suite) {
	var b strings.Builder
	for _, l := range s.lines {
		if result := s.results[l.test]; result != "pass" && result != "skip" {
			b.WriteString(l.text)
		}
	}
	r.show.Line("%s", strings.TrimSuffix(b.String(), "\n"))
}

func (s *suite) counts() string {
	text := fmt.Sprintf("%d passed", s.passed)
	if s.failed > 0 {
		text += fmt.Sprintf(", %d failed", s.failed)
	}
	if s.skipped > 0 {
		text += fmt.Sprintf(", %d skipped", s.skipped)
	}
	return text
}

func (s *suite) time() string {
	if s.cached {
		return "cached: nothing has changed"
	}
	return s.took.String()
}

// State is what runs now.
func (r *report) State() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	after := time.Since(r.began).Round(time.Second)
	if len(r.running) == 0 {
		return fmt.Sprintf("  %s: compiling suite %d of %d", after, len(r.ended)+1, r.suites)
	}
	var now []string
	for i, s := range r.running {
		now = append(now, fmt.Sprintf("%d of %d: %s, %s, %s", len(r.ended)+1+i, r.suites, s.name, s.counts(), time.Since(s.began).Round(time.Second)))
	}
	return fmt.Sprintf("  %s: %s", after, strings.Join(now, "; "))
}

func (r *report) failed() bool {
	return slices.ContainsFunc(r.ended, func(s *suite) bool { return s.broken })
}

// Summary prints the number of tests, the time of each suite, what failed and where the logs are.
func (r *report) Summary() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.running { // go test was interrupted
		s.broken, s.took = true, time.Since(s.began).Round(100*time.Millisecond)
		r.ended = append(r.ended, s)
	}
	r.running = nil
	var all suite
	r.show.Line("\n%-34s %6s %6s %7s %10s", "suite", "passed", "failed", "skipped", "time")
	for _, s := range r.ended {
		r.show.Line("%-34s %6d %6d %7d %10s", s.name, s.passed, s.failed, s.skipped, s.took)
		all.passed, all.failed, all.skipped = all.passed+s.passed, all.failed+s.failed, all.skipped+s.skipped
	}
	r.show.Line("%-34s %6d %6d %7d %10s", "all", all.passed, all.failed, all.skipped, time.Since(r.began).Round(time.Second))
	r.show.Line("\n%d tests, subtests included. The log of each suite is in %s.", all.passed+all.failed+all.skipped, r.logs)
	for _, s := range r.ended {
		if !s.broken {
			continue
		}
		var tests []string
		for test, result := range s.results {
			if result == "fail" {
				tests = append(tests, test)
			}
		}
		slices.Sort(tests)
		r.show.Line("FAIL %s: %s", s.name, strings.Join(tests, " "))
	}
	if len(r.ended) < r.suites {
		r.show.Line("%d of %d suites did not run to the end.", r.suites-len(r.ended), r.suites)
	}
}
