// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
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
	at  time.Time
}

// claimsOf are the keys that were approved with a token before a CSR was, by any client, each with its first approval: first those in the
// status, then those of CSRs by the time of their approval. A nil CSR selects all of them.
func claimsOf(f *Facts, tokenID string, before *certificatesv1.CertificateSigningRequest) []claimedKey {
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

// registeredSince reports whether a kubelet has reported as a Node that was created since the first of these claims. A kubelet registers
// with its certificate. Its first Lease, which proves the join, can come ten seconds later.
func (f *Facts) registeredSince(claims []claimedKey) bool {
	return len(claims) > 0 && f.Node != nil && f.NodeReported && !f.sameNodeAsReissued() &&
		!f.Node.CreationTimestamp.Time.Before(claims[0].at.Truncate(time.Second))
}

// Registered reports whether a kubelet has registered since a key was first approved with a token.
func (f *Facts) Registered(tokenID string) bool { return f.registeredSince(claimsOf(f, tokenID, nil)) }

// claimUsed reports whether the joined node uses a certificate that was approved in the current wait. Within the second of the approval
// its Lease does not prove that, but a Node that registered later does.
func (f *Facts) claimUsed() bool {
	return f.certificateUsed() || slices.ContainsFunc(f.tokens(), func(t token.Token) bool { return f.Registered(t.ID) })
}

// noteUse finds evidence of two machines when the node has joined: the newest key was denied, so a machine with another key has joined.
func (p *Plan) noteUse(f *Facts, now time.Time) {
	s := &f.NodeBootstrap.Status
	if s.AwaitingSince == nil || meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionTokenMisused) || !f.claimUsed() ||
		f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide || f.pinned() != "" {
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

// sentKeys are the keys that were sent with a token, from the existing CSRs and the decisions in the status, each with its first CSR, the
// oldest first. A CSR that cannot be parsed has no key.
func (f *Facts) sentKeys(tokenID string) []v1alpha1.SentKey {
	var all []v1alpha1.SentKey
	for _, r := range f.Requests {
		if key, err := csr.Fingerprint(r); err == nil && token.IDOfUser(r.Spec.Username) == tokenID {
			all = append(all, v1alpha1.SentKey{TokenID: tokenID, KeyFingerprint: key, Name: r.Name, Time: r.CreationTimestamp})
		}
	}
	for _, c := range f.DecidedWith(tokenID) {
		exists := slices.ContainsFunc(f.Requests, func(r *certificatesv1.CertificateSigningRequest) bool { return r.UID == c.UID })
		if c.KeyFingerprint != "" && !exists {
			all = append(all, v1alpha1.SentKey{TokenID: tokenID, KeyFingerprint: c.KeyFingerprint, Name: c.Name, Time: c.Time})
		}
	}
	slices.SortFunc(all, func(a, b v1alpha1.SentKey) int {
		return cmp.Or(a.Time.Compare(b.Time.Time), strings.Compare(a.Name, b.Name))
	})
	var out []v1alpha1.SentKey
	for _, k := range all {
		if !HasKey(out, k) {
			out = append(out, k)
		}
	}
	return out
}

// HasKey reports whether a list has a key.
func HasKey(keys []v1alpha1.SentKey, k v1alpha1.SentKey) bool {
	return slices.ContainsFunc(keys, func(o v1alpha1.SentKey) bool {
		return o.TokenID == k.TokenID && o.KeyFingerprint == k.KeyFingerprint
	})
}

// held reports whether a CSR that could be approved is held, because approvals are delayed or because another key was sent with its
// token, and until when. A zero time means for the life of the token.
func (p *Plan) held(f *Facts, t *token.Token, r *certificatesv1.CertificateSigningRequest, now time.Time) (until time.Time, held bool) {
	delay := f.NodeBootstrap.Spec.ClientCertificate.ApprovalDelay
	if delay == nil || delay.Duration <= 0 {
		return time.Time{}, false
	}
	if len(f.sentKeys(t.ID)) > 1 {
		return time.Time{}, true
	}
	until = r.CreationTimestamp.Add(delay.Duration)
	return until, now.Before(until)
}

// noteKeys finds the keys that were sent with one of the current tokens, if there was more than one. Tokens from before a reissue no
// longer count.
func (p *Plan) noteKeys(f *Facts) {
	if f.NodeBootstrap == nil || f.pinned() != "" { // with a pinned key, the others raise an alarm
		return
	}
	var ids []string
	for _, t := range slices.Backward(p.Keep) {
		if !f.beforeReissue(t) {
			ids = append(ids, t.ID)
		}
	}
	if t := f.NodeBootstrap.Status.Token; t != nil && !p.Reissue && !slices.Contains(ids, t.ID) {
		ids = append(ids, t.ID)
	}
	for _, id := range ids {
		if keys := f.sentKeys(id); len(keys) > 1 {
			p.Keys = append(p.Keys, keys...)
		}
	}
}

// Claims reports whether a key is a node's: a client certificate was approved for it, or it is pinned. The signer decides how long the
// certificate is valid, so the key stays the node's.
func Claims(nb *v1alpha1.NodeBootstrap, key string) bool { return slices.Contains(KeysOf(nb), key) }

// KeysOf are the fingerprints of the keys that are a node's.
func KeysOf(nb *v1alpha1.NodeBootstrap) []string {
	approved, pinned := ClaimedKeys(nb), nb.Spec.PinnedKey()
	if pinned == "" || slices.Contains(approved, pinned) {
		return approved
	}
	return append(slices.Clip(approved), pinned)
}

// KeysToClaim are the fingerprints of the keys in the CSRs for client certificates that a plan approves.
func (p *Plan) KeysToClaim() []string {
	var out []string
	for _, d := range p.Decisions {
		if d.Result.Verdict == csr.Approve && d.Record.UID != "" && !d.Pinned {
			out = append(out, d.Record.KeyFingerprint)
		}
	}
	return out
}
