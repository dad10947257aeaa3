// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/test/env"
	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

const (
	// settleLimit is how long everything can take to reach its end state, on a machine that is busy with other things.
	settleLimit = 3 * time.Minute
	checkEvery  = time.Second
)

// fate is the end state of a node.
type fate string

const (
	joined  fate = "joined"
	awaited fate = "awaited"
	gone    fate = "gone"
)

// checkEnd brings every node to an end state, and checks that it is that of an undisturbed run.
func (s *suite) checkEnd() {
	ctx, cancel := context.WithTimeout(s.ctx, settleLimit)
	defer cancel()
	if err := s.replaceManager(); err != nil {
		s.fail("%v", err)
		return
	}
	fates, ends := []fate{joined, awaited, gone}, map[*slot]fate{}
	first := s.random(4).IntN(len(fates))
	var people sync.WaitGroup
	for i, slot := range s.slots {
		end := fates[(first+i)%len(fates)]
		ends[slot] = end
		s.line.note("%s: end state %s", slot.node, end)
		people.Go(func() { slot.end(ctx, end) })
	}
	people.Wait()
	if err := s.settle(ctx, ends); err != nil {
		s.fail("not settled within %s: %v", settleLimit, err)
		return
	}
	s.line.note("settled")
	s.checkQuiet(ctx)
	if err := s.wrong(ctx, ends); err != nil {
		s.fail("after it was quiet: %v", err)
	}
}

// replaceManager kills the remaining managers, and starts one that nothing disturbs.
func (s *suite) replaceManager() error {
	if err := s.managers.start(); err != nil {
		return err
	}
	for m := s.managers.oldest(); s.managers.count() > 1; m = s.managers.oldest() {
		if err := s.managers.kill(m); err != nil {
			return err
		}
	}
	if s.managers.electing() {
		s.managers.vacateLease(s.ctx)
	}
	return nil
}

// end brings one node to its end state.
func (s *slot) end(ctx context.Context, end fate) {
	switch end {
	case joined:
		s.commit(ctx)
		s.join(ctx)
	case awaited:
		s.shutDown()
		s.s.admin.removeNode(ctx, s.node)
		s.commit(ctx)
		s.restore(ctx)
	case gone:
		s.shutDown()
		s.s.admin.remove(ctx, s.node, metav1.DeletePropagationBackground)
		s.s.admin.removeNode(ctx, s.node)
	}
}

// restore ensures that a machine that does not join has a credential that was not misused.
func (s *slot) restore(ctx context.Context) {
	for ctx.Err() == nil {
		limited, cancel := context.WithTimeout(ctx, patience)
		s.s.seen.until(limited, func(l *ledger) bool { return l.ready(s.node, v1alpha1.ReasonAwaitingNode) == nil || l.misused(s.node) })
		cancel()
		if s.ready(v1alpha1.ReasonAwaitingNode) == nil {
			return
		}
		if look(s.s.seen, func(l *ledger) bool { return l.misused(s.node) }) {
			s.s.admin.reissue(ctx, s.node)
			s.handled(ctx)
		}
	}
}

// settle waits until nothing is wrong any more and the operator has written nothing for a while.
func (s *suite) settle(ctx context.Context, ends map[*slot]fate) error {
	for writes := -1; ; {
		err := s.wrong(ctx, ends)
		now := s.writes()
		if err == nil && len(now) == writes {
			return nil
		}
		if err == nil && len(now) > 0 {
			err = fmt.Errorf("the operator still writes: %s", now[len(now)-1])
		}
		writes = len(now)
		if wait(ctx, checkEvery); ctx.Err() != nil {
			return err
		}
	}
}

// wrong returns an error for anything that is not in its end state.
func (s *suite) wrong(ctx context.Context, ends map[*slot]fate) error {
	found := look(s.seen, func(l *ledger) []string {
		return l.Find(func() {
			l.CheckNothingLeft(math.MaxInt64)
			for slot := range ends {
				l.CheckTruth(slot.node, math.MaxInt64, time.Now())
			}
		})
	})
	if len(found) > 0 {
		return errors.New(strings.Join(found, "; "))
	}
	for slot, end := range ends {
		if err := s.wrongWith(ctx, slot.node, end); err != nil {
			return fmt.Errorf("%s, which is to be %s: %w", slot.node, end, err)
		}
	}
	requests, err := s.env.Requests(ctx)
	if err != nil {
		return err
	}
	for _, r := range requests {
		if invariants.Pending(&r) {
			return errors.New(invariants.NothingLeft.Violated("the request %s, sent by %s: %+v", r.Name, r.Spec.Username, r.Status))
		}
	}
	return s.unrecorded(ctx, requests)
}

// unrecorded checks that the status has the time of issue of each approved CSR with a certificate, which can appear a quarter of
// a minute later.
func (s *suite) unrecorded(ctx context.Context, requests []certificatesv1.CertificateSigningRequest) error {
	var all v1alpha1.NodeBootstrapList
	if err := s.env.Client.List(ctx, &all); err != nil {
		return err
	}
	for _, nb := range all.Items {
		for _, d := range nb.Status.Certificates {
			if d.Verdict == v1alpha1.VerdictApproved && d.IssuedTime == nil && slices.ContainsFunc(requests, func(r certificatesv1.CertificateSigningRequest) bool {
				return r.UID == d.UID && len(r.Status.Certificate) > 0 && r.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName
			}) {
				return fmt.Errorf("it is not recorded that the request %s of %s has its certificate", d.Name, nb.Name)
			}
		}
	}
	return nil
}

func (s *suite) wrongWith(ctx context.Context, node string, end fate) error {
	reason := map[fate]string{joined: v1alpha1.ReasonJoined, awaited: v1alpha1.ReasonAwaitingNode}[end]
	live, known, err := 0, false, error(nil)
	look(s.seen, func(l *ledger) any {
		live, known, err = len(l.LiveTokens(node, math.MaxInt64, time.Now())), l.bootstrap(node) != nil, l.ready(node, reason)
		return nil
	})
	switch {
	case end == gone && known:
		return errors.New("its NodeBootstrap still exists")
	case end == gone:
		return nil
	case err != nil:
		return err
	case end == joined:
		return nil
	case live != 1:
		return fmt.Errorf("there are %d tokens", live)
	}
	return s.wrongCredential(ctx, node)
}

// wrongCredential is nil if a node's kubeconfig works.
func (s *suite) wrongCredential(ctx context.Context, node string) error {
	var published corev1.Secret
	if err := s.env.Client.Get(ctx, client.ObjectKey{Namespace: operator.Namespace, Name: owned.KubeconfigSecretName(node)}, &published); err != nil {
		return err
	}
	_, c, err := connect(published.Data[kubeconfig.Key])
	if err != nil {
		return err
	}
	who, err := c.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("the kubeconfig does not work: %w", err)
	}
	if want := bootstrapapi.BootstrapUserPrefix + tokenIDIn(published.Data[kubeconfig.Key]); who.Status.UserInfo.Username != want {
		return fmt.Errorf("the kubeconfig authenticates as %s, want %s", who.Status.UserInfo.Username, want)
	}
	return nil
}

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
