// SPDX-License-Identifier: Apache-2.0

// Package chaos runs the manager binary against a real control plane while processes die and connections break, and checks all
// the time, and at the end, whether the invariants in docs/reliability.md hold.
//
// # What happens
//
// The manager runs as its own ServiceAccount, with the RBAC that ships, and reaches the API server through a proxy that delays,
// drops, cuts and refuses connections. It is killed with SIGKILL over and over: at random times, after it has sent a random
// number of bytes, or right after something was stored. Now and then two managers run at once, or one is paused and continues
// long after another has taken over. kube-apiserver and etcd, which syncs its writes to disk, are killed with SIGKILL and
// restarted. Meanwhile administrators create, delete and reissue NodeBootstraps, machines join as kubelets do, a stock kubelet
// joins if the tests run as root, and thieves try to join.
//
// The checks read the storage itself: the history of etcd, one write after the other, which no restart interrupts. So the
// invariants are checked at every instant, and not only when a client polls. At the end everything must settle, and the logs,
// metrics and stored objects are searched for the secret part of every token that ever existed.
//
// # How to run it
//
// The short version, under a minute, is part of make test, and the long one of make faults. The defaults of the flags -chaos.*
// are the short version:
//
//	make controlplane bin/manager
//	go test ./test/chaos -count=1 -v -chaos.seed=7
//
// # How to read a failure
//
// A failure prints the seed, the end of the timeline, the path of the whole timeline and all logs, and the command that
// repeats the run. The seed determines the actions and their moments, but not how they interleave, so a rare failure may need
// a few runs.
//
// The timeline has a line for each action, and, indented, one for each stored step, with its revision in etcd. Read it
// backwards from the VIOLATION: the steps of that node, their authors, and what was killed, paused or cut in between.
// logs/manager-NNN.log has that manager's log, audit.log the API server's answers.
//
// While two managers run, or right after a kill, a write may arrive that rests on an older state: nothing in Kubernetes
// prevents that. The ledger allows for it, and checks that it is undone. The last lines of the output give the number of steps
// that were checked without that leeway.
//
// # The parts
//
// proxy_test.go is the network; managers_test.go the manager's processes; disturb_test.go the faults; stories_test.go what
// happens to nodes, with administrator_test.go and machine_test.go, which has the thieves too; storage_test.go reads etcd's
// history, and ledger_test.go checks it against the invariants; end_test.go and leaks_test.go check the end state. The
// selftest*_test.go show that the ledger, the search and the proxy work.
package chaos

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// The defaults are the short version.
var (
	seedFlag     = flag.Uint64("chaos.seed", 1, "what is done, and at which moments; 0 takes one from the clock")
	killsFlag    = flag.Int("chaos.kills", 8, "how many managers are killed")
	restartsFlag = flag.Int("chaos.restarts", 1, "how often kube-apiserver and etcd are killed")
	nodesFlag    = flag.Int("chaos.nodes", 4, "how many simulated nodes there are")
	kubeletsFlag = flag.Int("chaos.kubelets", 1, "how many stock kubelets there are; none without root")
	durationFlag = flag.Duration("chaos.duration", 3*time.Minute, "the longest that the faults may take")
	quietFlag    = flag.Duration("chaos.quiet", 3*time.Second, "for how long nothing may be written in the end")
	keepFlag     = flag.Bool("chaos.keep", false, "keep the logs of a good run too")
)

func TestMain(m *testing.M) {
	env.Main(m, func(context.Context) (func() error, error) { return func() error { return nil }, nil })
}

// suite is one run: a cluster, the faults in it, and what was observed.
type suite struct {
	t    *testing.T
	ctx  context.Context
	stop context.CancelFunc // ends the faults
	quit context.CancelFunc // ends everything, once the control plane no longer runs
	seed uint64
	dir  string // of all logs
	line *timeline
	// files are what the search for leaks reads, in addition to the logs.
	files map[string]*os.File

	env      *env.Env
	audit    *env.Audit
	proxy    *proxy
	managers *managers
	admin    *administrator
	seen     *ledger

	slots    []*slot
	restarts int
	outage   atomic.Bool // etcd or kube-apiserver is being restarted
	// kubelets counts how often a stock kubelet has joined after the first kill.
	kubelets atomic.Int64
}

// Whatever fails and dies, the invariants hold at every instant, and afterwards every node reaches its end state.
func TestInvariantsHoldThroughKillsAndOutages(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the control plane can be restarted on Linux only")
	}
	s := begin(t)
	foreign := s.plantForeign()
	s.disturb()
	if !t.Failed() {
		s.checkEnd()
	}
	if err := s.managers.retire(); err != nil {
		t.Error(err)
	}
	s.checkForeign(foreign)
	s.checkRequests()
	s.checkLeaks()
	s.report()
}

// begin starts the control plane, the proxy and the observer.
func begin(t *testing.T) *suite {
	s := &suite{t: t, seed: *seedFlag, files: map[string]*os.File{}}
	if s.seed == 0 {
		s.seed = uint64(time.Now().UnixNano())
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	s.dir, err = os.MkdirTemp("", "nodebootstrap-chaos-")
	must(err)
	s.line, err = newTimeline(s.file("timeline.txt"))
	must(err)
	t.Cleanup(s.explain)
	ctx, cancel := context.WithCancel(t.Context())
	s.ctx, s.quit = ctx, cancel
	var observers sync.WaitGroup
	t.Cleanup(func() { cancel(); observers.Wait() })

	s.audit, err = env.NewAudit(s.dir)
	must(err)
	s.env, err = env.Start(ctx, localcluster.Config{FSync: true, LogDir: s.file("logs"), APIServerArgs: s.audit.Args()})
	must(err)
	t.Cleanup(func() {
		cancel()
		if err := s.env.Stop(); err != nil {
			t.Error(err)
		}
	})
	server, err := url.Parse(s.env.Server())
	must(err)
	s.proxy, err = startProxy(ctx, server.Host, s.random(3))
	must(err)
	s.managers, err = newManagers(ctx, s)
	must(err)
	s.admin, err = newAdministrator(s, s.env)
	must(err)
	for _, name := range []string{eventsFile, statusesFile, othersFile, metricsFile} {
		s.files[name], err = os.Create(s.file(name))
		must(err)
	}
	s.seen = newLedger(s.line.note, leeway{overlap: s.managers.overlap, lag: s.proxy.lag, behind: s.proxy.behind})
	observers.Go(func() {
		if err := (&storage{url: s.env.EtcdURL()}).follow(ctx, s.watch); err != nil {
			s.fail("%v", err)
		}
	})
	observers.Go(func() { s.managers.scrape(ctx, s.files[metricsFile]) })
	return s
}

// disturb lets nodes join during faults, and returns when both are over.
func (s *suite) disturb() {
	ctx, stop := context.WithTimeout(s.ctx, *durationFlag)
	s.stop = stop
	defer stop()
	var people, faults sync.WaitGroup
	s.slots = s.newSlots()
	for _, slot := range s.slots {
		people.Go(func() { slot.live(ctx) })
	}
	for i := range kubelets() {
		people.Go(func() { s.runKubelet(ctx, fmt.Sprintf("kubelet-%d", i)) })
	}
	if err := s.managers.start(); err != nil {
		s.fail("starting the manager: %v", err)
	}
	faults.Go(func() { s.disturbNetwork(ctx, s.random(2)) })
	s.killManagers(ctx, s.random(1))
	stop()
	faults.Wait()
	people.Wait()
	s.line.note("the faults are over")
	if s.t.Failed() {
		return
	}
	if kills := s.managers.kills(); kills < *killsFlag || s.restarts < *restartsFlag {
		s.t.Errorf("only %d of %d kills and %d of %d restarts within %s: give -chaos.duration more",
			kills, *killsFlag, s.restarts, *restartsFlag, *durationFlag)
	}
	if s.kubeletMissing() {
		s.t.Errorf("no stock kubelet has joined within %s: see logs/kubelet-*.log", *durationFlag)
	}
}

// newSlots are the nodes. Thieves hunt one of three.
func (s *suite) newSlots() []*slot {
	names := []string{canaryNode}
	for len(names) < *nodesFlag {
		names = append(names, fmt.Sprintf("node-%d", len(names)))
	}
	var out []*slot
	for i, name := range names {
		out = append(out, &slot{s: s, node: name, other: names[(i+1)%len(names)], hunted: i%3 == 2, rnd: s.random(uint64(100 + i))})
	}
	return out
}

// random is the source of one part of the run. Each part has its own, so that its actions do not depend on when another part
// draws a number.
func (s *suite) random(part uint64) *rand.Rand { return rand.New(rand.NewPCG(s.seed, part)) }

func (s *suite) file(name string) string { return filepath.Join(s.dir, name) }

// watch processes a change, and ends the faults at the first violation, so that the timeline ends there.
func (s *suite) watch(c change) {
	s.keepValue(c)
	for _, v := range s.seen.see(c) {
		s.fail("%s", v)
	}
}

// keepValue stores everything outside of Secrets for the search for leaks.
func (s *suite) keepValue(c change) {
	file := s.files[othersFile]
	switch {
	case strings.HasPrefix(c.key, secretsPrefix):
		return
	case strings.HasPrefix(c.key, eventsPrefix):
		file = s.files[eventsFile]
	case strings.HasPrefix(c.key, bootstrapsPrefix):
		file = s.files[statusesFile]
	}
	if _, err := fmt.Fprintf(file, "%s %s\n", c.key, c.value); err != nil {
		s.fail("%v", err)
	}
}

// fail records a failure and ends the faults.
func (s *suite) fail(format string, args ...any) {
	s.line.note("FAILED: "+format, args...)
	s.t.Errorf(format, args...)
	if s.stop != nil {
		s.stop()
	}
}

// explain prints after a failure where to look and how to run the same again. After a good run it removes the files.
func (s *suite) explain() {
	const lines = 100
	switch {
	case s.t.Failed():
		s.t.Logf("the timeline ends with:\n%s", s.line.tail(lines))
		s.t.Logf("seed %d; all logs, and the whole timeline, are in %s; to run it again:\n%s", s.seed, s.dir, s.command())
	case *keepFlag:
		s.t.Logf("all logs, and the timeline, are in %s", s.dir)
	default:
		if err := os.RemoveAll(s.dir); err != nil {
			s.t.Error(err)
		}
	}
}

// command runs this very run again.
func (s *suite) command() string {
	args := []string{"make controlplane bin/manager && go test ./test/chaos -count=1 -v -timeout 1h -run", s.t.Name(), fmt.Sprintf("-chaos.seed=%d", s.seed)}
	flag.Visit(func(f *flag.Flag) {
		if strings.HasPrefix(f.Name, "chaos.") && f.Name != "chaos.seed" {
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	return strings.Join(args, " ")
}

// report prints how much of everything happened, so that an idle run does not pass for a good one.
func (s *suite) report() {
	s.t.Logf("seed %d, %s: %d SIGKILLs of managers, and %d that ended by themselves; %d restarts of kube-apiserver and of etcd; %d stories of %d nodes; stock kubelets have joined %d times",
		s.seed, s.line.elapsed().Round(time.Second), s.managers.kills(), s.managers.ended, s.restarts, s.stories(), len(s.slots), s.kubelets.Load())
	s.t.Logf("%d connections through the proxy: %d cut, %d refused", s.proxy.opened.Load(), s.proxy.cut.Load(), s.proxy.refused.Load())
	look(s.seen, func(l *ledger) any {
		s.t.Logf("%v; %d of these while only one manager ran", maps.Clone(l.steps), l.strict)
		return nil
	})
}

// stories is how many were played.
func (s *suite) stories() int {
	n := 0
	for _, slot := range s.slots {
		n += slot.played
	}
	return n
}
