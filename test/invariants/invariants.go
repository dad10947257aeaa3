// SPDX-License-Identifier: Apache-2.0

// Package invariants checks the invariants of docs/reliability.md. test/faults checks each write of the reconcilers in memory,
// test/chaos each write that etcd stored while real processes were killed.
package invariants

import (
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// Invariant is one of those in docs/reliability.md, by its number.
type Invariant int

// See docs/reliability.md.
const (
	Approvals Invariant = 1 + iota
	LiveTokens
	NothingLeft
	SameEnd
	Foreign
	Secrets
	Bounded
)

// Names are those of the invariants, by number. There is no 0.
var Names = [...]string{
	Approvals: "approvals", LiveTokens: "live tokens", NothingLeft: "nothing left", SameEnd: "same end", Foreign: "not ours", Secrets: "secrets", Bounded: "bounded",
}

// Violated describes a violation of the invariant.
func (i Invariant) Violated(format string, args ...any) string {
	return fmt.Sprintf("%d %s: %s", i, Names[i], fmt.Sprintf(format, args...))
}

// Key names an object.
type Key struct{ Kind, Namespace, Name string }

func (k Key) String() string {
	if k.Namespace == "" {
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// TokenKey is that of a token's Secret.
func TokenKey(id string) Key {
	return Key{"Secret", token.Namespace, token.SecretName(id)}
}

// Storage is the current and past content of an API server. Nobody changes an object of it.
type Storage interface {
	// At is an object at a revision; nil while it did not exist.
	At(k Key, revision int64) client.Object
	// Since are the versions of an object after a revision. A deletion is nil.
	Since(k Key, revision int64) []client.Object
	// Keys are those of all objects of a kind that exist or existed.
	Keys(kind string) []Key
}

// Write is a change that was stored.
type Write struct {
	Key           Key
	Before, After client.Object // nil if the object did not exist
	Revision      int64
	At            time.Time
	// Began is the revision at which the reconcile began that wrote it; 0 if that is not known. A process that was paused since cannot know
	// of a token that was created and deleted meanwhile.
	Began int64
	// Seen are revisions. The write must be right by one of them: its author relied on what it last read, which may have changed
	// since.
	Seen []int64
	// Knows reports whether the author could know of a token. Nil: it could.
	Knows func(token *corev1.Secret, revision int64) bool
	// Shows reports whether the author's cache showed a NodeBootstrap. Nil: it did not.
	Shows func(name string, uid types.UID) bool
	// Late means that the author may be a superseded process, or has read an old cache. Nothing in Kubernetes can fence that off,
	// so checks that depend on a point in time do not apply.
	Late bool
}

// Checker remembers what the checks need.
type Checker struct {
	Storage
	// Namespace is the operator's.
	Namespace string
	// Slack is the precision of the times of objects.
	Slack time.Duration
	// Reuse means that the ID of a token that was never published can be used again, because admission changed it.
	Reuse bool
	// Foreign are the objects that are not the operator's.
	Foreign map[Key]bool
	// Parts are the secret parts of all tokens that ever existed, with their names.
	Parts map[string]string
	// Checked counts the checks by invariant.
	Checked [len(Names)]int

	tokens          map[string]*createdToken
	keys            map[string][]string // that were approved with a token, by ID
	nodesOf         map[string][]string // for which a key was approved
	reissueRequests map[types.UID]int64 // when a reissue was last requested, by NodeBootstrap
	report          func(string)
}

// createdToken is a token that the operator created.
type createdToken struct {
	node      string
	owner     types.UID
	created   int64 // the revision at which it was first created
	published int64 // the revision at which a kubeconfig first contained it; 0 for never
	gone      bool
}

// New returns a checker that reports violations.
func New(storage Storage, namespace string, slack time.Duration, report func(string)) *Checker {
	return &Checker{
		Storage: storage, Namespace: namespace, Slack: slack, Foreign: map[Key]bool{}, Parts: map[string]string{}, tokens: map[string]*createdToken{},
		keys: map[string][]string{}, nodesOf: map[string][]string{}, reissueRequests: map[types.UID]int64{}, report: report,
	}
}

func (c *Checker) violated(i Invariant, format string, args ...any) {
	c.report(i.Violated(format, args...))
}

// Find returns the violations that a check reports.
func (c *Checker) Find(check func()) []string {
	var found []string
	report := c.report
	c.report = func(s string) { found = append(found, s) }
	defer func() { c.report = report }()
	check()
	return found
}

// Tokens is how many tokens the operator has created.
func (c *Checker) Tokens() int { return len(c.tokens) }

// NodeOf is the node for which a token was created; empty if the operator did not create it.
func (c *Checker) NodeOf(id string) string {
	if t := c.tokens[id]; t != nil {
		return t.node
	}
	return ""
}

// Learn remembers a change, whoever its author is.
func (c *Checker) Learn(w Write, byOperator bool) {
	switch o := w.After.(type) {
	case *corev1.Secret:
		c.learnSecret(w, o, byOperator)
	case *v1alpha1.NodeBootstrap:
		if before, _ := w.Before.(*v1alpha1.NodeBootstrap); before == nil || ReissueRequest(before) != ReissueRequest(o) {
			c.reissueRequests[o.UID] = w.Revision
		}
	case nil:
		if s, ok := w.Before.(*corev1.Secret); ok && c.tokens[TokenID(s)] != nil {
			c.tokens[TokenID(s)].gone = byOperator // one that others deleted before the status named it never existed, for the operator
		}
	}
}

func (c *Checker) learnSecret(w Write, s *corev1.Secret, byOperator bool) {
	if t := c.tokens[idIn(Bearer(s))]; t != nil && t.published == 0 {
		t.published = w.Revision
	}
	if s.Type != bootstrapapi.SecretTypeBootstrapToken {
		return
	}
	c.LearnPart(s)
	if w.Before != nil || !byOperator || owned.NodeOf(s) == "" || len(s.OwnerReferences) == 0 {
		return
	}
	id := TokenID(s)
	t := &createdToken{node: owned.NodeOf(s), owner: s.OwnerReferences[0].UID, created: w.Revision}
	if before := c.tokens[id]; before != nil && before.gone && !w.Late && (before.published > 0 || !c.Reuse) && c.wanted(t, w.Revision) && (w.Began == 0 || w.Began >= before.created) {
		c.violated(LiveTokens, "the token ID %s, which %s had before, is used again", id, before.node)
	}
	c.tokens[id] = t
}

// LearnPart remembers the secret part of a token, stored or not.
func (c *Checker) LearnPart(s *corev1.Secret) {
	if part := string(s.Data[bootstrapapi.BootstrapTokenSecretKey]); len(part) == 16 {
		c.Parts[part] = "the secret part of " + s.Name
	}
}

// Check checks a write of the operator's against the invariants.
func (c *Checker) Check(w Write) {
	c.Checked[Foreign]++
	if c.Foreign[w.Key] {
		c.violated(Foreign, "the operator writes to %s", w.Key)
	}
	switch o := w.After.(type) {
	case *corev1.Secret:
		if o.Type == bootstrapapi.SecretTypeBootstrapToken {
			c.checkToken(w, o)
		} else if owned.NodeOf(o) != "" && o.Namespace != token.Namespace {
			c.checkKubeconfig(w, o)
		}
	case *v1alpha1.NodeBootstrap:
		c.checkStatus(w, o)
	case *certificatesv1.CertificateSigningRequest:
		c.checkRequest(w, o)
	}
}

// get is an object at a revision; the zero value while it did not exist.
func get[T client.Object](c *Checker, k Key, revision int64) T {
	o, _ := c.At(k, revision).(T)
	return o
}

func (c *Checker) nodeBootstrap(name string, revision int64) *v1alpha1.NodeBootstrap {
	return get[*v1alpha1.NodeBootstrap](c, Key{Kind: "NodeBootstrap", Name: name}, revision)
}

// wanted reports whether the NodeBootstrap for which a token was created exists.
func (c *Checker) wanted(t *createdToken, revision int64) bool {
	nb := c.nodeBootstrap(t.node, revision)
	return nb != nil && nb.DeletionTimestamp == nil && nb.UID == t.owner
}

// ReissueRequest is the reissue that a NodeBootstrap requests, or for which a token was created.
func ReissueRequest(o client.Object) string {
	return o.GetAnnotations()[v1alpha1.ReissueRequestedAtAnnotation]
}

// TokenID is the ID of a token.
func TokenID(s *corev1.Secret) string { return string(s.Data[bootstrapapi.BootstrapTokenIDKey]) }

// Bearer is the token in a kubeconfig Secret; empty for none.
func Bearer(s *corev1.Secret) string {
	_, rest, _ := strings.Cut(string(s.Data[kubeconfig.Key]), "token: ")
	bearer, _, _ := strings.Cut(rest, "\n")
	return bearer
}

func idIn(bearer string) string {
	id, _, _ := strings.Cut(bearer, ".")
	return id
}

// Live reports whether a Secret is a token that authenticates (plugin/pkg/auth/authenticator/token/bootstrap).
func Live(s *corev1.Secret, now time.Time) bool {
	return now.Before(expiry(s)) && s.Type == bootstrapapi.SecretTypeBootstrapToken && s.DeletionTimestamp == nil &&
		string(s.Data[bootstrapapi.BootstrapTokenUsageAuthentication]) == "true" && len(s.Data[bootstrapapi.BootstrapTokenSecretKey]) == 16
}

// expiry is zero for a token without one.
func expiry(s *corev1.Secret) time.Time {
	expires, _ := time.Parse(time.RFC3339, string(s.Data[bootstrapapi.BootstrapTokenExpirationKey]))
	return expires
}

// LiveTokens are the live tokens that the operator created for a node, the newest last.
func (c *Checker) LiveTokens(node string, revision int64, now time.Time) []*corev1.Secret {
	var out []*corev1.Secret
	for _, k := range c.Keys("Secret") {
		id, ok := strings.CutPrefix(k.Name, bootstrapapi.BootstrapTokenSecretPrefix)
		if !ok || node == "" || c.NodeOf(id) != node {
			continue
		}
		if s := get[*corev1.Secret](c, k, revision); s != nil && Live(s, now) {
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b *corev1.Secret) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return out
}
