// SPDX-License-Identifier: Apache-2.0

package bootstrap

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
)

// Claims reports whether a client certificate was approved for a node with a key. How long the certificate is valid is up to the signer,
// so the key stays the node's.
func Claims(nb *v1alpha1.NodeBootstrap, key string) bool {
	return slices.Contains(ClaimedKeys(nb), key)
}

// KeysToDecide are the fingerprints of the keys in those requests for client certificates that wait for a verdict.
func KeysToDecide(requests []*certificatesv1.CertificateSigningRequest) []string {
	var out []string
	for _, r := range requests {
		if !undecided(r) || r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
			continue
		}
		if key, err := csr.Fingerprint(r); err == nil && !slices.Contains(out, key) {
			out = append(out, key)
		}
	}
	return out
}

// KeysToClaim are the fingerprints of the keys whose requests for client certificates a plan approves.
func (p *Plan) KeysToClaim() []string {
	var out []string
	for _, d := range p.Decisions {
		if d.Result.Verdict == csr.Approve && d.Record.UID != "" {
			out = append(out, d.Record.KeyFingerprint)
		}
	}
	return out
}

// maxKeys bounds the keys in a status: as many as requests are decided on for one token.
const maxKeys = maxDecisionsPerToken

// sentKeys are the keys that were sent with a token, by the CSRs that exist and by the decisions in the status, each with its first CSR,
// the oldest first. A CSR that cannot be parsed has none.
func (f *Facts) sentKeys(tokenID string) []v1alpha1.SentKey {
	var all []v1alpha1.SentKey
	for _, r := range f.Requests {
		if key, err := csr.Fingerprint(r); err == nil && TokenIDOfUser(r.Spec.Username) == tokenID {
			all = append(all, v1alpha1.SentKey{TokenID: tokenID, KeyFingerprint: key, Name: r.Name, Time: r.CreationTimestamp})
		}
	}
	for _, c := range f.decidedWith(tokenID) {
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
		if !hasKey(out, k) {
			out = append(out, k)
		}
	}
	return out
}

func hasKey(keys []v1alpha1.SentKey, k v1alpha1.SentKey) bool {
	return slices.ContainsFunc(keys, func(o v1alpha1.SentKey) bool {
		return o.TokenID == k.TokenID && o.KeyFingerprint == k.KeyFingerprint
	})
}

// held reports whether a request that could be approved is held, for how long approvals are delayed or because another key was sent
// with its token, and until when; a zero time is for as long as the token lives.
func (p *Plan) held(f *Facts, t *Token, r *certificatesv1.CertificateSigningRequest, now time.Time) (until time.Time, held bool) {
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

// noteKeys finds the keys that were sent with one of the present tokens, if there are several. Tokens from before a reissue do not
// count any more.
func (p *Plan) noteKeys(f *Facts) {
	if f.NodeBootstrap == nil {
		return
	}
	for _, id := range p.presentTokens(f) {
		if keys := f.sentKeys(id); len(keys) > 1 {
			p.keys = append(p.keys, keys...)
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

// beforeReissue reports whether a token is from before the reissue that the node waits with: it was revoked, and a cache that is behind
// still shows it.
func (f *Facts) beforeReissue(t Token) bool {
	s := f.NodeBootstrap.Status
	return f.awaitingReissue() && t.Created.Before(s.AwaitingSince.Time) && ReissueOf(t.Object) != NormalReissue(s.LastHandledReissueAt)
}

// recordKeys adds the keys that a plan found to those in a status, and reports whether there are new ones.
func (p *Plan) recordKeys(status *v1alpha1.NodeBootstrapStatus) bool {
	was := len(status.Keys)
	for _, k := range p.keys {
		if len(status.Keys) < maxKeys && !hasKey(status.Keys, k) {
			status.Keys = append(status.Keys, k)
		}
	}
	return len(status.Keys) > was
}

// keyConflict reports that several keys were sent with a token, whoever got the certificate. It stays until a reissue, which begins
// with another token.
func (r *report) keyConflict() {
	r.p.recordKeys(r.new)
	if len(r.new.Keys) == 0 {
		return
	}
	var list []string
	for _, k := range r.new.Keys {
		list = append(list, fmt.Sprintf("%s (%s, %s)", k.KeyFingerprint, k.Name, k.Time.UTC().Format(time.RFC3339)))
	}
	r.set(v1alpha1.ConditionKeyConflict, yes(v1alpha1.ReasonSeveralKeys, "%d keys were sent with the token %s: the kubelet was restarted "+
		"before it had its certificate, or another machine has the kubeconfig. Compare the key of the machine (docs/security.md): %s",
		len(list), r.new.Keys[0].TokenID, strings.Join(list, "; ")))
}

// heldFor is why nothing is approved although the node asks; nil when nothing is held for a person.
func (r *report) heldFor() *Problem {
	spec := r.f.NodeBootstrap.Spec.ClientCertificate
	if spec.ApprovalDelay == nil || spec.ApprovalDelay.Duration <= 0 || r.f.NodeBootstrap.Spec.ApprovalMode() != v1alpha1.ApprovalNode ||
		!meta.IsStatusConditionTrue(r.new.Conditions, v1alpha1.ConditionKeyConflict) || !slices.ContainsFunc(r.f.Requests, func(q *certificatesv1.CertificateSigningRequest) bool {
		return undecided(q) && r.f.concerns(q)
	}) {
		return nil
	}
	return &Problem{v1alpha1.ReasonSeveralKeys, "several keys were sent with the token, and with spec.clientCertificate.approvalDelay the operator " +
		"approves none that waits: see the condition " + v1alpha1.ConditionKeyConflict + ", then approve the request with the machine's key by hand, " +
		"or request a reissue"}
}
