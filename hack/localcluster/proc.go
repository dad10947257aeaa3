// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// findChild returns the ID of our child that has arg among its arguments, or 0.
// Without /proc it finds nothing.
func findChild(arg string) int {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if !isChild(pid) {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err == nil && slices.ContainsFunc(bytes.Split(cmdline, []byte{0}), func(b []byte) bool { return string(b) == arg }) {
			return pid
		}
	}
	return 0
}

// isChild reports whether a process is our child and not reaped yet. Its
// arguments do not show that, because an exiting process loses them first. The
// program's name stands in parentheses and can contain any character.
func isChild(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	return len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid())
}

// mountsBelow lists the mount points below dir, the latest first. Without /proc
// it lists nothing.
func mountsBelow(dir string) []string {
	content, _ := os.ReadFile("/proc/self/mountinfo")
	var points []string
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(unescape(fields[4]), dir+"/") {
			points = append(points, unescape(fields[4]))
		}
	}
	slices.Reverse(points) // A mount inside another one was created after it.
	return points
}

// unescape reverts the kernel's escapes of spaces and backslashes in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace

// unmountBelow unmounts everything that is mounted below dir.
func unmountBelow(dir string) error {
	for _, point := range mountsBelow(dir) {
		if err := syscall.Unmount(point, 0); err != nil {
			return fmt.Errorf("unmounting %s: %w", point, err)
		}
	}
	return nil
}
