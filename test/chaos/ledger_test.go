// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// The steps that the ledger counts, and for which a kill can wait.
const (
	tokenCreated      = "token created"
	tokenDeleted      = "token deleted"
	kubeconfigWritten = "kubeconfig written"
	kubeconfigDeleted = "kubeconfig deleted"
	statusStored      = "status stored"
	requestSent       = "request sent"
	requestApproved   = "request approved"
	requestDenied     = "request denied"
	requestDeleted    = "request deleted"
	certificateIssued = "certificate issued"
	nodeCreated       = "node created"
)

var steps = []string{
	tokenCreated, tokenDeleted, kubeconfigWritten, kubeconfigDeleted, statusStored, requestSent, requestApproved, requestDenied,
	requestDeleted, certificateIssued, nodeCreated,
}

// leeway is the reasons for which a write may rest on an older state.
type leeway struct {
	// overlap reports whether a superseded manager may still write.
	overlap func() bool
	// lag is the longest delay of a manager's writes.
	lag func() time.Duration
	// behind is how long a manager's caches may be behind because its watches were cut.
	behind func() time.Duration
}

// ledger is the current and past content of the storage, with all violations.
//
// Approvals and later tokens rest on reads of the API server. First tokens and kubeconfigs rest on caches, and are corrected by the
// reconcile that sees what has changed: see docs/reliability.md.
//
// It is strict while one manager runs. A second manager, one that was paused, or a write that was sent before its manager was
// killed may rest on a state before the other manager's writes: Kubernetes cannot fence that off. Then an unwanted token can
// exist until the current manager has seen and deleted it.
type ledger struct {
	history
	*invariants.Checker
	note   func(format string, args ...any)
	leeway leeway

	mu         sync.Mutex
	changed    chan struct{}           // closed at the next change
	unwanted   map[types.UID]time.Time // since when a NodeBootstrap is deleted
	doubles    map[string]time.Time    // since when a node has two tokens because of a superseded manager
	violations []string

	steps  map[string]int
	strict int // the number of steps that were checked without leeway
}

func newLedger(note func(string, ...any), leeway leeway) *ledger {
	l := &ledger{
		history: history{History: invariants.History{}}, note: note, leeway: leeway, changed: make(chan struct{}),
		unwanted: map[types.UID]time.Time{}, doubles: map[string]time.Time{}, steps: map[string]int{},
	}
	l.Checker = invariants.New(&l.history, operator.Namespace, clockSlack, func(text string) {
		l.note("VIOLATION: %s", text)
		l.violations = append(l.violations, text)
	})
	return l
}

// clockSlack allows for times in whole seconds.
const clockSlack = 2 * time.Second

// history has all versions of the relevant objects, and all changes.
type history struct {
	invariants.History
	changes []change // without their values
}

// since are all revisions since a time, from the last one before it, in order. The first one is 0 if there was none before.
func (h *history) since(at time.Time) []int64 {
	var out []int64
	for _, c := range slices.Backward(h.changes) {
		out = append(out, c.revision)
		if !c.at.After(at) {
			slices.Reverse(out)
			return out
		}
	}
	slices.Reverse(out)
	return append([]int64{0}, out...)
}

// now is the current version of an object; the zero value if it does not exist.
func now[T client.Object](h *history, k invariants.Key) T {
	o, _ := h.At(k, math.MaxInt64).(T)
	return o
}

func (h *history) bootstrap(node string) *v1alpha1.NodeBootstrap {
	return now[*v1alpha1.NodeBootstrap](h, invariants.Key{Kind: "NodeBootstrap", Name: node})
}

// kubeconfig is the ID of the token in a node's kubeconfig Secret; empty for none.
func (h *history) kubeconfig(node string) string {
	s := now[*corev1.Secret](h, invariants.Key{Kind: "Secret", Namespace: operator.Namespace, Name: owned.KubeconfigSecretName(node)})
	if s == nil {
		return ""
	}
	return tokenIDIn(s.Data[kubeconfig.Key])
}

// tokenIDIn is the ID of the token in a kubeconfig.
func tokenIDIn(text []byte) string {
	id, _, _ := strings.Cut(invariants.Bearer(&corev1.Secret{Data: map[string][]byte{kubeconfig.Key: text}}), ".")
	return id
}

// The prefixes of the keys of relevant objects.
const (
	secretsPrefix    = "/registry/secrets/"
	eventsPrefix     = "/registry/events/"
	bootstrapsPrefix = "/registry/nodebootstrap.io/nodebootstraps/"
	requestsPrefix   = "/registry/certificatesigningrequests/"
	nodesPrefix      = "/registry/minions/"
)

// object is the object that a change stored, and its key; false if it is not relevant. The object is nil if it was deleted.
func object(c change) (invariants.Key, client.Object, bool, error) {
	for prefix, kind := range map[string]string{secretsPrefix: "Secret", bootstrapsPrefix: "NodeBootstrap", requestsPrefix: "CertificateSigningRequest", nodesPrefix: "Node"} {
		name, ok := strings.CutPrefix(c.key, prefix)
		if !ok {
			continue
		}
		k := invariants.Key{Kind: kind, Name: name}
		if kind == "Secret" {
			k.Namespace, k.Name, _ = strings.Cut(name, "/")
		}
		switch {
		case c.value == nil:
			return k, nil, true, nil
		case kind == "NodeBootstrap":
			nb := &v1alpha1.NodeBootstrap{}
			return k, nb, true, json.Unmarshal(c.value, nb)
		}
		decoded, _, err := clientgoscheme.Codecs.UniversalDeserializer().Decode(c.value, nil, nil)
		o, _ := decoded.(client.Object)
		return k, o, true, err
	}
	return invariants.Key{}, nil, false, nil
}

// grace is how long after a deletion a write that relies on the deleted object can arrive: the longest time from the last
// read to the write, on a busy machine with a slow disk. Nothing in Kubernetes prevents a deletion in between.
const grace = 2 * time.Second

// see processes a change, and returns the invariants that it violates.
func (l *ledger) see(c change) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := len(l.violations)
	defer func() {
		close(l.changed)
		l.changed = make(chan struct{})
	}()
	l.changes = append(l.changes, change{revision: c.revision, at: c.at})
	k, o, matters, err := object(c)
	if err != nil {
		l.violations = append(l.violations, fmt.Sprintf("%s cannot be read: %v", c.key, err))
	}
	if matters && err == nil {
		w := invariants.Write{Key: k, Before: now[client.Object](&l.history, k), After: o, Revision: c.revision, At: c.at, Late: l.leeway.overlap(), Knows: l.knows(c.at), Shows: l.shows(c.at)}
		l.History[k] = append(l.History[k], invariants.Version{Revision: c.revision, Object: o})
		slack := grace + l.leeway.lag()
		if k.Kind == "Secret" && k.Namespace == operator.Namespace { // a kubeconfig
			slack += l.leeway.behind()
		}
		w.Seen = l.since(c.at.Add(-slack))
		l.unwant(w)
		l.Learn(w, true)
		if mayBeOperators(w) {
			l.Check(w)
		}
		l.count(c, w)
	}
	l.checkDoubles(c)
	return l.violations[before:]
}

// mayBeOperators reports which changes may be the operator's, because etcd does not know the author.
func mayBeOperators(w invariants.Write) bool {
	switch o := w.After.(type) {
	case *corev1.Secret:
		return o.Labels[owned.ManagedByLabel] != ""
	case *certificatesv1.CertificateSigningRequest:
		return ours(o)
	case *v1alpha1.NodeBootstrap:
		return onlyStatus(w.Before, o)
	}
	return true
}

func onlyStatus(before client.Object, nb *v1alpha1.NodeBootstrap) bool {
	was, ok := before.(*v1alpha1.NodeBootstrap)
	return ok && was.UID == nb.UID && was.Generation == nb.Generation && invariants.ReissueRequest(was) == invariants.ReissueRequest(nb)
}

// ours reports whether a CSR was sent with a token of the operator's. The API server writes the groups.
func ours(r *certificatesv1.CertificateSigningRequest) bool {
	return slices.Contains(r.Spec.Groups, token.Group)
}

// unwant records since when a node is unwanted.
func (l *ledger) unwant(w invariants.Write) {
	nb, _ := w.Before.(*v1alpha1.NodeBootstrap)
	if after, ok := w.After.(*v1alpha1.NodeBootstrap); nb == nil || ok && after.DeletionTimestamp == nil {
		return
	}
	if _, known := l.unwanted[nb.UID]; !known {
		l.unwanted[nb.UID] = w.At
	}
}

// knows reports whether the operator could know of a token when it created another one. A token of a NodeBootstrap that was just
// deleted is deleted when the operator's cache shows that, and by then the next NodeBootstrap of the name can have one.
func (l *ledger) knows(at time.Time) func(*corev1.Secret, int64) bool {
	return func(s *corev1.Secret, _ int64) bool {
		o := metav1.GetControllerOf(s)
		return o == nil || !l.justDeleted(o.UID, at)
	}
}

// shows reports whether the operator's cache could still show a NodeBootstrap. Its other caches can be ahead, and show for example that
// the Node is deleted.
func (l *ledger) shows(at time.Time) func(string, types.UID) bool {
	return func(_ string, uid types.UID) bool { return l.justDeleted(uid, at) }
}

func (l *ledger) justDeleted(nodeBootstrap types.UID, at time.Time) bool {
	since, deleted := l.unwanted[nodeBootstrap]
	return deleted && at.Sub(since) <= grace+l.leeway.lag()+l.leeway.behind()
}

// doubleLimit is how long a node can have two tokens because of a superseded manager: the current managers are killed
// every few seconds.
const doubleLimit = time.Minute

// checkDoubles checks that the effects of a superseded manager are undone.
func (l *ledger) checkDoubles(c change) {
	for node, since := range l.doubles {
		switch wrong := l.Doubled(node, c.revision, c.at); {
		case wrong == "":
			delete(l.doubles, node)
		case c.at.Sub(since) > doubleLimit:
			delete(l.doubles, node)
			l.violations = append(l.violations, invariants.LiveTokens.Violated("for %s now, %s", c.at.Sub(since).Round(time.Second), wrong))
		}
	}
}

// count counts the step that a change is, if it is one.
func (l *ledger) count(c change, w invariants.Write) {
	switch o := cmp.Or(w.After, w.Before).(type) {
	case *corev1.Secret:
		id := invariants.TokenID(o)
		switch node := l.NodeOf(id); {
		case node != "" && w.After == nil:
			l.step(c, tokenDeleted, "%s of %s", id, node)
		case node != "" && w.Before == nil:
			l.step(c, tokenCreated, "%s of %s for NodeBootstrap %.8s", id, node, o.OwnerReferences[0].UID)
			if l.Doubled(node, c.revision, c.at) != "" {
				l.doubles[node] = c.at
			}
		case node == "" && owned.NodeOf(o) != "" && w.After == nil:
			l.step(c, kubeconfigDeleted, "%s", o.Name)
		case node == "" && owned.NodeOf(o) != "":
			l.step(c, kubeconfigWritten, "%s with the token %s", o.Name, tokenIDIn(o.Data[kubeconfig.Key]))
		}
	case *certificatesv1.CertificateSigningRequest:
		if ours(o) {
			l.countRequest(c, w, o)
		}
	case *v1alpha1.NodeBootstrap:
		if w.After != nil && onlyStatus(w.Before, o) {
			l.step(c, statusStored, "%s: %s", o.Name, summary(&o.Status))
			return
		}
		l.note("  [%d] NodeBootstrap: %s %.8s gone=%t deleted=%t reissue=%q", c.revision, o.Name, o.UID, w.After == nil, o.DeletionTimestamp != nil, invariants.ReissueRequest(o))
	case *corev1.Node:
		switch {
		case w.Before == nil:
			l.step(c, nodeCreated, "%s %.8s", o.Name, o.UID)
		case w.After == nil:
			l.note("  [%d] Node gone: %s", c.revision, o.Name)
		}
	}
}

func (l *ledger) countRequest(c change, w invariants.Write, r *certificatesv1.CertificateSigningRequest) {
	before, _ := w.Before.(*certificatesv1.CertificateSigningRequest)
	id := token.IDOfUser(r.Spec.Username)
	step := ""
	switch {
	case w.After == nil:
		step = requestDeleted
	case before == nil || before.UID != r.UID:
		step = requestSent
	case invariants.Decided(r, certificatesv1.CertificateApproved) && !invariants.Decided(before, certificatesv1.CertificateApproved):
		step = requestApproved
	case invariants.Decided(r, certificatesv1.CertificateDenied) && !invariants.Decided(before, certificatesv1.CertificateDenied):
		step = requestDenied
	case len(r.Status.Certificate) > 0 && len(before.Status.Certificate) == 0:
		step = certificateIssued
	default:
		return
	}
	l.step(c, step, "%s with %s of %s", r.Name, id, l.NodeOf(id))
}

// step counts a step. The caller holds mu.
func (l *ledger) step(c change, what, format string, args ...any) {
	l.steps[what]++
	if !l.leeway.overlap() {
		l.strict++
	}
	l.note("  [%d] %s: %s", c.revision, what, fmt.Sprintf(format, args...))
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

// until waits until the ledger meets a condition, and reports whether it does before ctx is done.
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

// untilStep waits until a step has happened so many times from now on, or until the limit.
func (l *ledger) untilStep(ctx context.Context, what string, times int, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	l.mu.Lock()
	goal := l.steps[what] + times
	l.mu.Unlock()
	l.until(ctx, func(l *ledger) bool { return l.steps[what] >= goal })
}

// look reads the ledger under its lock.
func look[T any](l *ledger, f func(*ledger) T) T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return f(l)
}
