// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// decideRequests gives each CSR that was sent with a token its verdict. A CSR without a certificate whose token is no longer live is
// deleted, even if it was approved: an approval cannot be withdrawn, and the signer would still sign.
//
// The newest CSR comes first: a kubelet that gives up, or restarts, sends another key and waits for that CSR only, so an older one must
// not claim the token.
func (p *Plan) decideRequests(f *Facts, now time.Time) {
	judges := map[string]*judge{}
	for i := range p.Keep {
		judges[p.Keep[i].ID] = p.judgeOf(f, &p.Keep[i], now)
	}
	for _, r := range csr.NewestFirst(f.Requests) {
		switch j := judges[token.IDOfUser(r.Spec.Username)]; {
		case j != nil:
			j.judge(r)
		case !csr.Issued(r) && (csr.Undecided(r) || csr.IsApproved(r)): // a denied or failed CSR stays visible until Kubernetes deletes it
			p.deleteRequest(r, tokenRevoked)
			p.explain(r, ruleOfRevokedToken, csr.Result{})
		}
	}
}

// LiveToken returns the token with an ID that the plan keeps; nil when it keeps none.
func (p *Plan) LiveToken(id string) *token.Token {
	i := slices.IndexFunc(p.Keep, func(t token.Token) bool { return t.ID == id })
	if i < 0 {
		return nil
	}
	return &p.Keep[i]
}

func (p *Plan) evaluate(f *Facts, t *token.Token, r *certificatesv1.CertificateSigningRequest, now time.Time) csr.Result {
	request := csr.Request{
		CSR:      r,
		NodeName: f.Name,
		TokenID:  t.ID, TokenCreated: t.Created, TokenExpires: t.Expires,
		TokenGroup: token.Group,
		MayHave:    []string{token.ClusterWideGroup},
		Now:        now,
	}
	p.addClaims(f, t, &request)
	if len(f.KeysElsewhere) > 0 {
		if key, err := csr.Fingerprint(r); err == nil {
			request.OtherNode = f.KeysElsewhere[key]
		}
	}
	return csr.Evaluate(request)
}

// addClaims adds the keys that were approved with the token to a request, and how many more may be approved.
func (p *Plan) addClaims(f *Facts, t *token.Token, request *csr.Request) {
	spec := f.NodeBootstrap.Spec
	if spec.ApprovalMode() == v1alpha1.ApprovalClusterWide {
		return
	}
	request.PinnedKey = f.pinned()
	claims := claimsOf(f, t.ID, request.CSR)
	for _, d := range p.Decisions {
		known := slices.ContainsFunc(claims, func(c claimedKey) bool { return c.key == d.Record.KeyFingerprint })
		if d.Record.TokenID == t.ID && d.Result.Verdict == csr.Approve && !known { // the newest CSR: all others were sent before
			claims = append(claims, claimedKey{d.Record.KeyFingerprint, d.Record.Time.Add(time.Hour)})
		}
	}
	for _, c := range claims[:min(len(claims), 1+spec.ReplacementKeys())] { // further approvals by others claim nothing
		request.ClaimedKeys = append(request.ClaimedKeys, c.key)
		request.ClaimedAt = later(request.ClaimedAt, c.at)
	}
	request.ClaimUsed = p.Phase == Joined || f.registeredSince(claims)
	// After an alarm no further key is approved, nor with a token that has a successor: the machine must fetch the kubeconfig again.
	if !f.misused() && len(p.Keep) > 0 && p.Keep[len(p.Keep)-1].ID == t.ID {
		request.Replacements = spec.ReplacementKeys()
	}
}

// addDecision adds a decision to the plan, and the misuse if the decision is evidence.
func (p *Plan) addDecision(verdict v1alpha1.Verdict, t *token.Token, r *certificatesv1.CertificateSigningRequest, result csr.Result, now time.Time) {
	d := Decision{Request: r, Result: result, Record: v1alpha1.CertificateDecision{
		Name: r.Name, UID: r.UID, SignerName: r.Spec.SignerName, TokenID: t.ID,
		KeyFingerprint: result.KeyFingerprint, Verdict: verdict, Reason: result.Reason, Time: metav1.NewTime(now).Rfc3339Copy(),
	}}
	if verdict == v1alpha1.VerdictDenied {
		d.Record.Message = decisions.Shortened(result.Message)
	}
	p.Decisions = append(p.Decisions, d)
	if p.Misuse == nil && decisions.Misuse(result.Reason) {
		p.Misuse = &problem.Problem{Reason: result.Reason, Message: fmt.Sprintf("the request %s was sent with the token %s: %s", r.Name, t.ID, result.Message)}
	}
}

// IssuanceDeadline is how long the certificate of an approved CSR can take before the status reports that it is missing.
const IssuanceDeadline = time.Minute

// NotIssued is the first CSR that was approved more than IssuanceDeadline ago and has no certificate.
func NotIssued(f *Facts, now time.Time) *certificatesv1.CertificateSigningRequest {
	for _, r := range slices.SortedFunc(slices.Values(f.Requests), csr.ByCreation) {
		if at, approved := csr.ApprovedAt(r); approved && !csr.Issued(r) && !now.Before(at.Add(IssuanceDeadline)) && f.Concerns(r) {
			return r
		}
	}
	return nil
}

// AwaitsPerson reports whether a CSR must be approved by a person.
func AwaitsPerson(f *Facts) bool {
	return f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalManual &&
		slices.ContainsFunc(f.OwnRequests(), csr.Undecided)
}

// HasVerdict reports whether a CSR has the verdict of a decision: an admission policy may have changed the write.
func HasVerdict(r *certificatesv1.CertificateSigningRequest, d Decision) bool {
	approved, denied := csr.Condition(r, certificatesv1.CertificateApproved), csr.Condition(r, certificatesv1.CertificateDenied)
	if d.Result.Verdict == csr.Approve {
		return approved != nil && denied == nil
	}
	return denied != nil && approved == nil
}

// Supports reports whether an approval that was decided for a NodeBootstrap is still valid at a time: the NodeBootstrap is the same, has
// the claim in its status, no new reissue request and approval Node, and the token is live.
func Supports(decided, live *v1alpha1.NodeBootstrap, secret *corev1.Secret, d Decision, now time.Time) bool {
	f := Facts{NodeBootstrap: live, TokenSecrets: []*corev1.Secret{secret}}
	f.UpgradeStatus()
	t, ok := token.Parse(secret)
	claim := decisions.Decided(f.DecidedWith(d.Record.TokenID), d.Record.UID)
	claimed := claim != nil && claim.Verdict == v1alpha1.VerdictApproved && claim.KeyFingerprint == d.Record.KeyFingerprint
	return live.UID == decided.UID && claimed && !f.reissueDue() && live.Spec.ApprovalMode() == v1alpha1.ApprovalNode &&
		ok && t.ID == d.Record.TokenID && owned.By(secret, live) && secret.DeletionTimestamp == nil && t.Live(now)
}
