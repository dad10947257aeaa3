// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"syscall"
)

// Program is a caller's program that runs next to the cluster and ends with it at the latest.
type Program struct{ p *process }

// StartProgram runs a program by its absolute path. It logs into LogDir, to a file with its name.
func (c *Cluster) StartProgram(name, path string, args ...string) (*Program, error) {
	cmd := exec.Command(path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	return c.startProgram(name, cmd)
}

func (c *Cluster) startProgram(name string, cmd *exec.Cmd) (*Program, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return nil, fmt.Errorf("starting %s: the cluster is stopped", name)
	}
	p, err := startCommand(c.guard, name, c.logFile(name), cmd)
	if err != nil {
		return nil, err
	}
	program := &Program{p: p}
	c.programs = append(c.programs, program)
	return program, nil
}

// Stop ends the program by SIGTERM and, 10 s later, SIGKILL. A program that has already ended is no error.
func (p *Program) Stop() error { return p.p.stop() }

// Kill ends the program by SIGKILL, as a crash would, and waits until it has ended.
func (p *Program) Kill() error {
	if closedWithin(p.p.exited, 0) {
		return nil
	}
	if err := syscall.Kill(-p.p.pid(), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("killing %s: %w", p.p.name, err)
	}
	if !closedWithin(p.p.exited, killGrace) {
		return fmt.Errorf("%s (process %d) did not end after SIGKILL", p.p.name, p.p.pid())
	}
	return nil
}

// Pause suspends the program, like a machine that hangs; Resume lets it continue. Kill works on a paused program,
// Stop takes its 10 s.
func (p *Program) Pause() error { return p.signal(syscall.SIGSTOP) }

// Resume undoes Pause.
func (p *Program) Resume() error { return p.signal(syscall.SIGCONT) }

func (p *Program) signal(s syscall.Signal) error {
	if closedWithin(p.p.exited, 0) {
		return fmt.Errorf("sending %s to %s: it has ended", s, p.p.name)
	}
	if err := syscall.Kill(-p.p.pid(), s); err != nil {
		return fmt.Errorf("sending %s to %s: %w", s, p.p.name, err)
	}
	return nil
}

// PID is the program's process ID.
func (p *Program) PID() int { return p.p.pid() }

// Done is closed when the program has ended, for whatever reason.
func (p *Program) Done() <-chan struct{} { return p.p.exited }

// LogFile is the path of the program's log.
func (p *Program) LogFile() string { return p.p.logFile }

// FreePort is a TCP port on which nothing listened a moment ago.
func FreePort() (int, error) { return freePort() }

// Answers reports whether a URL answers 200 now.
func Answers(ctx context.Context, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}
