// SPDX-License-Identifier: Apache-2.0

// Command bench measures the operator as a separate process, under its own ServiceAccount, on a real control plane on this
// machine. Because machines differ, each figure is compared with one that is measured in the same run with the same kinds
// of object and no operator. docs/performance.md explains the figures.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
)

type options struct {
	rounds   int
	nodes    int
	most     int
	requests int
	foreign  int
	idle     time.Duration
	only     *regexp.Regexp
	base     string
	profiles string
	out      string
}

func parse(args []string) (o options, err error) {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.IntVar(&o.rounds, "rounds", 2, "how often each measurement is repeated, those of large clusters half as often; the figures are medians")
	fs.IntVar(&o.nodes, "nodes", 5000, "how many NodeBootstraps there are in a large cluster")
	fs.IntVar(&o.most, "most", 15000, "how many there are in the largest one")
	fs.IntVar(&o.requests, "requests", 2000, "how many requests for certificates are sent at once")
	fs.IntVar(&o.foreign, "foreign", 2000, "how many requests of others are pending in the flood")
	fs.DurationVar(&o.idle, "idle", 15*time.Second, "for how long a settled cluster is watched")
	only := fs.String("only", ".", "run only the measurements whose names match this regular expression")
	fs.StringVar(&o.base, "base", "", "another build of the manager, a file, to measure in alternation")
	fs.StringVar(&o.profiles, "profiles", "", "a directory for CPU profiles of the manager, for those measurements that take one; none by default")
	fs.StringVar(&o.out, "out", "bench.json", "the file for the figures")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	o.only, err = regexp.Compile(*only)
	return o, err
}

func main() {
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// A build is a build of the manager.
type build struct{ name, binary string }

// bench is the state that the measurements share.
type bench struct {
	options
	builds  []build
	results results
}

// measurements are all measurements, in the order in which they run.
var measurements = []struct {
	name, about string
	run         func(*bench, context.Context) error
}{
	{"mint", "from the start, with existing NodeBootstraps, to the last credential", (*bench).mint},
	{"large", "the same in a large cluster, and its memory, restart and rest", (*bench).large},
	{"largest", "the largest cluster, and honest requests while all of its kubeconfigs are rendered again", (*bench).largest},
	{"approve", "requests of kubelets at once, to the last approved", (*bench).approve},
	{"serving", "requests for serving certificates at once, to the last approved", (*bench).serving},
	{"latency", "one NodeBootstrap, to its kubeconfig readable", (*bench).latency},
	{"join", "what is written for one node", (*bench).join},
	{"flood", "honest requests in a flood", (*bench).flood},
	{"hostile", "the memory with very large objects of every kind", (*bench).hostile},
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	root, err := localcluster.ProjectRoot()
	if err != nil {
		return err
	}
	b := &bench{options: o, builds: []build{{"", filepath.Join(root, "bin", "manager")}}}
	if o.base != "" {
		b.builds = append(b.builds, build{"base_", o.base})
	}
	for _, m := range measurements {
		if !o.only.MatchString(m.name) {
			continue
		}
		fmt.Printf("\n%s: %s\n\n", m.name, m.about)
		began := time.Now()
		if err := m.run(b, ctx); err != nil {
			return fmt.Errorf("measuring %s: %w", m.name, err)
		}
		fmt.Printf("\nThis took %s.\n", time.Since(began).Round(time.Second))
	}
	b.results.print(os.Stdout)
	return b.results.store(o.out)
}
