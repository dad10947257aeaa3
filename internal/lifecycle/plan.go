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

// Phase is the stage of a node's life.
type Phase int

const (
	// Gone means: no NodeBootstrap exists, so none of its objects may be left.
	Gone Phase = iota
	// Awaited means: the node has not joined; it needs one live credential.
	Awaited
	// Joined means: the node is a member; no credential may be left.
	Joined
	// DeadlineExceeded means: the node has not joined in time. Its credential has expired and is not renewed.
	DeadlineExceeded
	// Withdrawn means: a token of the node was misused, and no credential exists until a reissue.
	Withdrawn
)

// Bounds of the delay before a Lease that does not prove the join yet is read again: a tenth of the time since the last reason to expect
// the join.
const (
	leasePollMin = time.Second
	leasePollMax = 10 * time.Minute
)

// Plan is everything to do for one node. Its zero value does nothing.
type Plan struct {
	Phase Phase
	// Problem is why an awaited node can get no new credential now. Existing credentials stay.
	Problem *problem.Problem
	// Reissue reports that this reconcile handles the value of the reissue annotation.
	Reissue bool
	// Since is when the current wait for the node began; zero if the node is not awaited.
	Since time.Time
	// Alive is when a kubelet was seen to work as the node after the current reissue; nil if none was.
	Alive *metav1.Time

	// MayBeMember reports that the node gets no credential yet, because a kubelet has reported as it and its first Lease is still
	// missing.
	MayBeMember bool

	// Keep are the live tokens that stay, the newest last: Token, and its predecessor, which expires after a renewal.
	Keep []token.Token
	// Token is the token for the kubeconfig, unless another one is created.
	Token *token.Token
	// LastTokenID is the id of the last token, which the id of a new one follows.
	LastTokenID string
	// MintReason, if not empty, requests a new token; it is the reason for the log.
	MintReason string
	// RepairTokens are Secrets of live tokens, with the content that they should have.
	RepairTokens []*corev1.Secret
	// DeleteTokens are Secrets of tokens that must not live on.
	DeleteTokens []TokenDeletion
	// DeleteKubeconfig is the kubeconfig Secret if it must be deleted.
	DeleteKubeconfig *corev1.Secret

	// Decisions are verdicts to carry out, on CSRs of live tokens and on CSRs for serving certificates.
	Decisions []Decision
	// Misuse is the evidence of a misused token that this reconcile found, with the reason of the decision.
	Misuse *problem.Problem
	// Serving is the verdict on the newest undecided CSR for a serving certificate.
	Serving *csr.Result
	// DeleteRequests are CSRs without a certificate whose token is no longer live.
	DeleteRequests []RequestDeletion
	// Outliving are CSRs that have a certificate although the plan revokes their token.
	Outliving []*certificatesv1.CertificateSigningRequest

	Unrecorded string // the id of the last token to be deleted, if the status does not name it

	Keys []v1alpha1.SentKey // the keys sent with one token, if there is more than one

	// ClientCertificate is the newest client certificate of a node that has joined; nil if none is known.
	ClientCertificate *v1alpha1.ClientCertificate
	// Expiring reports that it was not renewed in time, and that the node does not run.
	Expiring bool

	explained *explained // nil unless the plan is made to explain a CSR

	Requeue
}

// Requeue is when to reconcile again even if nothing changes.
type Requeue struct {
	// RequeueAt is zero for never.
	RequeueAt time.Time
}

// RequeueBy requests another reconcile at a time, or earlier. Zero requests nothing.
func (q *Requeue) RequeueBy(at time.Time) {
	if !at.IsZero() && (q.RequeueAt.IsZero() || at.Before(q.RequeueAt)) {
		q.RequeueAt = at
	}
}

// Decision is a verdict on a CSR.
type Decision struct {
	Request *certificatesv1.CertificateSigningRequest
	Result  csr.Result
	// Record is the entry for status.certificates that is stored before the verdict; empty for a serving certificate.
	Record v1alpha1.CertificateDecision
	// Pinned reports that the CSR is approved because its key is pinned: the approval needs no record first.
	Pinned bool
}

// Revokes reports whether the plan denies or deletes anything, apart from objects that it replaces.
func (p *Plan) Revokes() bool {
	return len(p.DeleteTokens) > 0 || len(p.DeleteRequests) > 0 || p.DeleteKubeconfig != nil ||
		slices.ContainsFunc(p.Decisions, func(d Decision) bool { return d.Result.Verdict == csr.Deny })
}

// Decide is the plan that makes the cluster follow the one rule (docs/design.md).
func Decide(f *Facts, now time.Time) Plan {
	p := Plan{}
	p.decide(f, now)
	return p
}

func (p *Plan) decide(f *Facts, now time.Time) {
	switch {
	case f.NodeBootstrap == nil:
		p.deleteCredential(f, Gone)
	case f.joined():
		p.deleteCredential(f, Joined)
		p.noteUse(f, now)
		p.settle(f, now)
	default:
		p.await(f, now)
	}
	p.decideServing(f, now)
	p.noteTokenIDs(f)
	p.noteOutliving(f, now)
	p.noteKeys(f)
}

// await ensures one live credential, and no other except for a predecessor that expires after a renewal.
func (p *Plan) await(f *Facts, now time.Time) {
	p.Phase = Awaited
	p.Reissue = f.reissueDue()
	p.Since = awaitingSince(f, now)
	p.Alive = f.alive(now)
	p.Problem = blocked(f)
	if !f.ClusterWideRefused() {
		p.Keep = f.keep(now)
	}
	var deadline time.Time // when the renewal of tokens ends; zero for never
	if limit := f.NodeBootstrap.Spec.Token.JoinDeadline; limit != nil {
		deadline = p.Since.Add(limit.Duration)
	}
	inTime := deadline.IsZero() || now.Before(deadline)
	n := len(p.Keep)
	p.MayBeMember = n == 0 && f.mayBeMember(now)
	mint := p.Problem == nil && inTime && !p.MayBeMember && (n == 0 || !now.Before(p.Keep[n-1].RenewAt(f.NodeBootstrap)))
	if mint { // the current token becomes the predecessor
		p.Keep = p.Keep[max(0, n-1):]
	}
	p.decideRequests(f, now)
	misused := f.NodeBootstrap.Spec.ApprovalMode() != v1alpha1.ApprovalClusterWide && f.pinned() == "" && (p.Misuse != nil || f.misused())
	if misused {
		p.letGoOfUnclaimed(f)
	}
	if n := len(p.Keep); n > 0 {
		p.Token = &p.Keep[n-1]
	}
	switch {
	case misused && p.Token == nil:
		p.Phase = Withdrawn
	case misused: // the remaining token is bound to its approved key, and is not renewed
	case mint:
		p.MintReason = p.whyCreated()
	case p.Token == nil && !inTime:
		p.Phase = DeadlineExceeded
	}
	if p.Token == nil && p.MintReason == "" {
		p.deleteKubeconfig(f)
	}
	p.sortSecrets(f, now)
	p.schedule(f, deadline, now)
}

// whyCreated is the reason for creating a token, for the log.
func (p *Plan) whyCreated() string {
	switch {
	case p.Reissue:
		return v1alpha1.ReasonReissued
	case len(p.Keep) > 0:
		return ReasonRenewed
	default:
		return v1alpha1.ReasonAwaitingNode
	}
}

// letGoOfUnclaimed lets go of every token that no key was approved with: its holder could still be the first to send a CSR in the node's name. A
// token with an approved key is of no use to anyone else, and the node may be about to get its certificate with it, so it stays. The
// reconcile that finds the evidence approves no further key.
func (p *Plan) letGoOfUnclaimed(f *Facts) {
	p.Keep = slices.DeleteFunc(p.Keep, func(t token.Token) bool {
		return len(claimsOf(f, t.ID, nil)) == 0
	})
	p.Decisions = slices.DeleteFunc(p.Decisions, func(d Decision) bool {
		return d.Result.Verdict == csr.Approve && d.Record.UID != "" && !slices.ContainsFunc(claimsOf(f, d.Record.TokenID, nil), func(c claimedKey) bool {
			return c.key == d.Record.KeyFingerprint
		})
	})
}

// sortSecrets repairs the Secrets of the kept tokens and deletes the others.
func (p *Plan) sortSecrets(f *Facts, now time.Time) {
	for _, s := range f.TokenSecrets {
		i := slices.IndexFunc(p.Keep, func(t token.Token) bool { return t.Object == s })
		if i < 0 {
			p.deleteToken(f, s, now)
		} else if want := p.Keep[i].Repaired(f.NodeBootstrap); want != nil {
			p.RepairTokens = append(p.RepairTokens, want)
		}
	}
}

// schedule requeues for the times at which the plan changes without any event.
func (p *Plan) schedule(f *Facts, deadline, now time.Time) {
	for _, t := range p.Keep {
		p.RequeueBy(t.Expires)
	}
	if p.Token != nil && p.MintReason == "" && p.Problem == nil {
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
	if f.Node == nil {
		if until := f.lastIssued().Add(JoinSoon); until.After(now) { // by then a node with a certificate should have registered
			p.RequeueBy(until)
		}
	} else { // its Lease is not watched: read it often at first, then less and less often
		age := now.Sub(f.Node.CreationTimestamp.Time)
		if at := f.lastIssued(); !at.IsZero() {
			age = min(age, now.Sub(at))
		}
		p.RequeueBy(now.Add(min(max(age/10, leasePollMin), leasePollMax)))
	}
	p.pollOldKubelet(f, now)
}

// blocked is why no new credential can be created now.
func blocked(f *Facts) *problem.Problem {
	switch {
	case f.ClusterWideRefused():
		return &problem.Problem{Reason: v1alpha1.ReasonClusterWideNotAllowed, Message: "spec.clientCertificate.approval is ClusterWide, with which whoever has the token can become any " +
			"node, and the manager runs without " + AllowClusterWideFlag + ": set approval to Node or Manual, or start the manager with that flag"}
	case len(f.PinnedElsewhere) > 0:
		return pinnedTwice(f)
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

// awaitingSince is when the current wait for the node began. A due reissue starts a new wait, and so does the deletion of a Node that had
// joined.
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

// String prints no field: a plan contains Secrets.
func (p Plan) String() string { return "a plan for a node" }

// Format prints String for every verb.
func (p Plan) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, p.String()) }

// MarshalText returns String for structured logs.
func (p Plan) MarshalText() ([]byte, error) { return []byte(p.String()), nil }
