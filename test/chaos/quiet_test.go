// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"regexp"
	"slices"
	"strconv"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/test/env"
	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// checkQuiet checks that the operator writes nothing more once it has settled, not even after a restart, when it reconciles
// everything.
func (s *suite) checkQuiet(ctx context.Context) {
	before := s.writes()
	if err := s.replaceManager(); err != nil {
		s.fail("%v", err)
		return
	}
	if err := s.reconciledAll(ctx); err != nil {
		s.fail("the last manager did not reconcile all NodeBootstraps: %v", err)
		return
	}
	wait(ctx, *quietFlag) // not a wait for something: the time in which nothing may be written
	for _, write := range s.writes()[len(before):] {
		s.fail("%s", invariants.SameEnd.Violated("a write in a settled cluster: %s", write))
	}
}

// writes are those of the operator so far, without those of the leader election and reviews.
func (s *suite) writes() []env.Entry {
	all, err := s.audit.Writes()
	if err != nil {
		s.fail("reading the audit log: %v", err)
	}
	return slices.DeleteFunc(all, func(e env.Entry) bool {
		return e.ObjectRef.Resource == "events" && e.ObjectRef.Namespace == operator.Namespace || e.ObjectRef.Resource == "subjectaccessreviews"
	})
}

var reconciled = regexp.MustCompile(`(?m)^controller_runtime_reconcile_total\{controller="node",result="[a-z_]+"\} ([0-9.e+]+)$`)

// reconciledAll waits until the manager has reconciled as often as there are NodeBootstraps.
func (s *suite) reconciledAll(ctx context.Context) error {
	goal := look(s.seen, func(l *ledger) int {
		return len(slices.DeleteFunc(l.Storage.Keys("NodeBootstrap"), func(k invariants.Key) bool { return l.bootstrap(k.Name) == nil }))
	})
	var last error
	for ; ctx.Err() == nil; wait(ctx, checkEvery) {
		m := s.managers.oldest()
		if m == nil {
			continue
		}
		var done int
		if done, last = m.reconciled(ctx); last == nil && done >= goal {
			return nil
		}
		s.line.note("the last manager has reconciled %d times, and there are %d: %v", done, goal, last)
	}
	return last
}

// reconciled is how often a manager has reconciled a node, by its own metrics.
func (m *manager) reconciled(ctx context.Context) (int, error) {
	content, err := m.scrape(ctx)
	if err != nil {
		return 0, err
	}
	total := 0.0
	for _, match := range reconciled.FindAllSubmatch(content, -1) {
		n, err := strconv.ParseFloat(string(match[1]), 64)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return int(total), nil
}

// The operator's budget of API requests: so many when a manager starts, a connection breaks or something happens to a
// node, and so many in every second for each node. It is three times the observed number.
const (
	requestsPerStart  = 60
	requestsPerBreak  = 20
	requestsPerStory  = 60
	requestsPerSecond = 1
)

// checkRequests checks that the operator's API requests are bounded, and prints them by kind.
func (s *suite) checkRequests() {
	entries, err := s.audit.Entries()
	if err != nil {
		s.fail("reading the audit log: %v", err)
		return
	}
	kinds := map[string]int{}
	for _, e := range entries {
		kinds[e.Verb+" "+e.ObjectRef.Resource]++
	}
	bound := requestsPerStart*s.managers.started + requestsPerBreak*(int(s.proxy.cut.Load())+2*s.restarts) +
		requestsPerStory*(s.stories()+len(s.slots)) + requestsPerSecond*len(s.slots)*int(s.line.elapsed().Seconds())
	s.t.Logf("%d requests of the operator, at most %d: %v", len(entries), bound, kinds)
	if len(entries) > bound {
		s.t.Error(invariants.Bounded.Violated("the operator has sent %d requests, more than %d", len(entries), bound))
	}
}
