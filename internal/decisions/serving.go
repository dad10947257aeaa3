// SPDX-License-Identifier: Apache-2.0

package decisions

import (
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// RecordServing enters the CSRs for serving certificates that any client decided since a time into the log.
func RecordServing(s *v1alpha1.NodeBootstrapStatus, requests []*certificatesv1.CertificateSigningRequest, since time.Time) {
	var found []v1alpha1.CertificateDecision
	for _, r := range requests {
		if d, ok := servingDecision(r); ok && !d.Time.Time.Before(since) {
			found = append(found, d)
		}
	}
	slices.SortFunc(found, byTime) // a cache lists them in any order
	for _, d := range found[max(0, len(found)-MaxServingEntries):] {
		Log(s, d)
	}
}

// servingDecision is the decision in the conditions of a CSR.
func servingDecision(r *certificatesv1.CertificateSigningRequest) (v1alpha1.CertificateDecision, bool) {
	if c := csr.Condition(r, certificatesv1.CertificateApproved); c != nil {
		reason := ReasonApprovedElsewhere
		if c.Reason == csr.ReasonKubeletServing {
			reason = c.Reason
		}
		return entry(r, v1alpha1.VerdictApproved, reason, csr.ConditionTime(c)), true
	}
	if c := csr.Condition(r, certificatesv1.CertificateDenied); c != nil {
		reason := ReasonDeniedElsewhere
		if csr.DeniesServing(c.Reason) {
			reason = c.Reason
		}
		d := entry(r, v1alpha1.VerdictDenied, reason, csr.ConditionTime(c))
		d.Message = Shortened(c.Message)
		return d, true
	}
	return v1alpha1.CertificateDecision{}, false
}
