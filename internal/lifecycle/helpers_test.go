// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"time"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
)

// claimOf is the key that was first approved with a token, and when.
func claimOf(f *lifecycle.Facts, tokenID string) (string, time.Time) {
	for _, c := range lifecycle.ClaimsOf(f, tokenID, nil) {
		return c.Key(), c.At()
	}
	return "", time.Time{}
}

func recorded(age time.Duration, n int) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) {
		f.NodeBootstrap.Status.Certificates = []v1alpha1.CertificateDecision{nodetest.ApprovedDecision("csr-a", n, age)}
	}
}

func denied(age time.Duration) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) {
		f.NodeBootstrap.Status.Certificates = []v1alpha1.CertificateDecision{nodetest.DeniedDecision("csr-a", 1, age)}
	}
}
