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

// A kubelet with rotateCertificates has its key in memory until it has its certificate. If it exits after it has asked, because its
// container runtime is down for example, its next start asks with another key. A thief who has the kubeconfig does the same. What tells
// them apart is use: a restarted kubelet has lost its first key, so once somebody works as the node although the newest key was denied,
// two machines have the kubeconfig.

// ReasonTooManyKeys is the reason to leave a request alone when as many requests of its token were decided on as there may be, and
// all of them are what a kubelet sends that is restarted over and over.
const ReasonTooManyKeys = "TooManyKeys"

// A claimedKey is a key that was approved with a token, and when.
type claimedKey struct {
	key string
	at  time.Time
}

// claimsOf are the keys that were approved with a token before a request was, by whomever, each with its first approval: those of the
// record first, which outlives requests, then those of requests by the time of their approval. Without a request they are all. A
// key that should not have been approved is none.
func claimsOf(f *Facts, tokenID string, before *certificatesv1.CertificateSigningRequest) []claimedKey {
	var out []claimedKey
	add := func(key string, at time.Time) {
		if key != "" && !slices.ContainsFunc(out, func(c claimedKey) bool { return c.key == key }) {
			out = append(out, claimedKey{key, at})
		}
	}
	record := f.NodeBootstrap.Status.Certificates
	for _, d := range record {
		if d.TokenID == tokenID && isClaim(d) {
			add(d.KeyFingerprint, d.Time.Time)
		}
	}
	for _, r := range approvedBefore(f, tokenID, before) {
		if i := slices.IndexFunc(record, func(d v1alpha1.CertificateDecision) bool { return d.UID == r.UID }); i >= 0 && !isClaim(record[i]) {
			continue
		}
		if key, err := csr.Fingerprint(r); err == nil {
			at, _ := approvedAt(r)
			add(key, at.Time)
		}
	}
	return out
}

// isClaim reports whether a decision is the approval of a client certificate in the node's name that nothing is held against.
func isClaim(d v1alpha1.CertificateDecision) bool {
	return d.Verdict == v1alpha1.VerdictApproved && ofThisNode(d) && d.Reason != csr.ReasonKeyReplaced
}

// approvedBefore are the requests in the node's name that were sent with a token and approved before another one was, in this order.
func approvedBefore(f *Facts, tokenID string, other *certificatesv1.CertificateSigningRequest) []*certificatesv1.CertificateSigningRequest {
	earlier := func(a, b *certificatesv1.CertificateSigningRequest) int {
		first, _ := approvedAt(a)
		second, _ := approvedAt(b)
		return cmp.Or(first.Compare(second.Time), byCreation(a, b))
	}
	out := slices.DeleteFunc(slices.Clone(f.Requests), func(r *certificatesv1.CertificateSigningRequest) bool {
		_, approved := approvedAt(r)
		if !approved || TokenIDOfUser(r.Spec.Username) != tokenID || !f.concerns(r) {
			return true
		}
		if other == nil {
			return false
		}
		_, decided := approvedAt(other)
		return r.UID == other.UID || decided && earlier(r, other) > 0
	})
	slices.SortFunc(out, earlier)
	return out
}

// claimOn adds to a request what keys were approved with its token, and how many more may be.
func (p *Plan) claimOn(f *Facts, t *Token, request *csr.Request) {
	spec := f.NodeBootstrap.Spec
	if spec.ApprovalMode() == v1alpha1.ApprovalClusterWide {
		return
	}
	claims := claimsOf(f, t.ID, request.CSR)
	for _, d := range p.Decisions {
		known := slices.ContainsFunc(claims, func(c claimedKey) bool { return c.key == d.Record.KeyFingerprint })
		if d.Record.TokenID == t.ID && d.Result.Verdict == csr.Approve && !known { // the newest: all others were sent before
			claims = append(claims, claimedKey{d.Record.KeyFingerprint, d.Record.Time.Add(time.Hour)})
		}
	}
	for _, c := range claims[:min(len(claims), 1+spec.ReplacementKeys())] { // what others approved besides is no claim
		request.ClaimedKeys = append(request.ClaimedKeys, c.key)
		request.ClaimedAt = later(request.ClaimedAt, c.at)
	}
	request.ClaimUsed = p.Phase == Joined || len(claims) > 0 && f.registeredSince(claims[0].at)
	// After an alarm no further key is approved, nor with a token that has a successor: the machine has to fetch the kubeconfig again.
	if !f.misused() && len(p.kept) > 0 && p.kept[len(p.kept)-1].ID == t.ID {
		request.Replacements = spec.ReplacementKeys()
	}
}

// registeredSince reports whether a kubelet has reported as a Node that was created at a time or after it. A kubelet registers with its
// certificate. Its first Lease, which proves that it has joined, may come ten seconds later.
func (f *Facts) registeredSince(at time.Time) bool {
	return f.Node != nil && f.NodeReported && !f.sameNodeAsReissued() && !f.Node.CreationTimestamp.Time.Before(at.Truncate(time.Second))
}

// restarts reports whether a request, and all that was decided on with its token, is what a kubelet sends that is restarted over and
// over.
func (p *Plan) restarts(f *Facts, t *Token, r *certificatesv1.CertificateSigningRequest, now time.Time) bool {
	harmless := func(reason string) bool {
		switch reason {
		case csr.ReasonKubeletClient, csr.ReasonKeyReplaced, csr.ReasonSuperseded, reasonApprovedElsewhere, reasonDeniedElsewhere:
			return true
		default:
			return false
		}
	}
	for _, d := range slices.Concat(f.NodeBootstrap.Status.Certificates, p.records()) {
		if d.TokenID == t.ID && !harmless(d.Reason) {
			return false
		}
	}
	for _, other := range f.Requests { // of which the record may have forgotten denials
		c := requestCondition(other, certificatesv1.CertificateDenied)
		if c != nil && TokenIDOfUser(other.Spec.Username) == t.ID && csr.DeniesClient(c.Reason) && !harmless(c.Reason) {
			return false
		}
	}
	reason := p.evaluate(f, t, r, now).Reason
	return reason == csr.ReasonKeyReplaced || reason == csr.ReasonSuperseded
}

// records are the entries for status.certificates that a plan adds.
func (p *Plan) records() []v1alpha1.CertificateDecision {
	var out []v1alpha1.CertificateDecision
	for _, d := range p.Decisions {
		out = append(out, d.Record)
	}
	return out
}

// lastReplaced is the decision on the newest key of some tokens, if it was denied because another one was approved that nobody uses;
// nil when the newest key was approved. A key that was approved before and is sent again is no newer one: a thief may do so.
func lastReplaced(record []v1alpha1.CertificateDecision, of func(v1alpha1.CertificateDecision) bool) *v1alpha1.CertificateDecision {
	var replaced *v1alpha1.CertificateDecision
	var approved []string
	for i := range record {
		switch d := &record[i]; {
		case d.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName || d.TokenID == "" || !of(*d):
		case d.Verdict == v1alpha1.VerdictApproved && ofThisNode(*d):
			if !slices.Contains(approved, d.KeyFingerprint) {
				replaced, approved = nil, append(approved, d.KeyFingerprint)
			}
		case d.Reason == csr.ReasonKeyReplaced, d.Reason == ReasonTooManyKeys:
			replaced = d
		}
	}
	return replaced
}

// claimUsed reports whether the node, which has joined, uses a certificate that was approved in its present wait. Within the second of
// the approval its Lease does not prove that, but a Node that was registered since does.
func (f *Facts) claimUsed() bool {
	return f.certificateUsed() || slices.ContainsFunc(f.tokens(), func(t Token) bool {
		claims := claimsOf(f, t.ID, nil)
		return len(claims) > 0 && f.registeredSince(claims[0].at)
	})
}

// noteUse finds evidence of two machines when the node has joined: whoever sent the newest key was denied, so someone else has joined.
func (p *Plan) noteUse(f *Facts, now time.Time) {
	s := &f.NodeBootstrap.Status
	if s.AwaitingSince == nil || meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionTokenMisused) || !f.claimUsed() ||
		f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide {
		return
	}
	of := func(d v1alpha1.CertificateDecision) bool { return f.inPresentWait(d.TokenID, d.Time) }
	if d := lastReplaced(s.Certificates, of); d != nil {
		p.Misuse = &Problem{csr.ReasonSecondKey, twoMachines(d.TokenID, d.Name, d.KeyFingerprint)}
		return
	}
	for _, t := range f.tokens() { // their requests are deleted now
		for _, r := range f.Requests {
			if !undecided(r) || TokenIDOfUser(r.Spec.Username) != t.ID {
				continue
			}
			if result := p.evaluate(f, &t, r, now); result.Reason == csr.ReasonSecondKey {
				p.Misuse = &Problem{csr.ReasonSecondKey, twoMachines(t.ID, r.Name, result.KeyFingerprint)}
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

// keyReplaced is why a node cannot join although its credential is good: the newest key that was sent with the token is not approved,
// and nobody uses the approved one. It is nil when that is not so.
func (r *report) keyReplaced() *Problem {
	t := r.o.Token
	if t == nil || r.f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide {
		return nil
	}
	d := lastReplaced(r.new.Certificates, func(d v1alpha1.CertificateDecision) bool { return d.TokenID == t.ID })
	claims := claimsOf(r.f, t.ID, nil)
	if d == nil || len(claims) > 0 && r.f.registeredSince(claims[0].at) {
		return nil
	}
	what := "was denied"
	if d.Verdict == v1alpha1.VerdictIgnored {
		what = "and those after it are left alone"
	}
	return &Problem{v1alpha1.ReasonKeyReplaced, fmt.Sprintf("the request %s %s, since another key was approved with the token %s and is not used: "+
		"the kubelet restarted before it received its certificate, or another machine has the kubeconfig. See the kubelet's log (journalctl -u kubelet) "+
		"for why it restarted. If it did not, compare the keys in the condition %s. Then request a reissue with kubectl nodebootstrap reissue %s, or with %s, "+
		"and give the node the new kubeconfig", d.Name, what, t.ID, v1alpha1.ConditionKeyConflict, r.f.Name, csr.ReissueCommand(r.f.Name))}
}

// replaced reports whether a decision is the approval of a key in whose place another one was approved with the same token.
func (r *report) replaced(d v1alpha1.CertificateDecision) bool {
	if r.f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide {
		return false
	}
	newest := ""
	for _, o := range r.new.Certificates {
		if o.TokenID == d.TokenID && claimsKey(o) && ofThisNode(o) {
			newest = o.KeyFingerprint
		}
	}
	return ofToken(d) && claimsKey(d) && ofThisNode(d) && d.KeyFingerprint != newest
}

// whyNotRevoked is the reason of the condition CertificateNotRevoked and what it says of the certificates that it lists.
func (r *report) whyNotRevoked(listed []v1alpha1.CertificateDecision) (reason, message string) {
	if slices.ContainsFunc(listed, func(d v1alpha1.CertificateDecision) bool { return !r.replaced(d) }) {
		return v1alpha1.ReasonIssuedBeforeRevocation, "a certificate was issued before its request could be revoked"
	}
	return v1alpha1.ReasonIssuedBeforeReplacement, "a certificate was issued for a key in whose place another one was approved"
}

// expirations names decisions with their keys and the ends of their certificates.
func expirations(listed []v1alpha1.CertificateDecision) string {
	var out []string
	for _, d := range listed {
		out = append(out, d.Name+" (key "+d.KeyFingerprint+", until "+d.ExpirationTime.UTC().Format(time.RFC3339)+")")
	}
	return strings.Join(out, "; ")
}
