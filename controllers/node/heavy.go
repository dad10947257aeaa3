// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
)

// heavyRetry is the approximate delay of a reconcile with large objects while another one runs.
const heavyRetry = 500 * time.Millisecond

// isHeavy reports whether a reconcile can read or write a large object, by the facts read so far and by the cache.
func (r *Reconciler) isHeavy(ctx context.Context, f *lifecycle.Facts) bool {
	if f.NodeBootstrap != nil && objects.IsLarge(f.NodeBootstrap) || f.Kubeconfig != nil && objects.IsLarge(f.Kubeconfig) ||
		slices.ContainsFunc(f.TokenSecrets, func(s *corev1.Secret) bool { return objects.IsLarge(s) }) || slices.ContainsFunc(f.Requests, isLargePending) {
		return true
	}
	if f.NodeBootstrap == nil {
		return false
	}
	if node, err := objects.Find(ctx, r.Client, "", f.Name, objects.NodeMetadata()); err == nil && node != nil && objects.IsLarge(node) {
		return true
	}
	var serving certificatesv1.CertificateSigningRequestList
	if len(f.NodeBootstrap.Spec.ServingCertificate.Addresses) == 0 || r.Client.List(ctx, &serving, client.MatchingFields{objects.IndexServing: f.Name}) != nil {
		return false // gatherServing returns the error
	}
	return slices.ContainsFunc(serving.Items, func(r certificatesv1.CertificateSigningRequest) bool { return isLargePending(&r) })
}

func isLargePending(r *certificatesv1.CertificateSigningRequest) bool {
	return objects.IsLarge(r) && !csr.Settled(r)
}
