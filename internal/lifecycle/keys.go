// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"cmp"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// Claims reports whether a client certificate was approved for a node with a key. The signer decides how long the certificate is valid,
// so the key stays the node's.
func Claims(nb *v1alpha1.NodeBootstrap, key string) bool {
	return slices.Contains(ClaimedKeys(nb), key)
}

// KeysToDecide are the fingerprints of the keys in the undecided CSRs for client certificates.
func KeysToDecide(requests []*certificatesv1.CertificateSigningRequest) []string {
	var out []string
	for _, r := range requests {
		if !csr.Undecided(r) || r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
			continue
		}
		if key, err := csr.Fingerprint(r); err == nil && !slices.Contains(out, key) {
			out = append(out, key)
		}
	}
	return out
}

// KeysToClaim are the fingerprints of the keys in the CSRs for client certificates that a plan approves.
func (p *Plan) KeysToClaim() []string {
	var out []string
	for _, d := range p.Decisions {
		if d.Result.Verdict == csr.Approve && d.Record.UID != "" {
			out = append(out, d.Record.KeyFingerprint)
		}
	}
	return out
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
	if f.NodeBootstrap == nil {
		return
	}
	for _, id := range p.presentTokens(f) {
		if keys := f.sentKeys(id); len(keys) > 1 {
			p.Keys = append(p.Keys, keys...)
		}
	}
}

func (p *Plan) presentTokens(f *Facts) []string {
	var out []string
	for _, t := range slices.Backward(p.Keep) {
		if !f.beforeReissue(t) {
			out = append(out, t.ID)
		}
	}
	if t := f.NodeBootstrap.Status.Token; t != nil && !p.Reissue && !slices.Contains(out, t.ID) {
		out = append(out, t.ID)
	}
	return out
}

// beforeReissue reports whether a token is from before the current reissue: it was revoked, and a stale cache still shows it.
func (f *Facts) beforeReissue(t token.Token) bool {
	s := f.NodeBootstrap.Status
	return f.awaitingReissue() && t.Created.Before(s.AwaitingSince.Time) && token.Reissue(t.Object) != token.NormalReissue(s.LastHandledReissueAt)
}
