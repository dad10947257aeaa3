// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// judge decides the CSRs that were sent with one live token.
type judge struct {
	p   *Plan
	f   *Facts
	t   *token.Token
	now time.Time
	// decided are the CSRs that count towards MaxDecisionsPerToken: those in the status and in the plan, and those that someone else
	// has denied and the status does not have yet.
	decided sets.Set[types.UID]
	// recorded is how many of decided are in the status or in the plan.
	recorded int
	// exhausted reports whether the plan or the status has ended the decisions with the token.
	exhausted bool
}

// sentCSR is a CSR on its way through the rules.
type sentCSR struct {
	*certificatesv1.CertificateSigningRequest
	// approvedAt is when it was approved, if it was.
	approvedAt metav1.Time
	approved   bool
	// pinned reports whether it has the node's pinned key.
	pinned bool
	// decided is the decision on it in the status, or nil.
	decided *v1alpha1.DecidedCSR
	// result is the verdict of internal/csr, set by isEvaluated.
	result csr.Result
}

// A rule can settle what happens to a CSR.
type rule struct {
	// name is that of the function.
	name string
	// settles reports whether it has.
	settles func(*judge, *sentCSR) bool
}

// tokenRules are all the rules for CSRs that were sent with a live token, in this order. The first one that settles a CSR ends the
// evaluation.
var tokenRules = []rule{
	{"isApprovedAsDecided", isApprovedAsDecided},
	{"isSettledAndKnown", isSettledAndKnown},
	{"isBeyondTheLimit", isBeyondTheLimit},
	{"isEvaluated", isEvaluated},
	{"isSettledByOthers", isSettledByOthers},
	{"isNotOfThisToken", isNotOfThisToken},
	{"isApprovedByOthers", isApprovedByOthers},
	{"isLeftToControllerManager", isLeftToControllerManager},
	{"asksAnotherSigner", asksAnotherSigner},
	{"isDenied", isDenied},
	{"isLeftToAPerson", isLeftToAPerson},
	{"isPinned", isPinned},
	{"isHeld", isHeld},
	{"isToApprove", isToApprove},
}

func (p *Plan) judgeOf(f *Facts, t *token.Token, now time.Time) *judge {
	j := &judge{p: p, f: f, t: t, now: now, decided: sets.New[types.UID]()}
	csrs := f.DecidedWith(t.ID)
	j.recorded = len(csrs)
	for _, c := range csrs {
		if c.Reason != decisions.ReasonApprovedElsewhere {
			j.decided.Insert(c.UID)
		}
		j.exhausted = j.exhausted || endsDecisions(c) || len(csrs) >= decisions.MaxCSRsPerToken
	}
	for _, r := range f.Requests {
		if csr.Condition(r, certificatesv1.CertificateDenied) != nil && token.IDOfUser(r.Spec.Username) == t.ID {
			j.decided.Insert(r.UID)
		}
	}
	return j
}

func (j *judge) judge(r *certificatesv1.CertificateSigningRequest) {
	s := &sentCSR{CertificateSigningRequest: r, pinned: j.f.hasPinnedKey(r), decided: decisions.Decided(j.f.DecidedWith(j.t.ID), r.UID)}
	s.approvedAt, s.approved = csr.ApprovedAt(r)
	if s.decided != nil && endsDecisions(*s.decided) {
		s.decided = nil
	}
	for _, rule := range tokenRules {
		if rule.settles(j, s) {
			j.p.explain(r, rule.name, s.result)
			return
		}
	}
}

// isApprovedAsDecided: only the certificate is still missing.
func isApprovedAsDecided(j *judge, s *sentCSR) bool {
	if s.decided == nil || !s.approved || s.decided.Verdict != v1alpha1.VerdictApproved {
		return false
	}
	j.expectCertificate(s)
	return true
}

// settled reports whether a CSR was denied, has failed, or has a certificate without an approval.
func (s *sentCSR) settled() bool { return !s.approved && csr.Settled(s.CertificateSigningRequest) }

// isSettledAndKnown: nothing is decided twice, and with approval ClusterWide only approved CSRs are evidence.
func isSettledAndKnown(j *judge, s *sentCSR) bool {
	return s.settled() && (s.decided != nil || decisions.DeniedByUs(s.CertificateSigningRequest) || j.f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide)
}

// isBeyondTheLimit ignores every CSR above the limit of decisions for one token, and records that once.
func isBeyondTheLimit(j *judge, s *sentCSR) bool {
	if s.decided != nil || s.settled() || !j.exhausted && j.decided.Len() < decisions.MaxDecisionsPerToken {
		return false
	}
	if s.pinned && j.p.evaluate(j.f, j.t, s.CertificateSigningRequest, j.now).Verdict == csr.Approve { // nobody can use up the machine's chance
		return false
	}
	return j.isExhausted(s)
}

// endsDecisions reports whether a decision says that everything else sent with the token is ignored.
func endsDecisions(c v1alpha1.DecidedCSR) bool {
	return c.Reason == decisions.ReasonTooManyRequests || c.Reason == decisions.ReasonTooManyKeys
}

func (j *judge) isExhausted(s *sentCSR) bool {
	if j.exhausted || j.decided.Len() < decisions.MaxDecisionsPerToken {
		return j.exhausted
	}
	reason := decisions.ReasonTooManyRequests
	if j.restarts(s) {
		reason = decisions.ReasonTooManyKeys
	}
	j.addDecision(s, v1alpha1.VerdictIgnored, csr.Result{Verdict: csr.Leave, Reason: reason, Message: fmt.Sprintf(
		"%d requests of the token were decided on: this one and all that follow are left alone", j.decided.Len())})
	j.exhausted = true
	return true
}

func isEvaluated(j *judge, s *sentCSR) bool {
	s.result = j.p.evaluate(j.f, j.t, s.CertificateSigningRequest, j.now)
	return false
}

// isEvidence reports whether the CSR is evidence of misuse, or becomes evidence when the approved key is used.
func (s *sentCSR) isEvidence() bool {
	return s.result.Verdict == csr.Deny && (decisions.Misuse(s.result.Reason) || s.result.Reason == csr.ReasonKeyReplaced)
}

// isSettledByOthers records a CSR that someone else denied or marked as failed if it is evidence: its sender has the live token.
func isSettledByOthers(j *judge, s *sentCSR) bool {
	if !s.settled() {
		return false
	}
	if s.isEvidence() && (j.recorded < decisions.MaxDecisionsPerToken || !j.isExhausted(s)) {
		how, verdict := howSettled(s.CertificateSigningRequest)
		j.recordEvidence(s, verdict, how+": "+s.result.Message)
	}
	return true
}

// isNotOfThisToken: for example, the CSR is older than the token.
func isNotOfThisToken(j *judge, s *sentCSR) bool {
	if s.result.Verdict != csr.Leave {
		return false
	}
	if !csr.Issued(s.CertificateSigningRequest) {
		j.p.deleteRequest(s.CertificateSigningRequest, tokenRevoked)
	}
	return true
}

func isApprovedByOthers(j *judge, s *sentCSR) bool {
	if !s.approved {
		return false
	}
	j.expectCertificate(s)
	if s.isEvidence() {
		j.recordEvidence(s, v1alpha1.VerdictApproved, settledElsewhere+"approved it although "+s.result.Message)
	}
	return true
}

func isLeftToControllerManager(j *judge, _ *sentCSR) bool {
	return j.f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide
}

// asksAnotherSigner deletes the CSR instead of denying it: the operator has no right to decide for every signer. No signer signs a
// deleted CSR.
func asksAnotherSigner(j *judge, s *sentCSR) bool {
	if s.result.Verdict != csr.Deny || s.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName {
		return false
	}
	j.p.deleteRequest(s.CertificateSigningRequest, s.result)
	s.result.Verdict = csr.Leave
	j.addDecision(s, v1alpha1.VerdictDenied, s.result)
	return true
}

func isDenied(j *judge, s *sentCSR) bool {
	if s.result.Verdict != csr.Deny {
		return false
	}
	if s.decided != nil && s.decided.Verdict == v1alpha1.VerdictDenied {
		s.result.Reason = s.decided.Reason // recorded before a crash
	}
	j.addDecision(s, v1alpha1.VerdictDenied, s.result)
	return true
}

func isLeftToAPerson(j *judge, _ *sentCSR) bool {
	return j.f.NodeBootstrap.Spec.ApprovalMode() != v1alpha1.ApprovalNode
}

// isPinned: the key alone counts. It waits only while another NodeBootstrap pins it, too.
func isPinned(j *judge, s *sentCSR) bool {
	if !s.pinned {
		return false
	}
	if len(j.f.PinnedElsewhere) == 0 {
		j.p.addDecision(v1alpha1.VerdictApproved, j.t, s.CertificateSigningRequest, s.result, j.now)
		j.p.Decisions[len(j.p.Decisions)-1].Pinned = true
	}
	return true
}

func isHeld(j *judge, s *sentCSR) bool {
	until, held := j.p.held(j.f, j.t, s.CertificateSigningRequest, j.now)
	if !held || s.decided != nil {
		return false
	}
	if !until.IsZero() {
		j.p.RequeueBy(until)
	}
	return true
}

func isToApprove(j *judge, s *sentCSR) bool {
	j.addDecision(s, v1alpha1.VerdictApproved, s.result)
	return true
}

// expectCertificate requeues for the time when the certificate of an approved CSR is overdue.
func (j *judge) expectCertificate(s *sentCSR) {
	if overdue := s.approvedAt.Add(IssuanceDeadline); !csr.Issued(s.CertificateSigningRequest) && overdue.After(j.now) {
		j.p.RequeueBy(overdue)
	}
}

// recordEvidence records a CSR that someone else has decided: nothing is left to carry out.
func (j *judge) recordEvidence(s *sentCSR, verdict v1alpha1.Verdict, message string) {
	s.result.Verdict, s.result.Message = csr.Leave, message
	j.addDecision(s, verdict, s.result)
}

func (j *judge) addDecision(s *sentCSR, verdict v1alpha1.Verdict, result csr.Result) {
	j.p.addDecision(verdict, j.t, s.CertificateSigningRequest, result, j.now)
	j.decided.Insert(s.UID)
	j.recorded++
}

// restarts reports whether a CSR, and everything that was decided with its token, can come from a kubelet that restarts over and over.
func (j *judge) restarts(s *sentCSR) bool {
	for _, c := range j.f.DecidedWith(j.t.ID) {
		if !harmless(c.Reason) {
			return false
		}
	}
	for _, d := range j.p.Decisions {
		if d.Record.TokenID == j.t.ID && !harmless(d.Record.Reason) {
			return false
		}
	}
	reason := j.p.evaluate(j.f, j.t, s.CertificateSigningRequest, j.now).Reason
	return reason == csr.ReasonKeyReplaced || reason == csr.ReasonSuperseded
}

// harmless reports whether a restarted kubelet, or a person, explains a decision with this reason.
func harmless(reason string) bool {
	switch reason {
	case csr.ReasonKubeletClient, csr.ReasonKeyReplaced, csr.ReasonSuperseded, decisions.ReasonApprovedElsewhere, decisions.ReasonDeniedElsewhere:
		return true
	default:
		return false
	}
}

// CSRs that someone else settled before the operator saw them, for example while it did not run. They can still be evidence of misuse:
// the sender has the token, and the token is still live.

// settledElsewhere begins a message that reports such a CSR.
const settledElsewhere = "someone else "

// howSettled is how someone else settled a CSR without an approval, for a message, with the verdict for the log entry.
func howSettled(r *certificatesv1.CertificateSigningRequest) (string, v1alpha1.Verdict) {
	switch {
	case csr.Issued(r): // a signer that does not wait for an approval
		return settledElsewhere + "issued a certificate without an approval", v1alpha1.VerdictApproved
	case csr.Condition(r, certificatesv1.CertificateDenied) != nil:
		return settledElsewhere + "denied it first", v1alpha1.VerdictDenied
	default:
		return settledElsewhere + "marked it as failed first", v1alpha1.VerdictDenied
	}
}

// IsSettledElsewhere reports whether isSettledByOthers recorded a decision.
func IsSettledElsewhere(d v1alpha1.CertificateDecision) bool {
	return (decisions.Evidence(d) || d.Reason == csr.ReasonKeyReplaced) && strings.HasPrefix(d.Message, settledElsewhere)
}
