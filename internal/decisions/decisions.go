// SPDX-License-Identifier: Apache-2.0

// Package decisions stores the decisions on the CSRs of a node: with each live token, as state, and in the log for people.
package decisions

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
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// status.tokens is state: which keys a live token is bound to, and how many CSRs were decided with it. status.certificates is a log.
// Record enters every decision into both.

const (
	// MaxCSRsPerToken bounds status.tokens[].csrs, in entries: twice MaxDecisionsPerToken, since approvals by others do not count towards
	// that. A full list takes no more, so that later CSRs never push out the key that the token is bound to.
	MaxCSRsPerToken = 16
	// maxKeyFingerprints bounds status.keyFingerprints, in entries. The oldest goes first.
	maxKeyFingerprints = 16
	// MaxTokenEntries bounds the entries of status.certificates for CSRs that were sent with a token. The oldest goes first.
	MaxTokenEntries = 12
	// MaxServingEntries bounds its entries for serving certificates. The oldest goes first.
	MaxServingEntries = 4
)

// ReasonApprovedElsewhere and ReasonDeniedElsewhere are the reasons of a decision by someone else: a person, or
// kube-controller-manager with approval ClusterWide.
const (
	ReasonApprovedElsewhere = "ApprovedElsewhere"
	ReasonDeniedElsewhere   = "DeniedElsewhere"
)

// ReasonTokenRevoked is the reason of the denial that a CSR gets before it is deleted because its token is revoked or unknown.
const ReasonTokenRevoked = "TokenRevoked"

// MaxDecisionsPerToken bounds the CSRs that are decided for one token. A kubelet sends one, or a few if it restarts while it joins. Later
// CSRs are ignored, so that a flood costs no writes.
const MaxDecisionsPerToken = 8

// ReasonTooManyRequests is the reason when one token, or one node, has sent more CSRs than the limit of decisions.
const ReasonTooManyRequests = "TooManyRequests"

// A kubelet with rotateCertificates keeps its key in memory until it has its certificate. If it exits after it has sent a CSR, for
// example because its container runtime is down, it sends another key after the restart. A thief who has the kubeconfig does the same.
// The difference is use: a restarted kubelet has lost its first key, so once a machine works as the node although the newest key was
// denied, two machines have the kubeconfig.

// ReasonTooManyKeys is the reason to ignore a CSR when the limit of decisions for its token is reached and a kubelet that restarts over
// and over explains all of them.
const ReasonTooManyKeys = "TooManyKeys"

// MisuseReasons are the reasons of decisions that are evidence of a misused token.
var MisuseReasons = []string{csr.ReasonWrongSubject, csr.ReasonWrongSigner, csr.ReasonKeyNotPinned, csr.ReasonSecondKey, ReasonTooManyRequests}

// Misuse reports whether the reason of a decision on a CSR that was sent with a token is such evidence.
func Misuse(reason string) bool { return slices.Contains(MisuseReasons, reason) }

// Evidence reports whether a log entry is such evidence.
func Evidence(d v1alpha1.CertificateDecision) bool { return d.TokenID != "" && Misuse(d.Reason) }

// LiveToken is the entry of a token in a status; nil if the status has none.
func LiveToken(s *v1alpha1.NodeBootstrapStatus, id string) *v1alpha1.LiveToken {
	i := slices.IndexFunc(s.Tokens, func(t v1alpha1.LiveToken) bool { return t.ID == id })
	if i < 0 {
		return nil
	}
	return &s.Tokens[i]
}

// MaxTokens is how many tokens a status names: the newest, and its predecessor, which expires after a renewal.
const MaxTokens = 2

// NameTokens adds tokens to those that a status names, and keeps the newest MaxTokens of them.
func NameTokens(s *v1alpha1.NodeBootstrapStatus, tokens []token.Token) {
	for _, t := range tokens {
		if LiveToken(s, t.ID) == nil {
			s.Tokens = append(s.Tokens, v1alpha1.LiveToken{ID: t.ID})
		}
	}
	s.Tokens = s.Tokens[max(0, len(s.Tokens)-MaxTokens):]
}

// SetTokens makes a status name these tokens and no others. The decisions stay with their token.
func SetTokens(s *v1alpha1.NodeBootstrapStatus, tokens []token.Token) {
	out := []v1alpha1.LiveToken{} // not nil, which would be a status of an earlier version
	for _, t := range tokens {
		entry := v1alpha1.LiveToken{ID: t.ID}
		if known := LiveToken(s, t.ID); known != nil {
			entry = *known
		}
		out = append(out, entry)
	}
	s.Tokens = out
}

// Decided is the decision on a CSR that was sent with a live token; nil if it has none.
func Decided(csrs []v1alpha1.DecidedCSR, uid types.UID) *v1alpha1.DecidedCSR {
	i := slices.IndexFunc(csrs, func(c v1alpha1.DecidedCSR) bool { return c.UID == uid })
	if i < 0 {
		return nil
	}
	return &csrs[i]
}

// BindsKey reports whether a decision approved a client certificate in the node's name without any objection, so that the token is bound
// to its key.
func BindsKey(c v1alpha1.DecidedCSR) bool {
	return c.Verdict == v1alpha1.VerdictApproved && c.KeyFingerprint != "" && !Misuse(c.Reason) && c.Reason != csr.ReasonKeyReplaced
}

// Record enters a decision into a status. A decision with a new verdict replaces the earlier one. A known decision, or one that a full
// log has dropped, changes nothing.
func Record(s *v1alpha1.NodeBootstrapStatus, d v1alpha1.CertificateDecision) {
	changed := false
	c := v1alpha1.DecidedCSR{Name: d.Name, UID: d.UID, KeyFingerprint: d.KeyFingerprint, Verdict: d.Verdict, Reason: d.Reason, Time: d.Time}
	if t := LiveToken(s, d.TokenID); t != nil {
		known := Decided(t.CSRs, d.UID)
		switch {
		case known == nil && len(t.CSRs) < MaxCSRsPerToken:
			at := len(t.CSRs)
			for at > 0 && t.CSRs[at-1].Time.After(c.Time.Time) { // the approval of a pinned key is recorded late
				at--
			}
			t.CSRs, changed = slices.Insert(t.CSRs, at, c), true
		case known != nil && known.Verdict != d.Verdict:
			*known, changed = c, true
		}
	}
	changed = Log(s, d) || changed
	if changed && InCurrentWait(s, d.TokenID, d.Time) {
		recordReplaced(s, d.TokenID, c)
	}
	if changed && d.Verdict == v1alpha1.VerdictApproved && d.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName {
		if d.KeyFingerprint != "" && !slices.Contains(s.KeyFingerprints, d.KeyFingerprint) {
			s.KeyFingerprints = append(s.KeyFingerprints, d.KeyFingerprint)
			s.KeyFingerprints = s.KeyFingerprints[max(0, len(s.KeyFingerprints)-maxKeyFingerprints):]
		}
		if BindsKey(c) && InCurrentWait(s, d.TokenID, d.Time) && (s.FirstApprovalTime == nil || d.Time.Before(s.FirstApprovalTime)) {
			s.FirstApprovalTime = &d.Time
		}
	}
}

// recordReplaced keeps the newest key while it is one that was denied because another one was approved. A key that was approved before and
// is sent again is no newer one: a thief may do so.
func recordReplaced(s *v1alpha1.NodeBootstrapStatus, tokenID string, c v1alpha1.DecidedCSR) {
	known := slices.Contains(s.KeyFingerprints, c.KeyFingerprint) && (s.ReplacedKey == nil || s.ReplacedKey.KeyFingerprint != c.KeyFingerprint)
	switch {
	case c.Verdict == v1alpha1.VerdictApproved && !Misuse(c.Reason) && !known:
		if s.ReplacedKey != nil && !s.ReplacedKey.Time.After(c.Time.Time) {
			s.ReplacedKey = nil
		}
	case c.Verdict != v1alpha1.VerdictApproved && (c.Reason == csr.ReasonKeyReplaced || c.Reason == ReasonTooManyKeys):
		s.ReplacedKey = &v1alpha1.SentKey{TokenID: tokenID, KeyFingerprint: c.KeyFingerprint, Name: c.Name, Time: c.Time}
	}
}

// InCurrentWait reports whether a certificate was issued in the current wait: to a live token, or to one that was renewed since then.
// Times are not enough, since they are whole seconds.
func InCurrentWait(s *v1alpha1.NodeBootstrapStatus, tokenID string, issued metav1.Time) bool {
	return LiveToken(s, tokenID) != nil || s.AwaitingSince != nil && issued.After(s.AwaitingSince.Time)
}

// MaxUnrevoked bounds status.unrevokedCertificates, in entries.
const MaxUnrevoked = 8

// RecordUnrevoked enters a certificate that is valid but should not be.
func RecordUnrevoked(s *v1alpha1.NodeBootstrapStatus, r *certificatesv1.CertificateSigningRequest, reason string) {
	if slices.ContainsFunc(s.UnrevokedCertificates, func(c v1alpha1.UnrevokedCertificate) bool { return c.UID == r.UID }) {
		return
	}
	key, _ := csr.Fingerprint(r)
	expires, err := csr.Expires(r)
	if err != nil { // it cannot be parsed: the latest possible time
		approved, _ := csr.ApprovedAt(r)
		expires = approved.Add(csr.MaxLife)
	}
	s.UnrevokedCertificates = append(s.UnrevokedCertificates, v1alpha1.UnrevokedCertificate{
		Name: r.Name, UID: r.UID, KeyFingerprint: key, Reason: reason, ExpirationTime: metav1.NewTime(expires.Truncate(time.Second))})
	slices.SortFunc(s.UnrevokedCertificates, func(a, b v1alpha1.UnrevokedCertificate) int {
		return cmp.Or(a.ExpirationTime.Compare(b.ExpirationTime.Time), strings.Compare(a.Name, b.Name))
	})
	s.UnrevokedCertificates = s.UnrevokedCertificates[max(0, len(s.UnrevokedCertificates)-MaxUnrevoked):]
}
