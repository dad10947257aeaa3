// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// The steps that the ledger counts, and that a kill can wait for.
const (
	tokenMade         = "token made"
	tokenGone         = "token gone"
	kubeconfigWritten = "kubeconfig written"
	kubeconfigGone    = "kubeconfig gone"
	statusStored      = "status stored"
	requestSent       = "request sent"
	requestApproved   = "request approved"
	requestDenied     = "request denied"
	requestGone       = "request gone"
	certificateIssued = "certificate issued"
	nodeMade          = "node made"
)

var steps = []string{
	tokenMade, tokenGone, kubeconfigWritten, kubeconfigGone, statusStored, requestSent, requestApproved, requestDenied,
	requestGone, certificateIssued, nodeMade,
}

// leeway is what makes writes late that rest on what was true before.
type leeway struct {
	// overlap reports whether a manager of the past may be writing.
	overlap func() bool
	// lag is the most by which what a manager has sent may be late.
	lag func() time.Duration
}

// ledger is what the storage holds, kept up to date change by change, and what is wrong with it.
//
// It is strict while one manager is at work. A second one, or one that was paused, or what one has sent before it was killed,
// may write what it has decided on before the other one's writes: Kubernetes has no means to fence it off. Then a token may be
// there that should not, until the present manager has seen it and deleted it.
type ledger struct {
	note   func(format string, args ...any)
	leeway leeway

	mu          sync.Mutex
	changed     chan struct{} // closed at the next change
	tokens      map[string]*token
	parts       map[string]string // the secret parts of all tokens there ever were, with the names of their tokens
	bootstraps  map[string]*v1alpha1.NodeBootstrap
	kubeconfigs map[string]string // token id by node
	nodes       map[string]*corev1.Node
	requests    map[string]*certificatesv1.CertificateSigningRequest
	keys        map[string]string    // public key by the id of the token that it was approved with
	wishes      map[string]int64     // when a reissue was last asked for, as a revision, by the UID of the NodeBootstrap
	unwanted    map[string]time.Time // since when a NodeBootstrap is deleted, by UID
	doubles     map[string]time.Time // since when a node has two tokens by a manager of the past
	violations  []string

	steps  map[string]int
	strict int           // how many of the steps were judged without leeway
	late   int           // approvals that were stored after their token was gone
	latest time.Duration // by how much the latest of them
	again  int           // token ids that were given a second time by a manager of the past
}

func newLedger(note func(string, ...any), leeway leeway) *ledger {
	return &ledger{
		note: note, leeway: leeway, changed: make(chan struct{}),
		tokens: map[string]*token{}, parts: map[string]string{}, bootstraps: map[string]*v1alpha1.NodeBootstrap{}, kubeconfigs: map[string]string{},
		nodes: map[string]*corev1.Node{}, requests: map[string]*certificatesv1.CertificateSigningRequest{}, keys: map[string]string{},
		wishes: map[string]int64{}, unwanted: map[string]time.Time{}, doubles: map[string]time.Time{}, steps: map[string]int{},
	}
}

// The prefixes of the keys of what matters.
const (
	secretsPrefix    = "/registry/secrets/"
	eventsPrefix     = "/registry/events/"
	bootstrapsPrefix = "/registry/nodebootstrap.io/nodebootstraps/"
	requestsPrefix   = "/registry/certificatesigningrequests/"
	nodesPrefix      = "/registry/minions/"
)

// see takes a change into account, and returns which invariants it violates.
func (l *ledger) see(c change) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := len(l.violations)
	defer func() {
		close(l.changed)
		l.changed = make(chan struct{})
	}()
	for prefix, seen := range map[string]func(change, string){
		secretsPrefix: l.seeSecret, bootstrapsPrefix: l.seeBootstrap, requestsPrefix: l.seeRequest, nodesPrefix: l.seeNode,
	} {
		if name, ok := strings.CutPrefix(c.key, prefix); ok {
			seen(c, name)
		}
	}
	l.checkDoubles(c.at)
	return l.violations[before:]
}

// violated notes that an invariant does not hold. The caller holds mu.
func (l *ledger) violated(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	l.note("VIOLATION: %s", what)
	l.violations = append(l.violations, what)
}

// step counts a step. The caller holds mu.
func (l *ledger) step(c change, what, format string, args ...any) {
	l.steps[what]++
	if !l.leeway.overlap() {
		l.strict++
	}
	l.note("  [%d] %s: %s", c.revision, what, fmt.Sprintf(format, args...))
}

// decode reads what the API server has stored of one of Kubernetes' own types.
func decode[T any](l *ledger, c change) *T {
	if c.value == nil {
		return nil
	}
	object, _, err := clientgoscheme.Codecs.UniversalDeserializer().Decode(c.value, nil, nil)
	if err != nil {
		l.violated("%s cannot be read: %v", c.key, err)
		return nil
	}
	typed, ok := any(object).(*T)
	if !ok {
		l.violated("%s holds %T", c.key, object)
	}
	return typed
}

func (l *ledger) seeBootstrap(c change, name string) {
	before := l.bootstraps[name]
	if c.value == nil {
		l.unwant(before, c.at)
		delete(l.bootstraps, name)
		l.note("  [%d] NodeBootstrap gone: %s", c.revision, name)
		return
	}
	nb := &v1alpha1.NodeBootstrap{}
	if err := json.Unmarshal(c.value, nb); err != nil {
		l.violated("%s cannot be read: %v", c.key, err)
		return
	}
	l.bootstraps[name] = nb
	if nb.DeletionTimestamp != nil {
		l.unwant(nb, c.at)
	}
	if before == nil || reissueWish(before) != reissueWish(nb) {
		l.wishes[string(nb.UID)] = c.revision
	}
	if before != nil && before.Status.LastHandledReissueAt != nb.Status.LastHandledReissueAt {
		l.checkReissue(nb)
	}
	if !saysJoined(before) && saysJoined(nb) {
		l.checkJoined(nb)
	}
	if before == nil || before.UID != nb.UID || before.Generation != nb.Generation || reissueWish(before) != reissueWish(nb) {
		l.note("  [%d] NodeBootstrap: %s %.8s deleted=%t reissue=%q", c.revision, name, nb.UID, nb.DeletionTimestamp != nil, reissueWish(nb))
		return
	}
	l.step(c, statusStored, "%s: %s", name, summary(&nb.Status))
}

// unwant notes since when nobody wants a node any more.
func (l *ledger) unwant(nb *v1alpha1.NodeBootstrap, at time.Time) {
	if nb == nil {
		return
	}
	if _, known := l.unwanted[string(nb.UID)]; !known {
		l.unwanted[string(nb.UID)] = at
	}
}

func reissueWish(nb *v1alpha1.NodeBootstrap) string {
	return nb.Annotations[v1alpha1.ReissueRequestedAtAnnotation]
}

// summary is a status in a line.
func summary(s *v1alpha1.NodeBootstrapStatus) string {
	ready := "none"
	if c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady); c != nil {
		ready = fmt.Sprintf("%s/%s", c.Status, c.Reason)
	}
	id := ""
	if s.Token != nil {
		id = s.Token.ID
	}
	var decisions []string
	for _, d := range s.Certificates {
		decisions = append(decisions, fmt.Sprintf("%s:%s:%t", d.TokenID, d.Reason, d.IssuedTime != nil))
	}
	return fmt.Sprintf("Ready=%s token=%s last=%s handled=%q node=%.8s misused=%t %v", ready, id, s.LastTokenID,
		s.LastHandledReissueAt, s.NodeUID, meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionTokenMisused), decisions)
}

func (l *ledger) seeNode(c change, name string) {
	node := decode[corev1.Node](l, c)
	before := l.nodes[name]
	if node == nil {
		delete(l.nodes, name)
		l.note("  [%d] Node gone: %s", c.revision, name)
		return
	}
	l.nodes[name] = node
	if before == nil || before.UID != node.UID {
		l.step(c, nodeMade, "%s %.8s", name, node.UID)
	}
}

// until waits until what the ledger holds meets a condition, and reports whether it does before ctx is done.
func (l *ledger) until(ctx context.Context, holds func(*ledger) bool) bool {
	for {
		l.mu.Lock()
		met, changed := holds(l), l.changed
		l.mu.Unlock()
		if met {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// untilStep waits for a step to happen so many times from now on, or for a time.
func (l *ledger) untilStep(ctx context.Context, what string, times int, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	l.mu.Lock()
	goal := l.steps[what] + times
	l.mu.Unlock()
	l.until(ctx, func(l *ledger) bool { return l.steps[what] >= goal })
}

// look reads the ledger.
func look[T any](l *ledger, f func(*ledger) T) T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return f(l)
}
