// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// Outcome is what a plan does with a CSR.
type Outcome string

const (
	// Approves means: the CSR is approved.
	Approves Outcome = "Approve"
	// Denies means: the CSR is denied.
	Denies Outcome = "Deny"
	// Deletes means: the CSR is deleted, and denied first if the operator may decide for its signer.
	Deletes Outcome = "Delete"
	// Waits means: the CSR stays pending, and that can change.
	Waits Outcome = "Wait"
	// Leaves means: the operator leaves the CSR alone.
	Leaves Outcome = "Leave"
	// Settled means: the CSR has its verdict.
	Settled Outcome = "Settled"
)

// Reasons of a Judgement that no condition and no decision has.
const (
	// ReasonApprovalDelayed is the reason while spec.clientCertificate.approvalDelay has not passed.
	ReasonApprovalDelayed = "ApprovalDelayed"
	// ReasonNotNewest is the reason of a CSR for a serving certificate when the node has sent newer ones.
	ReasonNotNewest = "NotNewest"
)

// Rules that are no functions in tokenRules.
const (
	ruleOfRevokedToken = "hasLiveToken"
	ruleOfServing      = "servingVerdict"
)

// misusedWithOthers is the message of a CSR that nothing else is wrong with, and that is deleted with its token.
const misusedWithOthers = "the token is misused, by this or another request, and is revoked with everything that was sent with it"

// Judgement is what a plan does with one CSR, and why.
type Judgement struct {
	Outcome Outcome
	// Reason is one of the constants of this package, internal/csr, internal/decisions and api/v1alpha1; empty with Settled.
	Reason string
	// Message says why, and what to do.
	Message string
	// Rule is the name of the rule that settled it; empty if the CSR is none of the node's.
	Rule string
	// Result is the verdict of internal/csr by the same facts, and Evaluated reports whether there is one.
	Result    csr.Result
	Evaluated bool
}

// explained is the CSR that a plan is made to explain.
type explained struct {
	uid    types.UID
	rule   string
	result csr.Result
}

// explain notes the rule that settled a CSR if it is the one to explain.
func (p *Plan) explain(r *certificatesv1.CertificateSigningRequest, rule string, result csr.Result) {
	if p.explained != nil && p.explained.uid == r.UID {
		p.explained.rule, p.explained.result = rule, result
	}
}

// Explain is what Decide does with one of the CSRs in the facts, and why.
func Explain(f *Facts, r *certificatesv1.CertificateSigningRequest, now time.Time) Judgement {
	p := Plan{explained: &explained{uid: r.UID}}
	p.decide(f, now)
	j := Judgement{Rule: p.explained.rule, Result: p.explained.result, Evaluated: p.explained.result.Reason != ""}
	if !j.Evaluated {
		j.Result, j.Evaluated = p.evaluateAnyway(f, r, now)
	}
	j.Outcome, j.Reason, j.Message = p.outcome(f, r, &j, now)
	return j
}

// evaluateAnyway is the verdict of internal/csr on a CSR for which no rule needs it.
func (p *Plan) evaluateAnyway(f *Facts, r *certificatesv1.CertificateSigningRequest, now time.Time) (csr.Result, bool) {
	if f.NodeBootstrap == nil {
		return csr.Result{}, false
	}
	if ServingNode(r) == f.Name {
		return p.servingVerdict(f, r), true
	}
	return Reevaluate(f, r, now)
}

func (p *Plan) outcome(f *Facts, r *certificatesv1.CertificateSigningRequest, j *Judgement, now time.Time) (Outcome, string, string) {
	if i := slices.IndexFunc(p.DeleteRequests, func(d RequestDeletion) bool { return d.Request.UID == r.UID }); i >= 0 {
		message := tokenRevoked.Message
		if j.Evaluated && p.DeleteRequests[i].Reason == j.Result.Reason {
			message = j.Result.Message
		}
		return Deletes, p.DeleteRequests[i].Reason, message
	}
	for _, d := range p.Decisions {
		switch {
		case d.Request.UID != r.UID:
		case d.Result.Verdict == csr.Approve:
			return Approves, d.Result.Reason, d.Result.Message
		case d.Result.Verdict == csr.Deny:
			return Denies, d.Result.Reason, d.Result.Message
		}
	}
	return p.inaction(f, r, j, now)
}

// inaction is why a plan does nothing with a CSR.
func (p *Plan) inaction(f *Facts, r *certificatesv1.CertificateSigningRequest, j *Judgement, now time.Time) (Outcome, string, string) {
	switch {
	case !csr.Undecided(r):
		return Settled, "", "it has its verdict"
	case j.Rule != "" && j.Rule != ruleOfServing && p.LiveToken(token.IDOfUser(r.Spec.Username)) == nil: // letGoOfUnclaimed dropped it
		return Deletes, decisions.ReasonTokenRevoked, misusedWithOthers
	case j.Rule == "isBeyondTheLimit":
		return Leaves, p.exhaustedBy(f, r), fmt.Sprintf("%d requests of the token were decided on: this one and all that follow are left alone", decisions.MaxDecisionsPerToken)
	case j.Rule == "isLeftToControllerManager":
		return Leaves, v1alpha1.ReasonApprovalClusterWide, "spec.clientCertificate.approval is ClusterWide: kube-controller-manager approves, whatever the name"
	case j.Rule == "isLeftToAPerson":
		return Waits, v1alpha1.ReasonAwaitingApproval, "spec.clientCertificate.approval is Manual: a person approves"
	case j.Rule == "isPinned":
		return Waits, v1alpha1.ReasonKeyPinnedTwice, pinnedTwice(f).Message
	case j.Rule == "isHeld":
		return p.heldBecause(f, r, now)
	case j.Evaluated && j.Result.Verdict != csr.Approve:
		return map[csr.Verdict]Outcome{csr.Wait: Waits, csr.Leave: Leaves, csr.Deny: Denies}[j.Result.Verdict], j.Result.Reason, j.Result.Message
	case p.Serving != nil && p.Serving.Reason == decisions.ReasonTooManyRequests:
		return Waits, p.Serving.Reason, p.Serving.Message
	case j.Evaluated:
		return Leaves, ReasonNotNewest, "the node has sent newer requests, and a kubelet waits only for its newest one"
	default:
		return Leaves, csr.ReasonNotOurs, "it is not sent with a token of this node, and not by this node"
	}
}

// exhaustedBy is the reason that ended the decisions with the token of a CSR.
func (p *Plan) exhaustedBy(f *Facts, r *certificatesv1.CertificateSigningRequest) string {
	for _, d := range p.Decisions {
		if d.Request.Spec.Username == r.Spec.Username && (d.Result.Reason == decisions.ReasonTooManyRequests || d.Result.Reason == decisions.ReasonTooManyKeys) {
			return d.Result.Reason
		}
	}
	for _, c := range f.DecidedWith(token.IDOfUser(r.Spec.Username)) {
		if endsDecisions(c) {
			return c.Reason
		}
	}
	return decisions.ReasonTooManyRequests
}

func (p *Plan) heldBecause(f *Facts, r *certificatesv1.CertificateSigningRequest, now time.Time) (Outcome, string, string) {
	until, _ := p.held(f, p.LiveToken(token.IDOfUser(r.Spec.Username)), r, now)
	if until.IsZero() {
		return Waits, v1alpha1.ReasonSeveralKeys, "several keys were sent with the token, and spec.clientCertificate.approvalDelay is set: a person decides"
	}
	return Waits, ReasonApprovalDelayed, "spec.clientCertificate.approvalDelay lasts until " + until.UTC().Format(time.RFC3339)
}

// Reevaluate is the verdict of internal/csr on one of the CSRs in the facts that was sent with a token in the facts, as it was at a time as
// far as that is known: a decided CSR is not evaluated again. It returns false if the facts do not have the token.
func Reevaluate(f *Facts, r *certificatesv1.CertificateSigningRequest, at time.Time) (csr.Result, bool) {
	tokens := f.tokens()
	i := slices.IndexFunc(tokens, func(t token.Token) bool { return t.ID == token.IDOfUser(r.Spec.Username) })
	if i < 0 {
		return csr.Result{}, false
	}
	t := &tokens[i]
	t.Expires = t.WantExpires(f.NodeBootstrap, at)
	p := Plan{Phase: Awaited, Keep: []token.Token{*t}}
	return p.evaluate(f.asOf(r, at), t, undecided(r), at), true
}

// ReevaluateServing is the verdict on a CSR for a serving certificate by the facts of now, also if it is decided.
func ReevaluateServing(f *Facts, r *certificatesv1.CertificateSigningRequest) csr.Result {
	var p Plan
	return p.servingVerdict(f, undecided(r))
}

// asOf are the facts at the time of the decision on a CSR: without what was decided later. A newer CSR of the same second was decided
// first.
func (f *Facts) asOf(r *certificatesv1.CertificateSigningRequest, at time.Time) *Facts {
	then := *f
	then.Requests = nil
	newer := map[types.UID]bool{}
	for _, o := range f.Requests {
		newer[o.UID] = csr.ByCreation(o, r) > 0
		if approved, ok := csr.ApprovedAt(o); ok && approved.After(at) || o.UID == r.UID {
			o = undecided(o)
		}
		then.Requests = append(then.Requests, o)
	}
	if f.Node != nil && f.Node.CreationTimestamp.After(at) {
		then.Node = nil
	}
	then.NodeBootstrap = f.NodeBootstrap.DeepCopy()
	for i := range then.NodeBootstrap.Status.Tokens {
		t := &then.NodeBootstrap.Status.Tokens[i]
		t.CSRs = slices.DeleteFunc(t.CSRs, func(c v1alpha1.DecidedCSR) bool { return c.UID == r.UID || c.Time.After(at) })
		for i := range t.CSRs {
			if newer[t.CSRs[i].UID] {
				t.CSRs[i].Time.Time = t.CSRs[i].Time.Add(time.Hour)
			}
		}
	}
	conditions := &then.NodeBootstrap.Status.Conditions
	*conditions = slices.DeleteFunc(*conditions, func(c metav1.Condition) bool {
		return c.Type == v1alpha1.ConditionTokenMisused && !c.LastTransitionTime.Time.Before(at.Truncate(time.Second))
	})
	return &then
}

// undecided is a CSR without its verdict and certificate.
func undecided(r *certificatesv1.CertificateSigningRequest) *certificatesv1.CertificateSigningRequest {
	out := r.DeepCopy()
	out.Status = certificatesv1.CertificateSigningRequestStatus{}
	return out
}
