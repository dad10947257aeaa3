// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/nodescript"
)

const (
	// sshFailed is the exit code of ssh for its own failures. It passes on the exit code of the remote command otherwise.
	sshFailed = 255
	// sshGrace is how long ssh has to end after it was told to, or after its connection was closed.
	sshGrace = 5 * time.Second
	// maxNoise bounds what a machine can print before the script does, for example from the shell's start-up files.
	maxNoise = 64 << 10
)

// sshOptions makes one connection for one command, whatever the user's configuration sets up for other uses of the host. Most are scp's.
// Host keys are checked as the user's configuration says.
var sshOptions = []string{
	"-T", "-x",
	"-o", "ControlMaster=no", "-o", "ControlPath=none",
	"-o", "ForwardAgent=no", "-o", "ClearAllForwardings=yes", "-o", "PermitLocalCommand=no",
	"-o", "RemoteCommand=none", "-o", "RequestTTY=no",
}

// sshTarget is a machine and how to run a command there.
type sshTarget struct {
	destination string
	// args are arguments for ssh from the user.
	args []string
	// batch keeps ssh from asking questions.
	batch bool
	sudo  bool
}

// validDestination returns why ssh cannot be called with a destination. One that begins with - would be an option.
func validDestination(destination string) error {
	host := destination[strings.LastIndex(destination, "@")+1:]
	switch {
	case destination == "" || host == "":
		return fmt.Errorf("%q names no host: write USER@HOST, or a Host of your ssh configuration", destination)
	case strings.HasPrefix(destination, "-") || strings.HasPrefix(host, "-"):
		return fmt.Errorf("%q cannot be a user and a host, since it begins with -: write USER@HOST, and options with --ssh-arg", destination)
	case strings.ContainsFunc(destination, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }):
		return fmt.Errorf("%q has a space or a control character: write USER@HOST", destination)
	}
	return nil
}

// command are the arguments of ssh. They are the same for every node, and have nothing secret: what differs travels on standard input.
func (t sshTarget) command() []string {
	args := slices.Clone(sshOptions)
	if t.batch {
		args = append(args, "-o", "BatchMode=yes")
	}
	args = append(append(args, t.args...), "--", t.destination)
	if t.sudo {
		return append(args, "sudo -n sh -s")
	}
	return append(args, "sh -s")
}

// session is one run of the node-side script.
type session struct {
	target sshTarget
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr *lineWriter
	// ran reports whether the script has printed anything, and problem is its last line, if it failed.
	ran     bool
	problem string
}

// start starts ssh and sends the script. Each line that ssh or the script prints for people is shown.
func (t sshTarget) start(ctx context.Context, script []byte, show func(line string)) (*session, error) {
	s := &session{target: t, cmd: exec.CommandContext(ctx, "ssh", t.command()...)}
	s.stderr = &lineWriter{show: func(line string) { s.hear(line, show) }}
	s.cmd.Stderr = s.stderr
	s.cmd.Cancel = func() error { return terminate(s.cmd.Process) }
	s.cmd.WaitDelay = sshGrace
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.stdout = bufio.NewReader(stdout)
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, &joinError{code: sshFailed, what: "there is no program ssh in the PATH", todo: "Install an ssh client"}
		}
		return nil, fmt.Errorf("starting ssh: %w", err)
	}
	s.send(script)
	return s, nil
}

// terminate ends a process. Windows cannot ask it to end.
func terminate(p *os.Process) error {
	if runtime.GOOS == "windows" {
		return p.Kill()
	}
	return p.Signal(syscall.SIGTERM)
}

// send ignores errors: ssh has ended then, and its exit code says more.
func (s *session) send(content []byte) { _, _ = s.stdin.Write(content) }

// hear takes a line that ssh or the script printed for people. The problem is shown last, as the error of the command.
func (s *session) hear(line string, show func(line string)) {
	problem, failed := strings.CutPrefix(line, "error: ")
	if failed {
		s.ran, s.problem = true, problem
		return
	}
	s.ran = s.ran || strings.HasPrefix(line, "[")
	show(line)
}

// answer is what the script says on standard output.
type answer struct {
	// member reports whether the machine is this node already.
	member bool
	// method is how the machine joins, and request a CSR in PEM. Both are empty if the script ended without one.
	method  string
	request []byte
}

// answer reads what the script prints to standard output up to the end of its request.
func (s *session) answer() (answer, error) {
	var a answer
	limit := maxNoise
	for {
		line, err := s.stdout.ReadString('\n')
		text := strings.TrimRight(line, "\r\n")
		method, isRequest := strings.CutPrefix(text, nodescript.RequestLine+" ")
		switch {
		case err != nil:
			return answer{}, ignoreEnd(err)
		case a.method == "" && text == nodescript.MemberLine:
			return answer{member: true}, nil
		case a.method == "" && isRequest:
			a.method, limit = method, csr.MaxRequestBytes
		case a.method != "" && text == nodescript.EndLine:
			return a, nil
		case a.method != "":
			a.request = append(append(a.request, text...), '\n')
		}
		if limit -= len(line); limit < 0 {
			return answer{}, fmt.Errorf("%s prints too much: is that the machine that you mean?", s.target.destination)
		}
	}
}

// ignoreEnd ignores that ssh has ended: the exit code says why.
func ignoreEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// deliver sends the signed kubeconfig, and reports whether ssh was still there to take it. Once the machine has it, the script goes on to the
// end, even if the connection is cut.
func (s *session) deliver(kubeconfig []byte) bool {
	_, err := s.stdin.Write(append(bytes.TrimRight(kubeconfig, "\n"), "\n"+nodescript.EndLine+"\n"...))
	s.hangUp()
	return err == nil
}

// hangUp ends the script's input.
func (s *session) hangUp() { _ = s.stdin.Close() }

// wait returns the exit code of the script, or sshFailed.
func (s *session) wait() int {
	s.hangUp()
	go func() { _, _ = io.Copy(io.Discard, s.stdout) }() // so that ssh is not stopped by a full pipe
	err := s.cmd.Wait()
	s.stderr.flush()
	if s.cmd.ProcessState == nil || s.cmd.ProcessState.ExitCode() < 0 || errors.Is(err, exec.ErrWaitDelay) {
		return sshFailed
	}
	return s.cmd.ProcessState.ExitCode()
}

// explain returns what an exit code means, and what to do.
func (s *session) explain(code int) error {
	host := s.target.destination
	switch {
	case code == sshFailed:
		what, todo := explainSSH(s.stderr.tail(), host)
		return &joinError{code: code, what: what, todo: todo}
	case s.problem != "" && nodescript.What(code) != "":
		return &joinError{code: code, what: "on " + host + ": " + s.problem}
	case s.target.sudo && !s.ran:
		return &joinError{code: nodescript.ExitNotRoot, what: "sudo runs no shell as root on " + host,
			todo: "Allow it without a password (NOPASSWD) for this user, or log in as root. This must print 0: ssh " + host + " sudo -n id -u"}
	case !s.ran:
		return &joinError{code: 1, what: fmt.Sprintf("%s ended the session with exit code %d, and the script did not run", host, code),
			todo: "This must print ok: echo echo ok | ssh " + host + " sh -s"}
	}
	own := code
	if code == 0 || code == exitUsage { // a shell's own code, which means something else here
		own = exitFailed
	}
	return &joinError{code: own, what: fmt.Sprintf("the script on %s ended too early, with exit code %d. Run the command again", host, code)}
}

// abort ends ssh, which the machine does not do.
func (s *session) abort() {
	_ = s.cmd.Cancel()
	s.wait()
}

// explainSSH returns why ssh failed, from what it printed.
func explainSSH(said, host string) (what, todo string) {
	login := "This must work first: ssh " + host + " true"
	for _, known := range []struct{ text, what, todo string }{
		{"REMOTE HOST IDENTIFICATION HAS CHANGED", "the host key of " + host + " is not the one that you know, and ssh did not connect",
			"If the machine was reinstalled, compare its key with ssh-keygen -l on its console, then remove the old one as ssh says above. Otherwise someone else answers at this address"},
		{"Host key verification failed", "ssh does not know the host key of " + host, "Log in once and compare the key: ssh " + host + " true. Or add it to known_hosts"},
		{"Permission denied", host + " let nobody in", "Check the user and the key (ssh-add -l, --ssh-arg=-i). " + login},
		{"Too many authentication failures", host + " let nobody in", "Name the key: --ssh-arg=-i --ssh-arg=FILE. " + login},
		{"Connection refused", "no ssh server listens at " + host, "Start it on the machine, or name the port: --ssh-arg=-p --ssh-arg=PORT"},
		{"Could not resolve hostname", "the name of " + host + " is not known here", "Use its IP address, or a Host of your ssh configuration"},
		{"timed out", host + " does not answer", "Check address, route and firewall. " + login},
		{"No route to host", host + " cannot be reached", "Check address, route and firewall. " + login},
	} {
		if strings.Contains(said, known.text) {
			return known.what, known.todo
		}
	}
	return "the ssh connection to " + host + " failed or ended", "ssh says why above. Run the command again"
}

// lineWriter shows what is written to it line by line, and keeps the end of it.
type lineWriter struct {
	show func(line string)
	rest []byte
	last []byte
}

// maxLine is where longer lines are cut.
const maxLine = 4 << 10

func (w *lineWriter) Write(p []byte) (int, error) {
	w.last = append(w.last, p...)
	w.last = w.last[max(0, len(w.last)-maxLine):]
	w.rest = append(w.rest, p...)
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found && len(line) < maxLine {
			return len(p), nil
		}
		w.rest = rest
		w.print(line)
	}
}

func (w *lineWriter) flush() {
	w.print(w.rest)
	w.rest = nil
}

func (w *lineWriter) print(line []byte) {
	if text := strings.TrimRightFunc(string(line), unicode.IsSpace); text != "" {
		w.show(printable(text))
	}
}

// colours are what programs print that take the machine's file for a terminal, like kubeadm.
var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// printable replaces control characters, with which a machine could control the terminal, except for line breaks.
func printable(text string) string {
	text = colours.ReplaceAllString(text, "")
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			return r
		case r == '\t':
			return ' '
		}
		return unicode.ReplacementChar
	}, text)
}

// tail is the end of what was written. It must not be called before the writing has ended.
func (w *lineWriter) tail() string { return string(w.last) }
