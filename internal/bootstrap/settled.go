// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// Requests that someone else settled before the operator saw them, for example while it did not run. What was asked for is evidence
// of misuse all the same: whoever sent it has the token, and the token is still live.

// settledElsewhere is how a message begins that reports such a request.
const settledElsewhere = "someone else "

// howSettled is what someone else did to a request that nobody approved, for a message, with the verdict that the record has.
func howSettled(r *certificatesv1.CertificateSigningRequest) (string, v1alpha1.Verdict) {
	switch {
	case issued(r): // a signer that does not wait for an approval
		return settledElsewhere + "issued a certificate without an approval", v1alpha1.VerdictApproved
	case requestCondition(r, certificatesv1.CertificateDenied) != nil:
		return settledElsewhere + "denied it first", v1alpha1.VerdictDenied
	default:
		return settledElsewhere + "marked it as failed first", v1alpha1.VerdictDenied
	}
}

// judgeSettled records a request that was sent with a live token and that someone else has denied or failed, if what it asks for is
// evidence of misuse, or will be when the key that was approved is used, once. Nothing is carried out: it has its verdict. With approval ClusterWide only what was approved is evidence.
func (p *Plan) judgeSettled(f *Facts, t *Token, r *certificatesv1.CertificateSigningRequest, now time.Time) {
	if f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide || deniedByUs(r) || f.hasDecisionOn(r.UID) || p.mayBeForgotten(f, r) {
		return
	}
	result := p.evaluate(f, t, r, now)
	if result.Verdict != csr.Deny || !Misuse(result.Reason) && result.Reason != csr.ReasonKeyReplaced {
		return
	}
	if p.onRecord(f, t) >= maxDecisionsPerToken {
		p.overspent(f, t, r, now)
		return
	}
	how, verdict := howSettled(r)
	p.record(f, verdict, t, r, csr.Result{Verdict: csr.Leave, Reason: result.Reason, KeyFingerprint: result.KeyFingerprint,
		Message: how + ": " + result.Message}, now)
}

// deniedByUs reports whether the operator denied a request. It records its decisions before it carries them out, and a full record
// forgets denials.
func deniedByUs(r *certificatesv1.CertificateSigningRequest) bool {
	c := requestCondition(r, certificatesv1.CertificateDenied)
	return c != nil && (csr.DeniesClient(c.Reason) || c.Reason == ReasonTokenRevoked)
}

func (f *Facts) hasDecisionOn(request types.UID) bool {
	return decisionOn(f.NodeBootstrap.Status.Certificates, v1alpha1.CertificateDecision{UID: request}) >= 0
}

// mayBeForgotten reports whether a request may have been on record: the alarm stands, and the record is full of what came later. What a
// full record forgets is not recorded again.
func (p *Plan) mayBeForgotten(f *Facts, r *certificatesv1.CertificateSigningRequest) bool {
	record := f.NodeBootstrap.Status.Certificates
	return (p.Misuse != nil || f.misused()) && full(record) && !newerThanAll(record, settledAt(r))
}

// settledAt is when a request got its verdict; when it was sent, if it has none.
func settledAt(r *certificatesv1.CertificateSigningRequest) metav1.Time {
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		if c := requestCondition(r, t); c != nil {
			return conditionTime(c)
		}
	}
	return r.CreationTimestamp
}

// onRecord is how many requests of a token are on record, and in the plan.
func (p *Plan) onRecord(f *Facts, t *Token) int {
	requests := sets.New[types.UID]()
	for _, d := range f.NodeBootstrap.Status.Certificates {
		if d.TokenID == t.ID {
			requests.Insert(d.UID)
		}
	}
	for _, d := range p.Decisions {
		if d.Record.TokenID == t.ID {
			requests.Insert(d.Record.UID)
		}
	}
	return requests.Len()
}

// isSettledElsewhere reports whether a decision is one that judgeSettled has recorded.
func isSettledElsewhere(d v1alpha1.CertificateDecision) bool {
	return (Evidence(d) || d.Reason == csr.ReasonKeyReplaced) && strings.HasPrefix(d.Message, settledElsewhere)
}

// withoutDecisions are the requests on which a plan has no decision: the record of the others is stored before the report.
func (p *Plan) withoutDecisions(requests []*certificatesv1.CertificateSigningRequest) []*certificatesv1.CertificateSigningRequest {
	decided := sets.New[types.UID]()
	for _, d := range p.Decisions {
		decided.Insert(d.Request.UID)
	}
	var out []*certificatesv1.CertificateSigningRequest
	for _, r := range requests {
		if !decided.Has(r.UID) {
			out = append(out, r)
		}
	}
	return out
}
