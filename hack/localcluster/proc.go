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

// findChild returns the id of our child that has arg among its arguments, or 0.
// Where there is no /proc it finds nothing.
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

// isChild says whether a process is our child that has not been waited for yet.
// Its arguments would not tell: they are gone before an ending process is. The
// program's name stands in parentheses and may hold any character.
func isChild(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	return len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid())
}

// mountsBelow lists the mount points beneath dir, the latest first. Where there
// is no /proc it lists nothing.
func mountsBelow(dir string) []string {
	content, _ := os.ReadFile("/proc/self/mountinfo")
	var points []string
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(unescape(fields[4]), dir+"/") {
			points = append(points, unescape(fields[4]))
		}
	}
	slices.Reverse(points) // A mount inside of another came after it.
	return points
}

// unescape undoes what the kernel does to blanks and backslashes in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace

// unmountBelow unmounts all that is mounted beneath dir.
func unmountBelow(dir string) error {
	for _, point := range mountsBelow(dir) {
		if err := syscall.Unmount(point, 0); err != nil {
			return fmt.Errorf("unmounting %s: %w", point, err)
		}
	}
	return nil
}
