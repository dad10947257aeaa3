// SPDX-License-Identifier: Apache-2.0

package decisions

import (
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// Decisions of other clients on the node's CSRs, as the conditions of the CSRs report them.

// maxMessage bounds the message of a decision, in characters. The CRD has the same limit.
const maxMessage = 256

// Shortened cuts a message to maxMessage characters.
func Shortened(message string) string {
	runes := []rune(strings.ToValidUTF8(message, ""))
	if len(runes) <= maxMessage {
		return string(runes)
	}
	const dots = "..."
	return string(runes[:maxMessage-len(dots)]) + dots
}

// approvalReason is the reason of an approval that is not in the log yet: the operator's own if the condition has it, for example after
// the NodeBootstrap was deleted and created again.
func approvalReason(r *certificatesv1.CertificateSigningRequest) string {
	if c := csr.Condition(r, certificatesv1.CertificateApproved); c != nil && c.Reason == csr.ReasonKubeletClient {
		return c.Reason
	}
	return ReasonApprovedElsewhere
}

// RecordDenied enters the CSRs for client certificates that were sent with a live token and that someone else has denied, in the order of
// the denials. The operator records its own denials before it carries them out. For one token it enters at most MaxDecisionsPerToken.
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

// DeniedByUs reports whether the operator denied a CSR, by its condition: the log has the decision too, but a full log drops denials.
func DeniedByUs(r *certificatesv1.CertificateSigningRequest) bool {
	c := csr.Condition(r, certificatesv1.CertificateDenied)
	return c != nil && (csr.DeniesClient(c.Reason) || c.Reason == ReasonTokenRevoked)
}
