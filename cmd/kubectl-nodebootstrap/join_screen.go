// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"golang.org/x/term"
)

// timeline shows the steps of one machine.
type timeline interface {
	// step shows what happens now, in one line or more.
	step(text string)
	// end is called once, after the last step, with nil or why the machine did not join.
	end(err error)
}

// screen shows the steps of all machines.
type screen interface {
	// begin begins the timeline of a machine.
	begin(t joinTarget) timeline
	// close is called after the end of each timeline.
	close()
}

// lines shows each step as a line, for files, pipes, and a single machine.
type lines struct {
	mu  sync.Mutex
	out io.Writer
	// named reports whether each line begins with the name of its node.
	named bool
}

func (l *lines) begin(t joinTarget) timeline {
	prefix := ""
	if l.named {
		prefix = t.node + ": "
	}
	return &lineTimeline{lines: l, prefix: prefix, start: time.Now()}
}

func (l *lines) close() {}

type lineTimeline struct {
	*lines
	prefix string
	start  time.Time
}

func (t *lineTimeline) step(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, line := range strings.Split(strings.Trim(printable(text), "\n"), "\n") {
		if i == 0 {
			line = fmt.Sprintf("%7.2f s  %s", time.Since(t.start).Seconds(), line)
		}
		fmt.Fprintln(t.out, t.prefix+line)
	}
}

func (t *lineTimeline) end(err error) {
	if err != nil && t.named {
		t.step("error: " + err.Error())
	}
}

// table has a row for each machine that is being joined, and redraws them. Rows of machines that are done scroll away above it, after
// all steps of a machine that failed.
type table struct {
	writer progress.Writer
	ended  chan struct{}
	format string
}

// tableInterval is the time between two redraws.
const tableInterval = 200 * time.Millisecond

// newTable draws a table for machines on a terminal.
func newTable(out io.Writer, targets []joinTarget) *table {
	node, host := 0, 0
	for _, t := range targets {
		node, host = max(node, len(t.node)), max(host, len(t.destination))
	}
	w := progress.NewWriter()
	w.SetOutputWriter(out)
	w.SetUpdateFrequency(tableInterval)
	w.SetTrackerPosition(progress.PositionRight)
	style := progress.StyleDefault
	style.Visibility = progress.StyleVisibility{Time: true}
	style.Options.Separator, style.Options.DoneString, style.Options.ErrorString = " ", "", ""
	style.Options.TimeInProgressPrecision, style.Options.TimeDonePrecision = 100*time.Millisecond, 100*time.Millisecond
	w.SetStyle(style)
	if f, ok := out.(*os.File); ok { // the writer would measure standard output
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			w.SetTerminalWidth(width)
		}
	}
	t := &table{writer: w, ended: make(chan struct{}), format: fmt.Sprintf("%%-%ds  %%-%ds  %%s", node, host)}
	go func() {
		defer close(t.ended)
		w.Render()
	}()
	return t
}

func (t *table) begin(target joinTarget) timeline {
	r := &row{table: t, target: target, tracker: &progress.Tracker{}, start: time.Now()}
	r.update("connecting")
	t.writer.AppendTracker(r.tracker)
	return r
}

func (t *table) close() {
	for { // Stop does nothing before Render has begun
		t.writer.Stop()
		select {
		case <-t.ended:
			return
		case <-time.After(tableInterval):
		}
	}
}

// row shows the last step of a machine.
type row struct {
	*table
	target  joinTarget
	tracker *progress.Tracker
	start   time.Time
	mu      sync.Mutex
	log     strings.Builder
}

func (r *row) step(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text = strings.Trim(printable(text), "\n")
	for i, line := range strings.Split(text, "\n") {
		if i == 0 {
			line = fmt.Sprintf("%7.2f s  %s", time.Since(r.start).Seconds(), line)
		}
		fmt.Fprintf(&r.log, "%s: %s\n", r.target.node, line)
	}
	first, _, _ := strings.Cut(text, "\n")
	r.update(strings.TrimSpace(first))
}

func (r *row) update(step string) {
	r.tracker.UpdateMessage(fmt.Sprintf(r.format, r.target.node, r.target.destination, step))
}

func (r *row) end(err error) {
	if err == nil {
		r.tracker.MarkAsDone()
		return
	}
	r.step("error: " + err.Error())
	r.writer.Log("%s", strings.TrimSuffix(r.log.String(), "\n"))
	r.update("failed")
	r.tracker.MarkAsErrored()
}
