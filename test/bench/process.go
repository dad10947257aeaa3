// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// peakMemory is the most that a process had in memory, in MiB (VmHWM, proc_pid_status(5)).
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

// cpu is how much of a processor a process has had (utime and stime, proc_pid_stat(5)).
func (m *running) cpu() (time.Duration, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.PID()))
	if err != nil {
		return 0, err
	}
	const utime, stime, perSecond = 11, 12, 100 // after the name in parentheses; USER_HZ
	_, after, _ := strings.Cut(string(content), ") ")
	fields := strings.Fields(after)
	if len(fields) <= stime {
		return 0, fmt.Errorf("process %d: /proc/pid/stat is %q", m.PID(), content)
	}
	total := 0
	for _, i := range []int{utime, stime} {
		ticks, err := strconv.Atoi(fields[i])
		if err != nil {
			return 0, err
		}
		total += ticks
	}
	return time.Duration(total) * time.Second / perSecond, nil
}
