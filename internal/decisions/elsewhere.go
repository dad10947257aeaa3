// SPDX-License-Identifier: Apache-2.0

package decisions

import (
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// What other people and programs decide about the node's requests, as the conditions of the requests tell it.

// maxMessage bounds the message of a decision in characters, as the CRD does.
const maxMessage = 256

// Shortened is a message with at most maxMessage characters.
func Shortened(message string) string {
	runes := []rune(strings.ToValidUTF8(message, ""))
	if len(runes) <= maxMessage {
		return string(runes)
	}
	const dots = "..."
	return string(runes[:maxMessage-len(dots)]) + dots
}

// approvalReason is the recorded reason of an approval that the record does not have yet: the operator's own if the condition says
// so, as after the NodeBootstrap was deleted and created again.
func approvalReason(r *certificatesv1.CertificateSigningRequest) string {
	if c := csr.Condition(r, certificatesv1.CertificateApproved); c != nil && c.Reason == csr.ReasonKubeletClient {
		return c.Reason
	}
	return ReasonApprovedElsewhere
}

// RecordDenied enters the CSRs for client certificates that were sent with a live token and that someone else has denied, in the order
// of the denials. The operator's own denials are recorded before they are carried out. Of one token no more are entered than decisions
// are made.
func RecordDenied(s *v1alpha1.NodeBootstrapStatus, requests []*certificatesv1.CertificateSigningRequest) {
	var found []v1alpha1.CertificateDecision
	for _, r := range requests {
		if d, ok := deniedElsewhere(r); ok {
			found = append(found, d)
		}
	}
	slices.SortFunc(found, byTime)
	for _, d := range found {
		if t := LiveToken(s, d.TokenID); t != nil && Decided(t.CSRs, d.UID) == nil && len(t.CSRs) < MaxDecisionsPerToken {
			Record(s, d)
		}
	}
}

func deniedElsewhere(r *certificatesv1.CertificateSigningRequest) (v1alpha1.CertificateDecision, bool) {
	c := csr.Condition(r, certificatesv1.CertificateDenied)
	if c == nil || r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName || DeniedByUs(r) {
		return v1alpha1.CertificateDecision{}, false
	}
	d := entry(r, v1alpha1.VerdictDenied, ReasonDeniedElsewhere, csr.ConditionTime(c))
	d.Message = Shortened(c.Message)
	return d, true
}

// DeniedByUs reports whether the operator denied a request. It records its decisions before it carries them out, and a full record
// forgets denials.
func DeniedByUs(r *certificatesv1.CertificateSigningRequest) bool {
	c := csr.Condition(r, certificatesv1.CertificateDenied)
	return c != nil && (csr.DeniesClient(c.Reason) || c.Reason == ReasonTokenRevoked)
}
