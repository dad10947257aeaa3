// SPDX-License-Identifier: Apache-2.0

// Command controlplane fills a directory with the programs that tests and the demo run: etcd, those of Kubernetes, and a fake
// container runtime. It downloads the official builds of the versions that are pinned in hack/tools/kubernetes/go.mod, or
// builds the same versions from source where the downloads cannot be reached within three seconds.
//
// Usage: controlplane DIRECTORY [MINOR]
//
// MINOR, like 1.36, stands for the go.mod in the directory of that name, and only the programs that differ.
// Environment variables: SOURCE=1 builds from source in any case. KUBERNETES_DOWNLOADS and ETCD_DOWNLOADS name mirrors of the
// two official sites, see pins.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nodebootstrap/nodebootstrap/hack/progress"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 || len(os.Args) > 3 {
		fmt.Fprintln(os.Stderr, "usage: controlplane DIRECTORY [MINOR]")
		os.Exit(2)
	}
	err := run(ctx, progress.New(os.Stdout, 10*time.Second), os.Args[1], strings.Join(os.Args[2:], ""))
	if ctx.Err() != nil {
		err = errors.New("interrupted; run make again to go on with the programs that are missing")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "controlplane:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, show *progress.Display, dir, minor string) error {
	unlock, err := lock(dir, show)
	if err != nil {
		return err
	}
	defer unlock()
	source := os.Getenv("SOURCE") != "" && os.Getenv("SOURCE") != "0"
	programs, err := pinned(filepath.Join("hack", "tools", "kubernetes"), minor, runtime.GOOS, runtime.GOARCH)
	if err != nil {
		return err
	}
	f := &filler{dir: dir, show: show, downloader: newDownloader(show), builder: &builder{dir: dir, show: show}}
	return f.fill(ctx, missing(programs, dir, source), source)
}

// lock makes a second run for the same directory wait for the first.
func lock(dir string, show *progress.Display) (func(), error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	fd := int(file.Fd())
	if syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		show.Line("Waiting for another run that fills %s ...", dir)
		if err := syscall.Flock(fd, syscall.LOCK_EX); err != nil {
			return nil, fmt.Errorf("locking %s: %w", file.Name(), err)
		}
	}
	return func() { file.Close() }, nil
}

type filler struct {
	dir        string
	show       *progress.Display
	downloader *downloader
	builder    *builder
}

// fill downloads and builds programs.
func (f *filler) fill(ctx context.Context, programs []program, source bool) error {
	if len(programs) == 0 {
		return nil
	}
	var downloads []download
	build, why := programs, errors.New("SOURCE is set")
	if !source {
		downloads, build, why = f.downloader.decide(ctx, programs)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f.announce(downloads, build, why)
	if len(downloads) == 0 {
		return f.builder.build(ctx, build)
	}

	// What is not published is small, and is built during the downloads. The rest follows.
	own, rest := split(build, func(p program) bool { return p.url == "" })
	var wg sync.WaitGroup
	var ownErr error
	wg.Go(func() { ownErr = f.builder.quietly(ctx, own) })
	failed, err := f.downloader.all(ctx, downloads, f.dir)
	wg.Wait()
	if err := errors.Join(err, ownErr); err != nil {
		return err
	}
	return f.builder.build(ctx, append(rest, failed...))
}

// announce says what happens, before anything does.
func (f *filler) announce(downloads []download, build []program, why error) {
	official, own := split(build, func(p program) bool { return p.version != "" })
	if len(downloads) > 0 {
		var fetched []program
		for _, d := range downloads {
			fetched = append(fetched, d.program)
		}
		f.show.Line("Downloading the official builds of %s.", list(fetched))
	}
	if len(official) > 0 {
		f.show.Line("Building from source: %s; because %v. All of them take about 22 minutes of processor time.", list(official), why)
	} else if len(downloads) == 0 {
		f.show.Line("Building %s.", list(own))
	}
}

// list names programs with their versions, those of Kubernetes together.
func list(programs []program) string {
	var words []string
	for i, p := range programs {
		if i+1 < len(programs) && programs[i+1].version == p.version {
			words = append(words, p.name)
		} else {
			words = append(words, strings.TrimSpace(p.name+" "+p.version))
		}
	}
	return strings.Join(words, ", ")
}

func split(programs []program, first func(program) bool) (yes, no []program) {
	for _, p := range programs {
		if first(p) {
			yes = append(yes, p)
		} else {
			no = append(no, p)
		}
	}
	return yes, no
}

func seconds(d time.Duration) string { return d.Round(time.Second).String() }
