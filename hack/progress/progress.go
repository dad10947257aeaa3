// SPDX-License-Identifier: Apache-2.0

// Package progress shows how far something is that takes minutes.
package progress

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Display prints lines, and the current state between them: on a terminal in place, elsewhere as a line now and then.
type Display struct {
	mu       sync.Mutex
	w        io.Writer
	terminal bool
	interval time.Duration
	width    int // of the state that is shown
}

// New returns a display on a file, which shows a state every interval where that is no terminal.
func New(file *os.File, interval time.Duration) *Display {
	info, err := file.Stat()
	if err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb" {
		return &Display{w: file, terminal: true, interval: 200 * time.Millisecond}
	}
	return &Display{w: file, interval: interval}
}

// Line prints a line that stays.
func (d *Display) Line(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clear()
	fmt.Fprintf(d.w, format+"\n", args...)
}

func (d *Display) clear() {
	if d.width > 0 {
		fmt.Fprintf(d.w, "\r%*s\r", d.width, "")
	}
	d.width = 0
}

// NewPlain returns a display on a writer that is no terminal.
func NewPlain(w io.Writer, interval time.Duration) *Display {
	return &Display{w: w, interval: interval}
}

// State shows a state, in the place of the one before on a terminal.
func (d *Display) State(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.terminal {
		fmt.Fprintln(d.w, text)
		return
	}
	d.clear()
	text = text[:min(len(text), 79)] // one line, which can be replaced
	fmt.Fprint(d.w, text)
	d.width = len(text)
}

// Every shows a state at intervals, until the returned function is called.
func (d *Display) Every(state func() string) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(d.interval)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				d.State(state())
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
		d.mu.Lock()
		defer d.mu.Unlock()
		d.clear()
	}
}
