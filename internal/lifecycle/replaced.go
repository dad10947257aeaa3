// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// A claimedKey is a key that was approved with a token, and when.
type claimedKey struct {
	key string
	At  time.Time
}

// ClaimsOf are the keys that were approved with a token before a CSR was, by any client, each with its first approval: first those in the
// status, then those of CSRs by the time of their approval. A nil CSR selects all of them.
func ClaimsOf(f *Facts, tokenID string, before *certificatesv1.CertificateSigningRequest) []claimedKey {
	var out []claimedKey
	add := func(key string, at time.Time) {
		if key != "" && !slices.ContainsFunc(out, func(c claimedKey) bool { return c.key == key }) {
			out = append(out, claimedKey{key, at})
		}
	}
	csrs := f.DecidedWith(tokenID)
	for _, c := range csrs {
		if decisions.BindsKey(c) {
			add(c.KeyFingerprint, c.Time.Time)
		}
	}
	for _, r := range approvedBefore(f, tokenID, before) {
		if decisions.Decided(csrs, r.UID) != nil { // its decision is handled above
			continue
		}
		if key, err := csr.Fingerprint(r); err == nil {
			at, _ := csr.ApprovedAt(r)
			add(key, at.Time)
		}
	}
	return out
}

// approvedBefore are the CSRs in the node's name that were sent with a token and approved before another one was, in order of approval.
func approvedBefore(f *Facts, tokenID string, other *certificatesv1.CertificateSigningRequest) []*certificatesv1.CertificateSigningRequest {
	earlier := func(a, b *certificatesv1.CertificateSigningRequest) int {
		first, _ := csr.ApprovedAt(a)
		second, _ := csr.ApprovedAt(b)
		return cmp.Or(first.Compare(second.Time), csr.ByCreation(a, b))
	}
	out := slices.DeleteFunc(slices.Clone(f.Requests), func(r *certificatesv1.CertificateSigningRequest) bool {
		_, approved := csr.ApprovedAt(r)
		if !approved || token.IDOfUser(r.Spec.Username) != tokenID || !f.Concerns(r) {
			return true
		}
		if other == nil {
			return false
		}
		_, decided := csr.ApprovedAt(other)
		return r.UID == other.UID || decided && earlier(r, other) > 0
	})
	slices.SortFunc(out, earlier)
	return out
}

// addClaims adds the keys that were approved with the token to a request, and how many more may be approved.
func (p *Plan) addClaims(f *Facts, t *token.Token, request *csr.Request) {
	spec := f.NodeBootstrap.Spec
	if spec.ApprovalMode() == v1alpha1.ApprovalClusterWide {
		return
	}
	claims := ClaimsOf(f, t.ID, request.CSR)
	for _, d := range p.Decisions {
		known := slices.ContainsFunc(claims, func(c claimedKey) bool { return c.key == d.Record.KeyFingerprint })
		if d.Record.TokenID == t.ID && d.Result.Verdict == csr.Approve && !known { // the newest CSR: all others were sent before
			claims = append(claims, claimedKey{d.Record.KeyFingerprint, d.Record.Time.Add(time.Hour)})
		}
	}
	for _, c := range claims[:min(len(claims), 1+spec.ReplacementKeys())] { // further approvals by others claim nothing
		request.ClaimedKeys = append(request.ClaimedKeys, c.key)
		request.ClaimedAt = later(request.ClaimedAt, c.At)
	}
	request.ClaimUsed = p.Phase == Joined || len(claims) > 0 && f.RegisteredSince(claims[0].At)
	// After an alarm no further key is approved, nor with a token that has a successor: the machine must fetch the kubeconfig again.
	if !f.misused() && len(p.Keep) > 0 && p.Keep[len(p.Keep)-1].ID == t.ID {
		request.Replacements = spec.ReplacementKeys()
	}
}

// RegisteredSince reports whether a kubelet has reported as a Node that was created at a time or later. A kubelet registers with its
// certificate. Its first Lease, which proves the join, can come ten seconds later.
func (f *Facts) RegisteredSince(at time.Time) bool {
	return f.Node != nil && f.NodeReported && !f.sameNodeAsReissued() && !f.Node.CreationTimestamp.Time.Before(at.Truncate(time.Second))
}

// LastReplaced is the decision on the newest key that was sent with a token, if the key was denied because another one was approved that
// nobody uses; nil when the newest key was approved.
func LastReplaced(csrs []v1alpha1.DecidedCSR) *v1alpha1.DecidedCSR {
	var replaced *v1alpha1.DecidedCSR
	var approved []string
	for i := range csrs {
		switch c := &csrs[i]; {
		case c.Verdict == v1alpha1.VerdictApproved && !decisions.Misuse(c.Reason):
			if !slices.Contains(approved, c.KeyFingerprint) {
				replaced, approved = nil, append(approved, c.KeyFingerprint)
			}
		case c.Reason == csr.ReasonKeyReplaced, c.Reason == decisions.ReasonTooManyKeys:
			replaced = c
		}
	}
	return replaced
}

// claimUsed reports whether the joined node uses a certificate that was approved in the current wait. Within the second of the approval
// its Lease does not prove that, but a Node that registered later does.
func (f *Facts) claimUsed() bool {
	return f.certificateUsed() || slices.ContainsFunc(f.tokens(), func(t token.Token) bool {
		claims := ClaimsOf(f, t.ID, nil)
		return len(claims) > 0 && f.RegisteredSince(claims[0].At)
	})
}

// noteUse finds evidence of two machines when the node has joined: the newest key was denied, so a machine with another key has joined.
func (p *Plan) noteUse(f *Facts, now time.Time) {
	s := &f.NodeBootstrap.Status
	if s.AwaitingSince == nil || meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionTokenMisused) || !f.claimUsed() ||
		f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide {
		return
	}
	if k := s.ReplacedKey; k != nil {
		p.Misuse = &problem.Problem{Reason: csr.ReasonSecondKey, Message: twoMachines(k.TokenID, k.Name, k.KeyFingerprint)}
		return
	}
	for _, t := range f.tokens() { // this plan deletes their CSRs
		for _, r := range f.Requests {
			if !csr.Undecided(r) || token.IDOfUser(r.Spec.Username) != t.ID {
				continue
			}
			if result := p.evaluate(f, &t, r, now); result.Reason == csr.ReasonSecondKey {
				p.Misuse = &problem.Problem{Reason: csr.ReasonSecondKey, Message: twoMachines(t.ID, r.Name, result.KeyFingerprint)}
				return
			}
		}
	}
}

func twoMachines(tokenID, request, key string) string {
	return fmt.Sprintf("the node has joined with a key that was approved with the token %s before the request %s was sent with another one (%s). "+
		"A kubelet that was restarted no longer has its first key, so another machine has the kubeconfig, or works as the node since before a reissue. "+
		"Compare the key of the machine (docs/security.md)", tokenID, request, key)
}
