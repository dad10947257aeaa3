// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// peakMemory is the peak resident memory of the process, in MiB (VmHWM, proc_pid_status(5)).
func (m *running) peakMemory() (float64, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.PID()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(content)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "VmHWM:" {
			kib, err := strconv.ParseFloat(fields[1], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmHWM", m.PID())
}

// cpu is the processor time that the manager has used.
func (m *running) cpu() (time.Duration, error) {
	_, used, err := processTimes(m.PID())
	return used, err
}

// pause stops the process of the manager, which uses no processor time until it is resumed.
func (m *running) pause() error { return m.signal(syscall.SIGSTOP) }

func (m *running) resume() error { return m.signal(syscall.SIGCONT) }

func (m *running) signal(s syscall.Signal) error {
	if err := syscall.Kill(m.PID(), s); err != nil {
		return fmt.Errorf("sending %s to the manager: %w", s, err)
	}
	return nil
}

// restAndPause waits until the manager, if there is one, is idle, and pauses it.
func (m *running) restAndPause(ctx context.Context) error {
	if m == nil {
		return nil
	}
	if _, err := m.untilQuiet(ctx); err != nil {
		return err
	}
	return m.pause()
}

// processTimes are the parent of a process and the processor time that it has used (utime and stime, proc_pid_stat(5)).
func processTimes(pid int) (parent int, used time.Duration, err error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	const ppid, utime, stime, perSecond = 1, 11, 12, 100 // after the name in parentheses; USER_HZ
	_, after, _ := strings.Cut(string(content), ") ")
	fields := strings.Fields(after)
	if len(fields) <= stime {
		return 0, 0, fmt.Errorf("process %d: /proc/pid/stat is %q", pid, content)
	}
	var n [3]int
	for i, field := range []int{ppid, utime, stime} {
		if n[i], err = strconv.Atoi(fields[field]); err != nil {
			return 0, 0, err
		}
	}
	return n[0], time.Duration(n[1]+n[2]) * time.Second / perSecond, nil
}

// usage is the processor time that this program and each process that it has started have used, by their names.
func usage() map[string]time.Duration {
	out := map[string]time.Duration{}
	paths, _ := filepath.Glob("/proc/[0-9]*/exe") // the pattern is valid
	for _, path := range paths {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		parent, used, err := processTimes(pid)
		if err != nil || parent != os.Getpid() && pid != os.Getpid() {
			continue // it has ended, or is not ours
		}
		if exe, err := os.Readlink(path); err == nil {
			out[filepath.Base(exe)] += used
		}
	}
	return out
}

// addUsage records the processor time of each of n things since before, by program.
func (b *bench) addUsage(key string, n int, before map[string]time.Duration) {
	for name, used := range usage() {
		if used -= before[name]; used > 0 {
			b.results.add(fmt.Sprintf("%s_cpu_ms_%s", key, name), milliseconds(used)/float64(n))
		}
	}
}
