// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nodebootstrap/nodebootstrap/hack/progress"
)

// builder builds programs from the modules that are pinned.
type builder struct {
	dir  string
	show *progress.Display
}

// build builds programs one after the other, and shows the progress by the packages that they consist of.
func (b *builder) build(ctx context.Context, programs []program) error {
	if len(programs) == 0 {
		return nil
	}
	b.show.Line("Listing the packages, which downloads the modules the first time ...")
	p := &buildProgress{began: time.Now(), steps: len(programs)}
	packages, err := newPackages(ctx, programs)
	if err != nil {
		return err
	}
	p.began, p.all = time.Now(), float64(packages.count())
	defer b.show.Every(p.String)()
	for i, one := range programs {
		p.begin(i+1, one.name)
		began := time.Now()
		if err := b.one(ctx, one, func(pkg string) bool {
			return packages[i][pkg] && p.compiled.Add(1) > 0
		}); err != nil {
			return err
		}
		b.show.Line("%d of %d: %s is built, in %s.", i+1, len(programs), one.name, seconds(time.Since(began)))
		p.end(len(packages[i]))
	}
	return nil
}

// quietly builds programs during something else that shows its progress.
func (b *builder) quietly(ctx context.Context, programs []program) error {
	for _, p := range programs {
		if err := b.one(ctx, p, func(string) bool { return false }); err != nil {
			return err
		}
	}
	return nil
}

// one builds a program. compiled takes each line of the output, and reports whether it is a package that is compiled.
func (b *builder) one(ctx context.Context, p program, compiled func(string) bool) error {
	dir, err := filepath.Abs(b.dir)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "."+p.name+".build")
	defer os.Remove(file)
	args := []string{"build", "-v", "-ldflags", strings.TrimSpace("-s -w " + p.ldflags), "-o", file}
	if strings.HasPrefix(p.pkg, "./") {
		args = append(args, "-trimpath") // as the operator is built: they share packages
	}
	cmd := exec.CommandContext(ctx, "go", append(args, p.pkg)...)
	cmd.Dir = p.module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	output, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	rest := follow(output, compiled)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", p.name, err, strings.Join(rest, "\n"))
	}
	return install(file, dir, p, p.built)
}

// follow reads what go build prints, and returns the last lines that name no package.
func follow(output io.Reader, compiled func(string) bool) []string {
	const kept = 20
	var rest []string
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if compiled(lines.Text()) {
			continue
		}
		if rest = append(rest, lines.Text()); len(rest) > kept {
			rest = rest[1:]
		}
	}
	return rest
}

// packages are those of each program that no program before it has.
type packages []map[string]bool

func newPackages(ctx context.Context, programs []program) (packages, error) {
	var all packages
	seen := map[string]bool{}
	for _, p := range programs {
		cmd := exec.CommandContext(ctx, "go", "list", "-json=ImportPath,Deps", p.pkg)
		cmd.Dir, cmd.Stderr = p.module, os.Stderr
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("listing the packages of %s: %w", p.name, err)
		}
		var listed struct {
			ImportPath string
			Deps       []string
		}
		if err := json.Unmarshal(out, &listed); err != nil {
			return nil, errors.Join(errors.New("reading the output of go list"), err)
		}
		own := map[string]bool{}
		for _, pkg := range append(listed.Deps, listed.ImportPath) {
			if !seen[pkg] {
				own[pkg], seen[pkg] = true, true
			}
		}
		all = append(all, own)
	}
	return all, nil
}

func (p packages) count() int {
	n := 0
	for _, own := range p {
		n += len(own)
	}
	return n
}

// buildProgress is how far a build of several programs is.
type buildProgress struct {
	began time.Time
	steps int
	all   float64

	now      atomic.Pointer[step]
	done     atomic.Int64 // packages of the steps before
	compiled atomic.Int64 // packages of this step
	worked   atomic.Int64 // packages that were compiled in the steps before; the others were in Go's cache
}

type step struct {
	number int
	name   string
}

func (p *buildProgress) begin(number int, name string) { p.now.Store(&step{number, name}) }

func (p *buildProgress) end(packages int) {
	p.worked.Add(p.compiled.Swap(0))
	p.done.Add(int64(packages))
}

func (p *buildProgress) String() string {
	s := p.now.Load()
	if s == nil {
		return ""
	}
	done := float64(p.done.Load() + p.compiled.Load())
	return p.at(*s, done, float64(p.worked.Load()+p.compiled.Load()), time.Since(p.began))
}

// at describes a step: how many packages are done, and the time that is left if the others take as long as those compiled so far.
func (p *buildProgress) at(s step, done, compiled float64, after time.Duration) string {
	text := fmt.Sprintf("  %d of %d: %s, %.0f %%: %.0f of %.0f packages in %s", s.number, p.steps, s.name, min(100*done/p.all, 99), done, p.all, seconds(after))
	const enough = 50
	if compiled >= enough {
		text += ", about " + seconds(time.Duration((p.all-done)/compiled*float64(after))) + " left"
	}
	return text
}
