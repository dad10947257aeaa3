// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// A status of an earlier version has no status.tokens: its log was the state. The same is read if an older CustomResourceDefinition is
// installed, because the API server then drops the new fields.

// UpgradeStatus replaces the status in the facts with the one that this version would have written. The stored status stays until
// something changes.
func (f *Facts) UpgradeStatus() {
	s := f.NodeBootstrap.Status
	joined := s.AwaitingSince == nil && s.ObservedGeneration != 0
	awaited := s.Tokens == nil && !joined && (s.Token != nil || slices.ContainsFunc(s.Certificates, func(d v1alpha1.CertificateDecision) bool { return d.TokenID != "" }))
	keys := len(s.KeyFingerprints) == 0 && slices.ContainsFunc(s.Certificates, claimsKey)
	unrevoked := len(s.UnrevokedCertificates) == 0 && slices.ContainsFunc(s.Certificates, func(d v1alpha1.CertificateDecision) bool { return d.ExpirationTime != nil })
	if !awaited && !keys && !unrevoked {
		return
	}
	f.NodeBootstrap = f.NodeBootstrap.DeepCopy()
	status := &f.NodeBootstrap.Status
	keyFingerprints := ClaimedKeys(f.NodeBootstrap)
	if awaited {
		status.KeyFingerprints = nil // the decisions are recorded again in their order
		f.upgradeTokens(status)
	}
	status.KeyFingerprints = keyFingerprints
	if !unrevoked {
		return
	}
	for _, d := range status.Certificates {
		if d.ExpirationTime != nil {
			status.UnrevokedCertificates = append(status.UnrevokedCertificates, v1alpha1.UnrevokedCertificate{
				Name: d.Name, UID: d.UID, KeyFingerprint: d.KeyFingerprint, Reason: v1alpha1.ReasonIssuedBeforeRevocation, ExpirationTime: *d.ExpirationTime})
		}
	}
	status.UnrevokedCertificates = status.UnrevokedCertificates[max(0, len(status.UnrevokedCertificates)-decisions.MaxUnrevoked):]
}

// upgradeTokens adds the existing tokens to the status, except for those with which the node joined before the current wait.
func (f *Facts) upgradeTokens(s *v1alpha1.NodeBootstrapStatus) {
	tokens := slices.DeleteFunc(f.tokens(), func(t token.Token) bool {
		return slices.ContainsFunc(s.Certificates, func(d v1alpha1.CertificateDecision) bool {
			return d.TokenID == t.ID && d.IssuedTime != nil && decisions.OfThisNode(d) && d.IssuedTime.Before(s.AwaitingSince)
		})
	})
	decisions.SetTokens(s, tokens[max(0, len(tokens)-decisions.MaxTokens):])
	if s.Token != nil && f.TokenSecret(token.SecretName(s.Token.ID)) == nil { // the cache does not show it yet
		s.Tokens = append(s.Tokens[max(0, len(s.Tokens)-1):], v1alpha1.LiveToken{ID: s.Token.ID})
	}
	log := s.Certificates
	for _, d := range log { // in an earlier version, evidence in the log can be the only trace of a token
		if s.LastTokenID != "" && token.Follows(f.NodeBootstrap.UID, d.TokenID, s.LastTokenID) {
			s.LastTokenID = d.TokenID
		}
	}
	s.Certificates = nil
	for _, d := range log {
		if d.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName || decisions.Misuse(d.Reason) {
			decisions.Record(s, d)
		}
	}
	s.Certificates = log
	for _, d := range log {
		if decisions.OfThisNode(d) && d.IssuedTime != nil && decisions.InCurrentWait(s, d.TokenID, *d.IssuedTime) {
			proof := metav1.NewTime(d.IssuedTime.Add(f.proofDelay(&v1alpha1.DecidedCSR{Verdict: d.Verdict, Reason: d.Reason, Time: d.Time})))
			if s.JoinProofTime == nil || proof.Before(s.JoinProofTime) {
				s.JoinProofTime = &proof
			}
		}
	}
}

// ClaimedKeys are the fingerprints of the keys for which client certificates were approved in a node's name.
func ClaimedKeys(nb *v1alpha1.NodeBootstrap) []string {
	if len(nb.Status.KeyFingerprints) > 0 {
		return nb.Status.KeyFingerprints
	}
	var out []string
	for _, d := range nb.Status.Certificates {
		if claimsKey(d) && !slices.Contains(out, d.KeyFingerprint) {
			out = append(out, d.KeyFingerprint)
		}
	}
	return out
}

// claimsKey reports whether a decision approved a client certificate for a key.
func claimsKey(d v1alpha1.CertificateDecision) bool {
	return d.KeyFingerprint != "" && d.Verdict == v1alpha1.VerdictApproved && d.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName
}
