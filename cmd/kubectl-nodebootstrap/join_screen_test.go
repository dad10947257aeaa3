// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// buffer is written by the table while a test reads it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// The table shows the last step of each machine, and every step of one that failed.
func TestTable(t *testing.T) {
	var out buffer
	targets := []joinTarget{{"a", "root@192.0.2.7"}, {"worker-2", "b"}}
	table := newTable(&out, targets)
	first, second := table.begin(targets[0]), table.begin(targets[1])
	first.step("[check] one\nand more")
	second.step("[check] \x1b[2Jtwo")
	waitFor(t, "both steps", func() bool { return strings.Contains(out.String(), "one") && strings.Contains(out.String(), "two") })
	first.end(nil)
	second.step("[undo] three")
	second.end(errors.New("no kubelet"))
	table.close()
	table.close()
	text := out.String()
	mention(t, "the table", text, "a         root@192.0.2.7  [check] one ", "worker-2  b               [check] \ufffd[2Jtwo ",
		"[check] \ufffd[2Jtwo\nworker-2: ", "[undo] three\nworker-2: ", "error: no kubelet", "worker-2  b               failed ")
	if strings.Contains(text, "a: ") || strings.Contains(text, "and more") {
		t.Errorf("the steps of the machine that has joined are listed: %q", text)
	}
}

// A table whose machines end at once ends too.
func TestTableEnds(t *testing.T) {
	for i := range 5 {
		var out buffer
		targets := []joinTarget{{fmt.Sprintf("node-%d", i), "host"}}
		table := newTable(&out, targets)
		table.begin(targets[0]).end(errors.New("refused"))
		table.close()
		mention(t, "the table", out.String(), "error: refused")
	}
}

func TestLines(t *testing.T) {
	var out bytes.Buffer
	several := lines{out: &out, named: true}
	timeline := several.begin(joinTarget{"a", "host"})
	timeline.step("one\ntwo")
	timeline.end(errors.New("three"))
	for i, want := range []string{"s  one", "a: two", "s  error: three"} {
		if line := strings.Split(out.String(), "\n")[i]; !strings.HasPrefix(line, "a: ") || !strings.HasSuffix(line, want) {
			t.Errorf("line %d is %q, want a: and %q", i, line, want)
		}
	}
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !done() {
		select {
		case <-deadline:
			t.Fatalf("%s did not appear", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
