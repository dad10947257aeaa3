// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// guardScript reads "add GROUP", "drop GROUP" and "done" from its standard
// input. The end of the input without "done" means that our process died: then
// the script kills the process groups it knows of, unmounts what is mounted
// beneath the directory $1 and removes that directory.
const guardScript = `
trap '' HUP INT
groups=
while read -r verb group; do
  case $verb in
  add) groups="$group $groups" ;;
  drop)
    rest=
    for g in $groups; do [ "$g" = "$group" ] || rest="$rest $g"; done
    groups=$rest ;;
  done) exit 0 ;;
  esac
done

alive() {
  for g in $groups; do kill -0 "-$g" 2>/dev/null && return 0; done
  return 1
}
for g in $groups; do kill -TERM "-$g" 2>/dev/null; done
tries=0
while alive && [ $tries -lt 20 ]; do sleep 0.1; tries=$((tries + 1)); done
for g in $groups; do kill -KILL "-$g" 2>/dev/null; done

below() {
  while read -r _ _ _ _ point _; do
    case $point in "$1"/*) printf '%s\n' "$point" ;; esac
  done 2>/dev/null </proc/self/mountinfo | tac # the latest first: it can hide those below it
}
below "$1" | while read -r point; do umount "$point" || umount -l "$point"; done
[ -n "$(below "$1")" ] || rm -rf -- "$1"
`

// guard is a shell that outlives this process, if it dies, until the cluster's
// processes are stopped. Only this process holds the other end of its input, a
// pipe.
type guard struct {
	cmd *exec.Cmd
	mu  sync.Mutex
	in  io.WriteCloser
}

// startGuard starts a guard over dir, which must be absolute.
func startGuard(dir string) (*guard, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("creating the guard's pipe: %w", err)
	}
	defer read.Close()
	cmd := exec.Command("/bin/sh", "-c", guardScript, "localcluster-guard", dir)
	cmd.Stdin = read
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		write.Close()
		return nil, fmt.Errorf("starting the guard: %w", err)
	}
	return &guard{cmd: cmd, in: write}, nil
}

// add puts a process group under guard.
func (g *guard) add(group int) error { return g.send("add", group) }

// drop releases a process group, because its ID may be used again.
func (g *guard) drop(group int) error { return g.send("drop", group) }

func (g *guard) send(verb string, group int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, err := fmt.Fprintln(g.in, verb, group); err != nil {
		return fmt.Errorf("asking the guard to %s process group %d: %w", verb, group, err)
	}
	return nil
}

// done reports to the guard that nothing is left to stop, and waits until the guard ends.
func (g *guard) done() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, writeErr := fmt.Fprintln(g.in, "done")
	g.in.Close()
	if err := errors.Join(writeErr, g.cmd.Wait()); err != nil {
		return fmt.Errorf("ending the guard: %w", err)
	}
	return nil
}
