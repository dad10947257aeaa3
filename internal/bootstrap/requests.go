// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"cmp"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// issuanceDeadline is how long after its approval a certificate may take to be issued before somebody is told.
const issuanceDeadline = time.Minute

// clockTolerance is how far the clocks of several API servers may be apart.
const clockTolerance = 10 * time.Second

// byCreation orders requests by the time they were sent at, and by name within a second.
func byCreation(a, b *certificatesv1.CertificateSigningRequest) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
}

// decideRequests gives each request without a certificate its verdict. A request whose token is no more is deleted, even
// when it was approved: an approval cannot be taken back, and the signer would still sign.
//
// The newest request comes first: a kubelet that gives up, or restarts, asks anew with another key and waits for that one
// alone, so that an older one must not claim the token.
func (p *Plan) decideRequests(f *Facts, now time.Time) {
	newestFirst := slices.SortedFunc(slices.Values(f.Requests), func(a, b *certificatesv1.CertificateSigningRequest) int {
		return -byCreation(a, b)
	})
	for _, r := range newestFirst {
		if issued(r) {
			continue
		}
		t := p.liveToken(TokenIDOfUser(r.Spec.Username))
		switch at, approved := approvedAt(r); {
		case !approved && !undecided(r): // denied or failed: stays for people to see until Kubernetes deletes it
		case t == nil || r.CreationTimestamp.Add(clockTolerance).Before(t.Created):
			p.DeleteRequests = append(p.DeleteRequests, r)
		case approved:
			if overdue := at.Add(issuanceDeadline); overdue.After(now) {
				p.LookAgain(overdue)
			}
		case f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalNode:
			p.decide(f, t, r, now)
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

func (p *Plan) decide(f *Facts, t *Token, r *certificatesv1.CertificateSigningRequest, now time.Time) {
	result := csr.Evaluate(csr.Request{
		CSR:        r,
		NodeName:   f.Name,
		TokenID:    t.ID,
		TokenGroup: Group,
		MayHave:    []string{ClusterWideGroup},
		ClaimedKey: p.claimedKey(f, t.ID),
	})
	if result.Verdict == csr.Leave {
		return
	}
	verdict := v1alpha1.VerdictApproved
	if result.Verdict == csr.Deny {
		verdict = v1alpha1.VerdictDenied
	}
	p.Decisions = append(p.Decisions, Decision{Request: r, Result: result, Record: v1alpha1.CertificateDecision{
		Name: r.Name, UID: r.UID, SignerName: r.Spec.SignerName, TokenID: t.ID,
		KeyFingerprint: result.KeyFingerprint, Verdict: verdict, Reason: result.Reason, Time: metav1.NewTime(now).Rfc3339Copy(),
	}})
}

// claimedKey is the key that was approved with a token: no other one will be.
func (p *Plan) claimedKey(f *Facts, tokenID string) string {
	for _, d := range f.NodeBootstrap.Status.Certificates {
		if d.TokenID == tokenID && d.Verdict == v1alpha1.VerdictApproved {
			return d.KeyFingerprint
		}
	}
	for _, d := range p.Decisions {
		if d.Record.TokenID == tokenID && d.Result.Verdict == csr.Approve {
			return d.Record.KeyFingerprint
		}
	}
	return ""
}

// Claims are the decisions of a plan that the status does not tell of yet: they are written there before they are carried
// out, so that a crash in between never leads to a second key.
func (p *Plan) Claims(nb *v1alpha1.NodeBootstrap) []v1alpha1.CertificateDecision {
	var out []v1alpha1.CertificateDecision
	for _, d := range p.Decisions {
		if !slices.ContainsFunc(nb.Status.Certificates, func(have v1alpha1.CertificateDecision) bool {
			return have.UID == d.Record.UID && have.Verdict == d.Record.Verdict
		}) {
			out = append(out, d.Record)
		}
	}
	return out
}

// WithClaims is a status with further decisions in it.
func WithClaims(status *v1alpha1.NodeBootstrapStatus, claims []v1alpha1.CertificateDecision) *v1alpha1.NodeBootstrapStatus {
	out := status.DeepCopy()
	out.Certificates = appendDecisions(out.Certificates, claims...)
	return out
}

// Supports tells whether an approval that was decided on for a NodeBootstrap still rests on what is there at a time: the
// same NodeBootstrap, with no new wish for a reissue and with the approval left to us, and the live token.
func Supports(decided, live *v1alpha1.NodeBootstrap, token *corev1.Secret, d Decision, now time.Time) bool {
	f := Facts{NodeBootstrap: live}
	t, ok := ParseToken(token)
	return live.UID == decided.UID && !f.reissueDue() && live.Spec.ApprovalMode() == v1alpha1.ApprovalNode &&
		ok && t.ID == d.Record.TokenID && ownedBy(token, live) && token.DeletionTimestamp == nil && t.Live(now)
}

// maxDecisions bounds status.certificates.
const maxDecisions = 10

// appendDecisions adds to a history, of which the oldest entries go first when it grows too long. Approvals outlive
// denials: the claim on a key must not be pushed out by a flood of requests.
func appendDecisions(history []v1alpha1.CertificateDecision, more ...v1alpha1.CertificateDecision) []v1alpha1.CertificateDecision {
	out := append(slices.Clone(history), more...)
	for len(out) > maxDecisions {
		i := slices.IndexFunc(out[:len(out)-1], func(d v1alpha1.CertificateDecision) bool { return d.Verdict == v1alpha1.VerdictDenied })
		out = slices.Delete(out, max(i, 0), max(i, 0)+1)
	}
	return out
}

// recordIssued notes which of the node's requests have their certificate, whoever approved them. It goes by time, and not by
// the order in which a cache lists requests: those older than a full history stay out of it.
func recordIssued(history []v1alpha1.CertificateDecision, requests []*certificatesv1.CertificateSigningRequest) []v1alpha1.CertificateDecision {
	for _, r := range slices.SortedFunc(slices.Values(requests), byCreation) {
		at, approved := approvedAt(r)
		if !approved || !issued(r) {
			continue
		}
		i := slices.IndexFunc(history, func(d v1alpha1.CertificateDecision) bool { return d.UID == r.UID })
		switch {
		case i < 0 && len(history) == maxDecisions && !at.After(history[0].Time.Time):
		case i < 0:
			key, _ := csr.Fingerprint(r)
			history = appendDecisions(history, v1alpha1.CertificateDecision{
				Name: r.Name, UID: r.UID, SignerName: r.Spec.SignerName, TokenID: TokenIDOfUser(r.Spec.Username),
				KeyFingerprint: key, Verdict: v1alpha1.VerdictApproved, Reason: reasonApprovedElsewhere,
				Time: at, IssuedTime: &at,
			})
		case history[i].IssuedTime == nil:
			history = slices.Clone(history)
			history[i].IssuedTime = &at
			if history[i].Verdict == v1alpha1.VerdictDenied { // somebody was faster
				history[i].Verdict, history[i].Reason = v1alpha1.VerdictApproved, reasonApprovedElsewhere
			}
		}
	}
	return history
}

// reasonApprovedElsewhere surfaces in status.certificates when somebody else approved the request: a person, or
// kube-controller-manager with approval ClusterWide.
const reasonApprovedElsewhere = "ApprovedElsewhere"

// notIssued is the first request that was approved a while ago and has no certificate at a time.
func notIssued(f *Facts, now time.Time) *certificatesv1.CertificateSigningRequest {
	for _, r := range f.Requests {
		if at, approved := approvedAt(r); approved && !issued(r) && !now.Before(at.Add(issuanceDeadline)) {
			return r
		}
	}
	return nil
}

// awaitsPerson tells whether a request waits for somebody to approve it.
func awaitsPerson(f *Facts) bool {
	return f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalManual && slices.ContainsFunc(f.Requests, undecided)
}
