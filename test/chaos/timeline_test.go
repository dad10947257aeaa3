// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"time"
)

// timeline is a file of all events of the run, with their times.
type timeline struct {
	mu    sync.Mutex
	began time.Time
	file  *os.File
}

func newTimeline(path string) (*timeline, error) {
	file, err := os.Create(path)
	return &timeline{began: time.Now(), file: file}, err
}

func (l *timeline) elapsed() time.Duration { return time.Since(l.began) }

// note adds a line, with the seconds since the beginning.
func (l *timeline) note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.file, "%9.3f %s\n", l.elapsed().Seconds(), fmt.Sprintf(format, args...))
}

// tail is its last lines.
func (l *timeline) tail(lines int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	content, err := os.ReadFile(l.file.Name())
	if err != nil {
		return err.Error()
	}
	all := bytes.SplitAfter(content, []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], nil))
}
