// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"cmp"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Condition returns the condition of a type; nil if the CSR has none.
func Condition(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequestCondition {
	i := slices.IndexFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == t })
	if i < 0 {
		return nil
	}
	return &r.Status.Conditions[i]
}

// Issued reports whether a CSR has its certificate.
func Issued(r *certificatesv1.CertificateSigningRequest) bool { return len(r.Status.Certificate) > 0 }

// ApprovedAt returns when a CSR was approved, and whether it was.
func ApprovedAt(r *certificatesv1.CertificateSigningRequest) (metav1.Time, bool) {
	c := Condition(r, certificatesv1.CertificateApproved)
	if c == nil {
		return metav1.Time{}, false
	}
	return ConditionTime(c), true
}

// IsApproved reports whether a CSR was approved.
func IsApproved(r *certificatesv1.CertificateSigningRequest) bool {
	return Condition(r, certificatesv1.CertificateApproved) != nil
}

// ConditionTime is when a verdict was stored, by the API server's clock: "kubectl certificate approve" sets lastUpdateTime by
// the clock of whoever runs it, and leaves lastTransitionTime to the API server.
func ConditionTime(c *certificatesv1.CertificateSigningRequestCondition) metav1.Time {
	if c.LastTransitionTime.IsZero() {
		return c.LastUpdateTime
	}
	return c.LastTransitionTime
}

// Undecided reports whether a CSR has no verdict yet.
func Undecided(r *certificatesv1.CertificateSigningRequest) bool {
	return Condition(r, certificatesv1.CertificateApproved) == nil &&
		Condition(r, certificatesv1.CertificateDenied) == nil &&
		Condition(r, certificatesv1.CertificateFailed) == nil
}

// Settled reports whether a CSR is final: it has its certificate, was denied, or failed.
func Settled(r *certificatesv1.CertificateSigningRequest) bool {
	return Issued(r) || Condition(r, certificatesv1.CertificateDenied) != nil || Condition(r, certificatesv1.CertificateFailed) != nil
}

// NewestFirst orders CSRs by their creation, and by name within a second.
func NewestFirst(requests []*certificatesv1.CertificateSigningRequest) []*certificatesv1.CertificateSigningRequest {
	return slices.SortedFunc(slices.Values(requests), func(a, b *certificatesv1.CertificateSigningRequest) int { return -ByCreation(a, b) })
}

// ByCreation orders CSRs by their creation, and by name within a second.
func ByCreation(a, b *certificatesv1.CertificateSigningRequest) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
}
