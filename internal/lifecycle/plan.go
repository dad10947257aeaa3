// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"io"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// Phase is where in its life a node is.
type Phase int

const (
	// Gone means: there is no NodeBootstrap, so that nothing of it may be left.
	Gone Phase = iota
	// Awaited means: the node has not joined; it needs one live credential.
	Awaited
	// Joined means: the node is a member; no credential may be left.
	Joined
	// DeadlineExceeded means: the node has not joined in time.
	// Whatever credential there was has expired and is not renewed.
	DeadlineExceeded
	// Withdrawn means: a token of the node was in wrong hands, and there is no credential until a reissue.
	Withdrawn
)

// How long to wait before a Lease is read again that does not show yet that the node has joined: a tenth of the time
// since there was last a reason to expect it, within these bounds.
const (
	leasePollMin = time.Second
	leasePollMax = 10 * time.Minute
)

// Plan is what has to be done for one node. Its zero value does nothing.
type Plan struct {
	Phase Phase
	// Problem is why a node that is awaited can have no new credential now. What it has stays.
	Problem *problem.Problem
	// Reissue says that this pass handles the value of the reissue annotation.
	Reissue bool
	// Since is since when the node is waited for; zero when it is not.
	Since time.Time
	// Alive is when a kubelet was seen to work as the node after the reissue that the node waits for; nil when none was.
	Alive *metav1.Time

	// MayBeMember reports that the node gets no credential yet, since a kubelet has reported as it and its first Lease is to come.
	MayBeMember bool

	// Keep are the live tokens that stay, the newest last: Token, and its predecessor, which renewal left to expire.
	Keep []token.Token
	// Token is the token that the kubeconfig carries, or shall carry unless another is minted.
	Token *token.Token
	// MintAfter, if not nil, asks for a new token whose id follows this one.
	MintAfter *string
	// RepairTokens are Secrets of live tokens as they should be.
	RepairTokens []*corev1.Secret
	// DeleteTokens are Secrets of tokens that must not live on.
	DeleteTokens []*corev1.Secret
	// DeleteKubeconfig is the kubeconfig Secret when it must not be there.
	DeleteKubeconfig *corev1.Secret

	// Decisions are verdicts to carry out: on requests of live tokens, and on those for serving certificates.
	Decisions []Decision
	// Misuse is the evidence that this pass found that a token is in wrong hands, with the reason of the decision.
	Misuse *problem.Problem
	// Serving is the verdict on the newest undecided request for a serving certificate.
	Serving *csr.Result
	// DeleteRequests are requests without a certificate whose token is no more.
	DeleteRequests []*certificatesv1.CertificateSigningRequest
	// Outliving are requests that have a certificate although the plan revokes their token.
	Outliving []*certificatesv1.CertificateSigningRequest

	Unrecorded string // the id of the last token to be deleted, if the status does not tell of it

	Keys []v1alpha1.SentKey // sent with one token, if several

	// RequeueAt is when to reconcile again even if nothing happens; zero for never.
	RequeueAt time.Time
}

// Decision is a verdict on a request.
type Decision struct {
	Request *certificatesv1.CertificateSigningRequest
	Result  csr.Result
	// Record is the entry for status.certificates that is written before the verdict; empty for a serving certificate.
	Record v1alpha1.CertificateDecision
}

// RequeueBy asks for another reconcile at a time, or earlier.
func (p *Plan) RequeueBy(at time.Time) {
	if p.RequeueAt.IsZero() || at.Before(p.RequeueAt) {
		p.RequeueAt = at
	}
}

// Revokes reports whether something is denied or deleted, except for what is replaced.
func (p *Plan) Revokes() bool {
	return len(p.DeleteTokens) > 0 || len(p.DeleteRequests) > 0 || p.DeleteKubeconfig != nil ||
		slices.ContainsFunc(p.Decisions, func(d Decision) bool { return d.Result.Verdict == csr.Deny })
}

// Decide is the plan that brings the cluster from these facts to where the one rule holds.
func Decide(f *Facts, now time.Time) Plan {
	p := Plan{}
	switch {
	case f.NodeBootstrap == nil:
		p.revoke(f, Gone)
	case f.joined():
		p.revoke(f, Joined)
		p.noteUse(f, now)
	default:
		p.await(f, now)
	}
	p.decideServing(f, now)
	p.noteUnrecorded(f)
	p.noteOutliving(f, now)
	p.noteKeys(f)
	return p
}

// noteUnrecorded has the status tell of a token before that is deleted: after a crash in between, the next token would get its id,
// and the API server accepts a deleted token for ten seconds more.
func (p *Plan) noteUnrecorded(f *Facts) {
	if f.NodeBootstrap == nil {
		return
	}
	last := f.NodeBootstrap.Status.LastTokenID
	for _, t := range f.tokens() {
		if slices.Contains(p.DeleteTokens, t.Object) && token.Follows(f.NodeBootstrap.UID, t.ID, last) {
			p.Unrecorded, last = t.ID, t.ID
		}
	}
}

// revoke leaves nothing of a credential.
func (p *Plan) revoke(f *Facts, phase Phase) {
	p.Phase = phase
	p.DeleteTokens = f.TokenSecrets
	p.dropKubeconfig(f)
	p.decideRequests(f, time.Time{}) // no token is left that a time would matter for
}

func (p *Plan) dropKubeconfig(f *Facts) {
	if f.Kubeconfig != nil && owned.Ours(f.Kubeconfig, f.Name) {
		p.DeleteKubeconfig = f.Kubeconfig
	}
}

// await sees to one live credential, and no more besides a predecessor that renewal left to expire.
func (p *Plan) await(f *Facts, now time.Time) {
	p.Phase = Awaited
	p.Reissue = f.reissueDue()
	p.Since = awaitingSince(f, now)
	p.Alive = f.alive(now)
	p.Problem = blocked(f)
	if !f.ClusterWideRefused() {
		p.Keep = f.keep(now)
	}
	deadline := joinDeadline(f.NodeBootstrap, p.Since)
	inTime := deadline.IsZero() || now.Before(deadline)
	p.MayBeMember = len(p.Keep) == 0 && f.mayBeMember(now)
	mint := p.Problem == nil && inTime && !p.MayBeMember && p.renewalDue(f, now)
	if mint { // the present token is the predecessor now
		p.Keep = p.Keep[max(0, len(p.Keep)-1):]
	}
	p.decideRequests(f, now)
	misused := f.NodeBootstrap.Spec.ApprovalMode() != v1alpha1.ApprovalClusterWide && (p.Misuse != nil || f.misused())
	if misused {
		p.withdraw(f)
	}
	if n := len(p.Keep); n > 0 {
		p.Token = &p.Keep[n-1]
	}
	switch {
	case misused && p.Token == nil:
		p.Phase = Withdrawn
	case misused: // what is left is good for the key that it was approved for alone, and is not renewed
	case mint:
		last := f.LastTokenID()
		p.MintAfter = &last
	case p.Token == nil && !inTime:
		p.Phase = DeadlineExceeded
	}
	if p.Token == nil && p.MintAfter == nil {
		p.dropKubeconfig(f)
	}
	p.sortSecrets(f)
	p.schedule(f, deadline, now)
}

// renewalDue reports whether the node has no live token, or one that a successor is due for.
func (p *Plan) renewalDue(f *Facts, now time.Time) bool {
	n := len(p.Keep)
	return n == 0 || !now.Before(p.Keep[n-1].RenewAt(f.NodeBootstrap))
}

// withdraw lets go of every token that no key was approved with: whoever has it could still be the first to ask with the
// node's name. One that a key was approved with is of no use to anybody else, and the node may be about to collect its
// certificate with it, so it stays. No further key is approved in the pass that finds the evidence.
func (p *Plan) withdraw(f *Facts) {
	p.Keep = slices.DeleteFunc(p.Keep, func(t token.Token) bool {
		return len(ClaimsOf(f, t.ID, nil)) == 0
	})
	p.Decisions = slices.DeleteFunc(p.Decisions, func(d Decision) bool {
		return d.Result.Verdict == csr.Approve && d.Record.UID != "" && !slices.ContainsFunc(ClaimsOf(f, d.Record.TokenID, nil), func(c claimedKey) bool {
			return c.key == d.Record.KeyFingerprint
		})
	})
}

// sortSecrets repairs the Secrets of the tokens that are kept and deletes the others.
func (p *Plan) sortSecrets(f *Facts) {
	for _, s := range f.TokenSecrets {
		i := slices.IndexFunc(p.Keep, func(t token.Token) bool { return t.Object == s })
		if i < 0 {
			p.DeleteTokens = append(p.DeleteTokens, s)
		} else if want := p.Keep[i].Repaired(f.NodeBootstrap); want != nil {
			p.RepairTokens = append(p.RepairTokens, want)
		}
	}
}

// schedule says when time alone changes what has to be done.
func (p *Plan) schedule(f *Facts, deadline, now time.Time) {
	for _, t := range p.Keep {
		p.RequeueBy(t.Expires)
	}
	if p.Token != nil && p.MintAfter == nil && p.Problem == nil {
		if due := p.Token.RenewAt(f.NodeBootstrap); due.After(now) {
			p.RequeueBy(due)
		}
		p.RequeueBy(f.Cluster.CAExpires)
	}
	if deadline.After(now) {
		p.RequeueBy(deadline)
	}
	for _, r := range f.OwnRequests() {
		if until, waits := f.RecordWaits(r, now); waits {
			p.RequeueBy(until)
		}
	}
	if f.Node != nil { // its Lease will tell, but is not watched: look often at first, then ever more seldom
		age := now.Sub(f.Node.CreationTimestamp.Time)
		if at := f.lastIssued(); !at.IsZero() {
			age = min(age, now.Sub(at))
		}
		p.RequeueBy(now.Add(min(max(age/10, leasePollMin), leasePollMax)))
	}
	p.lookForNode(f, now)
	p.lookForOldKubelet(f, now)
}

// blocked is why no new credential can be made now.
func blocked(f *Facts) *problem.Problem {
	switch {
	case f.ClusterWideRefused():
		return clusterWideProblem()
	case f.ClusterProblem != nil:
		return f.ClusterProblem
	case f.BindingsProblem != nil && f.BindingsProblem.Reason != v1alpha1.ReasonBindingsPending && f.BindingsProblem.Reason != v1alpha1.ReasonWriteFailed:
		return f.BindingsProblem
	case f.Kubeconfig != nil && !owned.Ours(f.Kubeconfig, f.Name):
		return owned.NotOurs(f.Kubeconfig)
	default:
		return nil
	}
}

// awaitingSince is since when the node is waited for, at a time: a reissue that is due begins the wait again, and so does a
// node that had joined and is gone.
func awaitingSince(f *Facts, now time.Time) time.Time {
	s := f.NodeBootstrap.Status
	switch {
	case f.reissueDue():
		return now
	case s.AwaitingSince != nil:
		return s.AwaitingSince.Time
	case s.ObservedGeneration == 0: // never seen before
		return f.NodeBootstrap.CreationTimestamp.Time
	default:
		return now
	}
}

// joinDeadline is when tokens stop being renewed; zero for never.
func joinDeadline(nb *v1alpha1.NodeBootstrap, since time.Time) time.Time {
	limit := nb.Spec.Token.JoinDeadline
	if limit == nil {
		return time.Time{}
	}
	return since.Add(limit.Duration)
}

// String says nothing: there are Secrets in a plan.
func (p Plan) String() string { return "a plan for a node" }

// Format is String for every verb.
func (p Plan) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, p.String()) }

// MarshalText is String too: structured logs take it.
func (p Plan) MarshalText() ([]byte, error) { return []byte(p.String()), nil }
