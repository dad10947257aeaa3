// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	pollInterval = 50 * time.Millisecond
	// stopGrace is how long a process can take to end after SIGTERM.
	stopGrace = 10 * time.Second
	// killGrace is how long one can take to end after SIGKILL, on a busy machine.
	killGrace = 5 * time.Second
	// tailLines and tailBytes bound how much of a log an error repeats.
	tailLines = 8
	tailBytes = 4096
)

// process is a child in a process group of its own, under guard.
type process struct {
	name    string
	logFile string
	cmd     *exec.Cmd
	exited  chan struct{}
}

// startProcess runs a program that logs into logFile. It does not depend on a
// context: it runs until stop, until it exits or until the guard ends it.
func startProcess(g *guard, name, path, logFile string, args []string) (*process, error) {
	cmd := exec.Command(path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	return startCommand(g, name, logFile, cmd)
}

// startCommand does the same with a command that has process attributes.
func startCommand(g *guard, name, logFile string, cmd *exec.Cmd) (*process, error) {
	log, err := openLog(logFile)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{name: name, logFile: logFile, cmd: cmd, exited: make(chan struct{})}
	guarded := g.add(p.pid())
	go p.reap(g)
	if guarded != nil {
		return nil, errors.Join(guarded, p.stop())
	}
	return p, nil
}

// reap waits for the process to end and then kills what is left of its group:
// at once, because the group's ID may be used again from now on.
func (p *process) reap(g *guard) {
	defer close(p.exited)
	_ = p.cmd.Wait() // How it ended is in ProcessState and in its log.
	_ = syscall.Kill(-p.pid(), syscall.SIGKILL)
	_ = g.drop(p.pid())
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the process and fails if it still exists. A process that has already
// ended is no error.
func (p *process) stop() error {
	if closedWithin(p.exited, 0) {
		return nil
	}
	return stopGroup(p.name, p.pid(), p.exited)
}

// failed adds the end of the process's log to an error.
func (p *process) failed(err error) error {
	if closedWithin(p.exited, 0) {
		err = fmt.Errorf("%w (%s)", err, p.cmd.ProcessState)
	}
	return withLog(err, p.logFile)
}

// stopGroup ends a child's process group with SIGTERM, then SIGKILL, and waits
// until exited is closed.
func stopGroup(name string, group int, exited <-chan struct{}) error {
	_ = syscall.Kill(-group, syscall.SIGTERM)
	if closedWithin(exited, stopGrace) {
		return nil
	}
	_ = syscall.Kill(-group, syscall.SIGKILL)
	if !closedWithin(exited, killGrace) {
		return fmt.Errorf("%s (process %d) did not end after SIGKILL", name, group)
	}
	return nil
}

// closedWithin reports whether c is closed within the limit; a limit of 0
// checks without waiting.
func closedWithin(c <-chan struct{}, limit time.Duration) bool {
	select {
	case <-c:
		return true
	default:
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-c:
		return true
	case <-timer.C:
		return false
	}
}

// poll calls check every 50 ms until it succeeds, a minute has passed, ctx is
// done or the process, if there is one, has ended. It returns the last error of
// check.
func poll(ctx context.Context, p *process, check func(context.Context) error) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, pollInterval, startLimit, true, func(ctx context.Context) (bool, error) {
		if p != nil && closedWithin(p.exited, 0) {
			return false, errors.New("it ended by itself")
		}
		last = check(ctx)
		return last == nil, nil
	})
	if err != nil && last != nil {
		return fmt.Errorf("%w: %w", err, last)
	}
	return err
}

func openLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening a log: %w", err)
	}
	return f, nil
}

// withLog adds a log's path and its last lines to an error.
func withLog(err error, logFile string) error {
	return fmt.Errorf("%w; %s ends with:\n%s", err, logFile, tail(logFile))
}

// tail returns the last lines of a file, or the error of reading it.
func tail(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return []byte(err.Error())
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > tailBytes {
		_, _ = f.Seek(-tailBytes, io.SeekEnd)
	}
	content, err := io.ReadAll(f)
	if err != nil {
		return []byte(err.Error())
	}
	lines := bytes.Split(bytes.TrimSpace(content), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-tailLines):], []byte("\n"))
}

// freePort returns a TCP port on which nothing listened a moment ago. It is below Linux's ephemeral ports (ip(7), ip_local_port_range), any
// of which an outgoing connection can take before the program listens.
func freePort() (int, error) {
	const tries, from, below = 100, 20_000, 32_768
	var err error
	for range tries {
		var l net.Listener
		port := from + rand.IntN(below-from) //nolint:gosec // a port is no secret
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("finding a free port: %w", err)
}

// merge returns defaults with overrides applied.
func merge[V any](defaults, overrides map[string]V) map[string]V {
	merged := maps.Clone(defaults)
	maps.Copy(merged, overrides)
	return merged
}

// flags writes --name=value for each entry, in a fixed order.
func flags(values map[string]string) []string {
	args := make([]string, 0, len(values))
	for name, value := range values {
		args = append(args, "--"+name+"="+value)
	}
	slices.Sort(args)
	return args
}
