// SPDX-License-Identifier: Apache-2.0

//go:build linux

package localcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// MakeReadOnly makes a directory of the machine a read-only file system, and MakeWritable undoes it.
func (m *Machine) MakeReadOnly(ctx context.Context, dir string) error {
	_, err := m.Run(ctx, fmt.Sprintf("mount --bind %s %[1]s && mount -o remount,bind,ro %[1]s", dir))
	return err
}

// MakeWritable undoes MakeReadOnly.
func (m *Machine) MakeWritable(ctx context.Context, dir string) error {
	_, err := m.Run(ctx, "umount "+dir)
	return err
}

// filler takes the space of a full disk.
const filler = "/.filler"

// FillDisk puts a directory of the machine, with what is in it, on a file system of its own that has only so many KiB free. Files need 4 KiB
// or a multiple of it; an empty file and a directory need none.
func (m *Machine) FillDisk(ctx context.Context, dir string, freeKiB int) error {
	_, err := m.Run(ctx, fmt.Sprintf(`set -e
kept=$(mktemp -d)
cp -a %s/. "$kept"
size=$(($(du -sk "$kept" | cut -f1) + 1024))
mount -t tmpfs -o size="${size}k",mode=755 tmpfs %[1]s
cp -a "$kept"/. %[1]s
rm -rf "$kept"
head -c "${size}k" /dev/zero >%[1]s%[2]s 2>/dev/null || true
truncate -s -%[3]dK %[1]s%[2]s`, dir, filler, freeKiB))
	return err
}

// FreeDisk gives a directory that FillDisk filled some space.
func (m *Machine) FreeDisk(ctx context.Context, dir string) error {
	_, err := m.Run(ctx, "rm "+dir+filler)
	return err
}

// SetClock makes the machine's date program lie by an offset. All other programs, openssl among them, have the right time.
func (m *Machine) SetClock(offset time.Duration) error {
	script := fmt.Sprintf("#!/bin/sh\nnow=$(/usr/bin/date +%%s)\nexec /usr/bin/date -d \"@$((now + %d))\" \"$@\"\n", int(offset.Seconds()))
	return os.WriteFile(m.Path("/usr/local/bin/date"), []byte(script), 0o755)
}

// CutConnections kills the server's side of all SSH connections to the machine. What runs in them goes on, without its pipes.
func (m *Machine) CutConnections() error {
	var errs []error
	cut := 0
	err := m.eachProcess(func(pid int, arguments, _ []byte) {
		if bytes.HasPrefix(arguments, []byte("sshd: ")) && !bytes.Contains(arguments, []byte("[listener]")) {
			cut++
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				errs = append(errs, err)
			}
		}
	})
	if cut == 0 {
		errs = append(errs, errors.New("there is none"))
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("cutting connections to %s: %w", m.cfg.HostName, err)
	}
	return nil
}

// FindInFiles lists the files of the machine that contain a text, by their paths there: of all files that were written there, by whomever,
// and of the logs of its services.
func (m *Machine) FindInFiles(text string) ([]string, error) {
	mounts, err := m.writableMounts()
	if err != nil {
		return nil, err
	}
	var found []string
	search := func(dir, place string) error {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return err
		}
		defer root.Close()
		return fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return ignoreGone(err)
			}
			content, err := fs.ReadFile(root.FS(), path)
			if err == nil && bytes.Contains(content, []byte(text)) {
				found = append(found, filepath.Join(place, path))
			}
			return ignoreGone(err)
		})
	}
	errs := []error{search(m.file("upper"), "/")}
	for _, mount := range mounts {
		errs = append(errs, search(m.Path(mount), mount))
	}
	slices.Sort(found)
	return slices.Compact(found), errors.Join(errs...)
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// writableMounts are directories of the machine whose files are not in its upper directory.
func (m *Machine) writableMounts() ([]string, error) {
	content, err := os.ReadFile(m.proc("mountinfo"))
	if err != nil {
		return nil, err
	}
	var mounts []string
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescape(fields[4])
		top, _, _ := strings.Cut(strings.TrimPrefix(point, "/"), "/")
		ofKernel := point != "/dev/shm" && slices.Contains([]string{"proc", "sys", "dev"}, top)
		if info, err := os.Stat(m.Path(point)); err == nil && info.IsDir() && point != "/" && !ofKernel {
			mounts = append(mounts, point)
		}
	}
	return mounts, nil
}

// FindInProcesses lists the processes of the machine that have a text among their arguments or in their environment now.
func (m *Machine) FindInProcesses(text string) ([]string, error) {
	var found []string
	err := m.eachProcess(func(_ int, arguments, environment []byte) {
		line := strings.TrimSpace(string(bytes.ReplaceAll(arguments, []byte{0}, []byte(" "))))
		if bytes.Contains(arguments, []byte(text)) {
			found = append(found, "arguments of "+line)
		}
		if bytes.Contains(environment, []byte(text)) {
			found = append(found, "environment of "+line)
		}
	})
	return found, err
}

// eachProcess visits the processes of the machine, those in its PID namespace, by their IDs on this machine.
func (m *Machine) eachProcess(visit func(pid int, arguments, environment []byte)) error {
	namespace, err := os.Readlink(m.proc("ns/pid"))
	if err != nil {
		return err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		dir := filepath.Join("/proc", entry.Name())
		pid, err := strconv.Atoi(entry.Name())
		if other, gone := os.Readlink(filepath.Join(dir, "ns/pid")); err != nil || gone != nil || other != namespace {
			continue
		}
		arguments, gone := os.ReadFile(filepath.Join(dir, "cmdline"))
		environment, goneToo := os.ReadFile(filepath.Join(dir, "environ"))
		if gone == nil && goneToo == nil {
			visit(pid, arguments, environment)
		}
	}
	return nil
}

// proc is a file about the machine's first process.
func (m *Machine) proc(name string) string {
	return filepath.Join("/proc", strconv.Itoa(m.program.PID()), name)
}
