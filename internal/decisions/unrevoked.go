// SPDX-License-Identifier: Apache-2.0

package decisions

import (
	"cmp"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// MaxUnrevoked bounds status.unrevokedCertificates, in entries.
const MaxUnrevoked = 8

// RecordUnrevoked enters a certificate that is valid but should not be.
func RecordUnrevoked(s *v1alpha1.NodeBootstrapStatus, r *certificatesv1.CertificateSigningRequest, reason string) {
	if slices.ContainsFunc(s.UnrevokedCertificates, func(c v1alpha1.UnrevokedCertificate) bool { return c.UID == r.UID }) {
		return
	}
	key, _ := csr.Fingerprint(r)
	s.UnrevokedCertificates = append(s.UnrevokedCertificates, v1alpha1.UnrevokedCertificate{
		Name: r.Name, UID: r.UID, KeyFingerprint: key, Reason: reason, ExpirationTime: expiry(r)})
	slices.SortFunc(s.UnrevokedCertificates, func(a, b v1alpha1.UnrevokedCertificate) int {
		return cmp.Or(a.ExpirationTime.Compare(b.ExpirationTime.Time), strings.Compare(a.Name, b.Name))
	})
	s.UnrevokedCertificates = s.UnrevokedCertificates[max(0, len(s.UnrevokedCertificates)-MaxUnrevoked):]
}

// expiry is when a certificate expires; if it cannot be parsed, the latest possible time.
func expiry(r *certificatesv1.CertificateSigningRequest) metav1.Time {
	at, err := csr.Expires(r)
	if err != nil {
		approved, _ := csr.ApprovedAt(r)
		at = approved.Add(csr.MaxLife)
	}
	return metav1.NewTime(at.Truncate(time.Second))
}
