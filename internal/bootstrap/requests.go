// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// issuanceDeadline is how long after its approval a certificate may take to be issued before somebody is told.
const issuanceDeadline = time.Minute

// maxDecisionsPerToken bounds the requests that are decided on for one token. A kubelet sends one, or a few when it is
// restarted in the middle of joining; what comes after is left alone, so that a flood costs no writes.
const maxDecisionsPerToken = 8

// ReasonTooManyRequests surfaces when more requests were sent with one token, or by one node, than are decided on.
const ReasonTooManyRequests = "TooManyRequests"

// newestFirst orders requests by the time they were sent at, and by name within a second.
func newestFirst(requests []*certificatesv1.CertificateSigningRequest) []*certificatesv1.CertificateSigningRequest {
	return slices.SortedFunc(slices.Values(requests), func(a, b *certificatesv1.CertificateSigningRequest) int { return -byCreation(a, b) })
}

func byCreation(a, b *certificatesv1.CertificateSigningRequest) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
}

// decideRequests gives each request that was sent with a token its verdict. One without a certificate whose token is no more
// is deleted, even when it was approved: an approval cannot be taken back, and the signer would still sign.
//
// The newest request comes first: a kubelet that gives up, or restarts, asks again with another key and waits for that one
// alone, so that an older one must not claim the token.
func (p *Plan) decideRequests(f *Facts, now time.Time) {
	for _, r := range newestFirst(f.Requests) {
		_, approved := approvedAt(r)
		settled := !approved && (issued(r) || !undecided(r)) // denied or failed: stays for people to see until Kubernetes deletes it
		switch t := p.liveToken(TokenIDOfUser(r.Spec.Username)); {
		case settled && t != nil:
			p.judgeSettled(f, t, r, now)
		case settled:
		case t != nil:
			p.judge(f, t, r, now)
		case !issued(r):
			p.DeleteRequests = append(p.DeleteRequests, r)
		}
	}
}

func (p *Plan) liveToken(id string) *Token {
	i := slices.IndexFunc(p.kept, func(t Token) bool { return t.ID == id })
	if i < 0 {
		return nil
	}
	return &p.kept[i]
}

// judge decides on a request that was sent with a live token, and looks at those that someone else has approved.
func (p *Plan) judge(f *Facts, t *Token, r *certificatesv1.CertificateSigningRequest, now time.Time) {
	at, approved := approvedAt(r)
	i := slices.IndexFunc(f.NodeBootstrap.Status.Certificates, func(d v1alpha1.CertificateDecision) bool {
		return d.UID == r.UID && !tooMany(d)
	})
	recorded := i >= 0
	if recorded && approved && f.NodeBootstrap.Status.Certificates[i].Verdict == v1alpha1.VerdictApproved { // nothing is left to decide
		if overdue := at.Add(issuanceDeadline); !issued(r) && overdue.After(now) {
			p.RequeueBy(overdue)
		}
		return
	}
	if !recorded && p.overspent(f, t, r, now) {
		return
	}
	result := p.evaluate(f, t, r, now)
	if recorded && result.Verdict == csr.Deny && f.NodeBootstrap.Status.Certificates[i].Verdict == v1alpha1.VerdictDenied {
		result.Reason = f.NodeBootstrap.Status.Certificates[i].Reason // as it was claimed, before a crash
	}
	mode := f.NodeBootstrap.Spec.ApprovalMode()
	switch {
	case result.Verdict == csr.Leave:
		if !issued(r) {
			p.DeleteRequests = append(p.DeleteRequests, r)
		}
	case approved:
		if overdue := at.Add(issuanceDeadline); !issued(r) && overdue.After(now) {
			p.RequeueBy(overdue)
		}
		told := !recorded && !at.After(lastMisuse(f, t.ID))
		if !told && result.Verdict == csr.Deny && (Misuse(result.Reason) || result.Reason == csr.ReasonKeyReplaced) {
			p.record(f, v1alpha1.VerdictApproved, t, r, csr.Result{Verdict: csr.Leave, Reason: result.Reason, KeyFingerprint: result.KeyFingerprint,
				Message: "someone else approved it although " + result.Message}, now)
		}
	case mode == v1alpha1.ApprovalClusterWide: // kube-controller-manager decides
	case result.Verdict == csr.Deny && r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName:
		// The operator has no right to decide for every signer, and shall have none: what is not there is not signed.
		p.DeleteRequests = append(p.DeleteRequests, r)
		result.Verdict = csr.Leave
		p.record(f, v1alpha1.VerdictDenied, t, r, result, now)
	case result.Verdict == csr.Deny:
		p.record(f, v1alpha1.VerdictDenied, t, r, result, now)
	case mode == v1alpha1.ApprovalNode:
		if until, held := p.held(f, t, r, now); held && !recorded {
			if !until.IsZero() {
				p.RequeueBy(until)
			}
			return
		}
		p.record(f, v1alpha1.VerdictApproved, t, r, result, now)
	}
}

func (p *Plan) evaluate(f *Facts, t *Token, r *certificatesv1.CertificateSigningRequest, now time.Time) csr.Result {
	request := csr.Request{
		CSR:      r,
		NodeName: f.Name,
		TokenID:  t.ID, TokenCreated: t.Created, TokenExpires: t.Expires,
		TokenGroup: Group,
		MayHave:    []string{ClusterWideGroup},
		Now:        now,
	}
	p.claimOn(f, t, &request)
	if len(f.KeysElsewhere) > 0 {
		if key, err := csr.Fingerprint(r); err == nil {
			request.OtherNode = f.KeysElsewhere[key]
		}
	}
	return csr.Evaluate(request)
}

// lastMisuse is when a theft was last recorded that someone else approved a request of a token for. What was approved before
// was seen then: a long record may have forgotten it.
func lastMisuse(f *Facts, tokenID string) time.Time {
	var last time.Time
	for _, d := range f.NodeBootstrap.Status.Certificates {
		if d.TokenID == tokenID && d.Verdict == v1alpha1.VerdictApproved && Evidence(d) && d.Time.After(last) {
			last = d.Time.Time
		}
	}
	return last
}

// A budget is what was decided on requests of one token.
type budget struct {
	decided sets.Set[types.UID]
	// over says that the end of it was told.
	over bool
}

func (b *budget) add(d v1alpha1.CertificateDecision) {
	if d.Reason != reasonApprovedElsewhere {
		b.decided.Insert(d.UID)
	}
	b.over = b.over || tooMany(d)
}

// tooMany reports whether a decision is the one to decide on nothing any more that is sent with a token.
func tooMany(d v1alpha1.CertificateDecision) bool {
	return d.Reason == ReasonTooManyRequests || d.Reason == ReasonTooManyKeys
}

// budgetOf is the budget of a token, by the record and by the requests, since a long record forgets denials.
func (p *Plan) budgetOf(f *Facts, tokenID string) *budget {
	if b := p.budgets[tokenID]; b != nil {
		return b
	}
	b := &budget{decided: sets.New[types.UID]()}
	for _, d := range f.NodeBootstrap.Status.Certificates {
		if d.TokenID == tokenID {
			b.add(d)
		}
	}
	for _, r := range f.Requests {
		if requestCondition(r, certificatesv1.CertificateDenied) != nil && TokenIDOfUser(r.Spec.Username) == tokenID {
			b.decided.Insert(r.UID)
		}
	}
	if p.budgets == nil {
		p.budgets = map[string]*budget{}
	}
	p.budgets[tokenID] = b
	return b
}

// overspent reports whether as many requests of a token were decided on as there may be, and notes that once.
func (p *Plan) overspent(f *Facts, t *Token, r *certificatesv1.CertificateSigningRequest, now time.Time) bool {
	b := p.budgetOf(f, t.ID)
	if !b.over && b.decided.Len() >= maxDecisionsPerToken {
		reason := ReasonTooManyRequests
		if p.restarts(f, t, r, now) {
			reason = ReasonTooManyKeys
		}
		p.record(f, v1alpha1.VerdictIgnored, t, r, csr.Result{Verdict: csr.Leave, Reason: reason, Message: fmt.Sprintf(
			"%d requests of the token were decided on: this one and all that follow are left alone", b.decided.Len())}, now)
	}
	return b.over
}

// record adds a decision to the plan, and to the evidence if it is any.
func (p *Plan) record(f *Facts, verdict v1alpha1.Verdict, t *Token, r *certificatesv1.CertificateSigningRequest, result csr.Result, now time.Time) {
	d := Decision{Request: r, Result: result, Record: v1alpha1.CertificateDecision{
		Name: r.Name, UID: r.UID, SignerName: r.Spec.SignerName, TokenID: t.ID,
		KeyFingerprint: result.KeyFingerprint, Verdict: verdict, Reason: result.Reason, Time: metav1.NewTime(now).Rfc3339Copy(),
	}}
	if verdict == v1alpha1.VerdictDenied {
		d.Record.Message = shortened(result.Message)
	}
	p.Decisions = append(p.Decisions, d)
	p.budgetOf(f, t.ID).add(d.Record)
	if p.Misuse == nil && Misuse(result.Reason) {
		p.Misuse = &Problem{result.Reason, fmt.Sprintf("the request %s was sent with the token %s: %s", r.Name, t.ID, result.Message)}
	}
}

// HasVerdict reports whether a request has the verdict of a decision: an admission policy may have changed it on its way.
func HasVerdict(r *certificatesv1.CertificateSigningRequest, d Decision) bool {
	approved, denied := requestCondition(r, certificatesv1.CertificateApproved), requestCondition(r, certificatesv1.CertificateDenied)
	if d.Result.Verdict == csr.Approve {
		return approved != nil && denied == nil
	}
	return denied != nil && approved == nil
}

// Supports reports whether an approval that was decided on for a NodeBootstrap still rests on what is there at a time: the
// same NodeBootstrap, with the claim in its status, with no new wish for a reissue and with the approval left to us, and the
// live token.
func Supports(decided, live *v1alpha1.NodeBootstrap, token *corev1.Secret, d Decision, now time.Time) bool {
	f := Facts{NodeBootstrap: live}
	t, ok := ParseToken(token)
	return live.UID == decided.UID && hasClaim(&live.Status, d.Record) && !f.reissueDue() && live.Spec.ApprovalMode() == v1alpha1.ApprovalNode &&
		ok && t.ID == d.Record.TokenID && ownedBy(token, live) && token.DeletionTimestamp == nil && t.Live(now)
}

// hasClaim reports whether a status has an approval on record.
func hasClaim(status *v1alpha1.NodeBootstrapStatus, d v1alpha1.CertificateDecision) bool {
	i := decisionOn(status.Certificates, d)
	return i >= 0 && status.Certificates[i].Verdict == v1alpha1.VerdictApproved && status.Certificates[i].KeyFingerprint == d.KeyFingerprint
}

// notIssued is the first request that was approved a while ago and has no certificate at a time.
func notIssued(f *Facts, now time.Time) *certificatesv1.CertificateSigningRequest {
	for _, r := range slices.SortedFunc(slices.Values(f.Requests), byCreation) {
		if at, approved := approvedAt(r); approved && !issued(r) && !now.Before(at.Add(issuanceDeadline)) && f.concerns(r) {
			return r
		}
	}
	return nil
}

// awaitsPerson reports whether a request waits for somebody to approve it.
func awaitsPerson(f *Facts) bool {
	return f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalManual &&
		slices.ContainsFunc(f.Requests, func(r *certificatesv1.CertificateSigningRequest) bool { return undecided(r) && f.concerns(r) })
}
