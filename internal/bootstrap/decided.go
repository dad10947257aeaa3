// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"cmp"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// status.tokens is state: which keys a live token is bound to, and how much was decided with it. status.certificates is a log.
// Every decision enters both through recordDecision.

const (
	// maxCSRsPerToken bounds status.tokens[].csrs, in entries: twice maxDecisionsPerToken, since approvals by others do not count
	// towards that. A full list takes no more, so that nothing that was sent later pushes out the key that the token is bound to.
	maxCSRsPerToken = 16
	// maxKeyFingerprints bounds status.keyFingerprints, in entries. The oldest goes first.
	maxKeyFingerprints = 16
	// maxTokenEntries and maxServingEntries bound status.certificates: its entries about CSRs that were sent with a token, and about
	// serving certificates. The oldest of a kind goes first.
	maxTokenEntries   = 12
	maxServingEntries = 4
)

// reasonApprovedElsewhere and reasonDeniedElsewhere are the reasons of a decision by someone else: a person, or
// kube-controller-manager with approval ClusterWide.
const (
	reasonApprovedElsewhere = "ApprovedElsewhere"
	reasonDeniedElsewhere   = "DeniedElsewhere"
)

// MisuseReasons are those of decisions that are evidence that a token is in wrong hands.
var MisuseReasons = []string{csr.ReasonWrongSubject, csr.ReasonWrongSigner, csr.ReasonSecondKey, ReasonTooManyRequests}

// Misuse reports whether a reason of a decision on a CSR that was sent with a token is such evidence.
func Misuse(reason string) bool { return slices.Contains(MisuseReasons, reason) }

// Evidence reports whether an entry of the log is such evidence.
func Evidence(d v1alpha1.CertificateDecision) bool { return d.TokenID != "" && Misuse(d.Reason) }

// liveToken is the entry of a token in a status; nil when there is none.
func liveToken(s *v1alpha1.NodeBootstrapStatus, id string) *v1alpha1.LiveToken {
	i := slices.IndexFunc(s.Tokens, func(t v1alpha1.LiveToken) bool { return t.ID == id })
	if i < 0 {
		return nil
	}
	return &s.Tokens[i]
}

// maxTokens is how many tokens a status names: the newest, and its predecessor, which renewal left to expire.
const maxTokens = 2

// nameTokens has a status name tokens, besides those that it names, and of more than maxTokens the newest.
func nameTokens(s *v1alpha1.NodeBootstrapStatus, tokens []Token) {
	for _, t := range tokens {
		if liveToken(s, t.ID) == nil {
			s.Tokens = append(s.Tokens, v1alpha1.LiveToken{ID: t.ID})
		}
	}
	s.Tokens = s.Tokens[max(0, len(s.Tokens)-maxTokens):]
}

// setTokens has a status name tokens and no others. The decisions stay with their token.
func setTokens(s *v1alpha1.NodeBootstrapStatus, tokens []Token) {
	out := []v1alpha1.LiveToken{} // not nil, which would be a status of an earlier version
	for _, t := range tokens {
		entry := v1alpha1.LiveToken{ID: t.ID}
		if known := liveToken(s, t.ID); known != nil {
			entry = *known
		}
		out = append(out, entry)
	}
	s.Tokens = out
}

// decidedWith are the CSRs that were sent with a token and have a decision in the status.
func (f *Facts) decidedWith(tokenID string) []v1alpha1.DecidedCSR {
	if t := liveToken(&f.NodeBootstrap.Status, tokenID); t != nil {
		return t.CSRs
	}
	return nil
}

// decidedCSR is the decision on a CSR that was sent with a live token; nil when there is none.
func decidedCSR(csrs []v1alpha1.DecidedCSR, uid types.UID) *v1alpha1.DecidedCSR {
	i := slices.IndexFunc(csrs, func(c v1alpha1.DecidedCSR) bool { return c.UID == uid })
	if i < 0 {
		return nil
	}
	return &csrs[i]
}

// bindsKey reports whether a decision is the approval of a client certificate in the node's name that nothing is held against, so
// that the token is bound to its key.
func bindsKey(c v1alpha1.DecidedCSR) bool {
	return c.Verdict == v1alpha1.VerdictApproved && c.KeyFingerprint != "" && !Misuse(c.Reason) && c.Reason != csr.ReasonKeyReplaced
}

// recordDecision enters a decision into a status. A decision with another verdict than before replaces the earlier one. One that is known,
// or that a full log has dropped, changes nothing.
func recordDecision(s *v1alpha1.NodeBootstrapStatus, d v1alpha1.CertificateDecision) {
	changed := false
	c := v1alpha1.DecidedCSR{Name: d.Name, UID: d.UID, KeyFingerprint: d.KeyFingerprint, Verdict: d.Verdict, Reason: d.Reason, Time: d.Time}
	if t := liveToken(s, d.TokenID); t != nil {
		known := decidedCSR(t.CSRs, d.UID)
		switch {
		case known == nil && len(t.CSRs) < maxCSRsPerToken:
			t.CSRs, changed = append(t.CSRs, c), true
		case known != nil && known.Verdict != d.Verdict:
			*known, changed = c, true
		}
	}
	changed = logDecision(s, d) || changed
	if changed && d.Verdict == v1alpha1.VerdictApproved && d.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName {
		recordKey(s, d.KeyFingerprint)
		if bindsKey(c) && inPresentWait(s, d.TokenID, d.Time) && (s.FirstApprovalTime == nil || d.Time.Before(s.FirstApprovalTime)) {
			s.FirstApprovalTime = &d.Time
		}
	}
}

func recordKey(s *v1alpha1.NodeBootstrapStatus, key string) {
	if key != "" && !slices.Contains(s.KeyFingerprints, key) {
		s.KeyFingerprints = append(s.KeyFingerprints, key)
		s.KeyFingerprints = s.KeyFingerprints[max(0, len(s.KeyFingerprints)-maxKeyFingerprints):]
	}
}

// logDecision enters a decision into the log. Of each kind the newest entries stay: what a full log has dropped does not come back.
func logDecision(s *v1alpha1.NodeBootstrapStatus, d v1alpha1.CertificateDecision) (changed bool) {
	if i := decisionOn(s.Certificates, d.UID); i >= 0 {
		if changed = s.Certificates[i].Verdict != d.Verdict; changed {
			s.Certificates[i] = d
		}
		return changed
	}
	at := len(s.Certificates)
	for at > 0 && s.Certificates[at-1].Time.After(d.Time.Time) {
		at--
	}
	s.Certificates = slices.Insert(s.Certificates, at, d)
	most, oldest, kind := maxTokenEntries, -1, 0
	if ofServing(d) {
		most = maxServingEntries
	}
	for i, o := range s.Certificates {
		if ofServing(o) != ofServing(d) {
			continue
		}
		kind++
		if oldest < 0 || byTime(o, s.Certificates[oldest]) < 0 {
			oldest = i
		}
	}
	if kind <= most {
		return true
	}
	dropped := s.Certificates[oldest].UID
	s.Certificates = slices.Delete(s.Certificates, oldest, oldest+1)
	return dropped != d.UID
}

func byTime(a, b v1alpha1.CertificateDecision) int {
	return cmp.Or(a.Time.Compare(b.Time.Time), strings.Compare(a.Name, b.Name))
}

// decisionOn is the index of the decision on a CSR in a log, or -1.
func decisionOn(log []v1alpha1.CertificateDecision, uid types.UID) int {
	return slices.IndexFunc(log, func(d v1alpha1.CertificateDecision) bool { return d.UID == uid })
}

// NewDecisions are those in the log of one status that an older one does not have.
func NewDecisions(old, new *v1alpha1.NodeBootstrapStatus) []v1alpha1.CertificateDecision {
	return slices.DeleteFunc(slices.Clone(new.Certificates), func(d v1alpha1.CertificateDecision) bool { return decisionOn(old.Certificates, d.UID) >= 0 })
}

func ofServing(d v1alpha1.CertificateDecision) bool {
	return d.SignerName == certificatesv1.KubeletServingSignerName && d.TokenID == ""
}

// ofThisNode reports whether an entry of the log is about a client certificate in the node's name.
func ofThisNode(d v1alpha1.CertificateDecision) bool {
	return d.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName && !Misuse(d.Reason)
}

// entry is the log entry of a CSR that has a decision.
func entry(r *certificatesv1.CertificateSigningRequest, verdict v1alpha1.Verdict, reason string, at metav1.Time) v1alpha1.CertificateDecision {
	key, _ := csr.Fingerprint(r)
	return v1alpha1.CertificateDecision{
		Name: r.Name, UID: r.UID, SignerName: r.Spec.SignerName, TokenID: TokenIDOfUser(r.Spec.Username),
		KeyFingerprint: key, Verdict: verdict, Reason: reason, Time: at,
	}
}

// joinSoon is how long a node takes from its certificate to its first Lease, usually: until then the log entry waits, since the write
// that reports the join has both.
const joinSoon = 15 * time.Second

// recordWaits reports whether the log entry that a CSR which the operator approved has its certificate can wait for the node to
// join, at a time, and until when.
func (f *Facts) recordWaits(r *certificatesv1.CertificateSigningRequest, now time.Time) (time.Time, bool) {
	at, approved := approvedAt(r)
	until := at.Add(joinSoon)
	i := decisionOn(f.NodeBootstrap.Status.Certificates, r.UID)
	return until, approved && issued(r) && now.Before(until) && i >= 0 &&
		f.NodeBootstrap.Status.Certificates[i].Verdict == v1alpha1.VerdictApproved && f.NodeBootstrap.Status.Certificates[i].IssuedTime == nil
}

// recordIssued enters which of the node's CSRs have their certificate, whoever approved them, in the order of their creation.
func recordIssued(s *v1alpha1.NodeBootstrapStatus, requests []*certificatesv1.CertificateSigningRequest) {
	for _, r := range slices.SortedFunc(slices.Values(requests), byCreation) {
		at, approved := approvedAt(r)
		if !approved || !issued(r) {
			continue
		}
		if i := decisionOn(s.Certificates, r.UID); i >= 0 {
			if s.Certificates[i].IssuedTime == nil {
				s.Certificates[i].IssuedTime = &at
			}
			continue
		}
		d := entry(r, v1alpha1.VerdictApproved, approvalReason(r), at)
		d.IssuedTime = &at
		recordDecision(s, d)
	}
}

// recordOvertaken corrects the decisions on CSRs that were to be denied, or ignored, and that someone else approved before: a
// certificate is issued, and the status must not say otherwise. The reason stays if it is evidence, or that of a second key.
func recordOvertaken(s *v1alpha1.NodeBootstrapStatus, requests []*certificatesv1.CertificateSigningRequest) {
	for _, r := range requests {
		i := decisionOn(s.Certificates, r.UID)
		if _, approved := approvedAt(r); !approved || i < 0 || s.Certificates[i].Verdict == v1alpha1.VerdictApproved {
			continue
		}
		d := s.Certificates[i]
		d.Verdict = v1alpha1.VerdictApproved
		if !Evidence(d) && d.Reason != csr.ReasonKeyReplaced {
			d.Reason = reasonApprovedElsewhere
		}
		recordDecision(s, d)
	}
}
