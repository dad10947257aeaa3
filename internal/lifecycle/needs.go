// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// From the facts that it has read so far, gather finds out here what else to read.

// NeedsLive reports whether uncached reads of the Node and its Lease are needed to know whether the node has joined. Doing them in every
// reconcile would cost two API requests each, and watching Leases would give one event per node every ten seconds.
func (f *Facts) NeedsLive() bool {
	return f.NodeBootstrap != nil && f.Node != nil && (!f.reissueDue() || f.reissueOlder()) && !f.joinedBefore()
}

// KeysToDecide are the fingerprints of the keys in the undecided CSRs for client certificates.
func KeysToDecide(requests []*certificatesv1.CertificateSigningRequest) []string {
	var out []string
	for _, r := range requests {
		if !csr.Undecided(r) || r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
			continue
		}
		if key, err := csr.Fingerprint(r); err == nil && !slices.Contains(out, key) {
			out = append(out, key)
		}
	}
	return out
}

// AllDecided reports whether every CSR has a verdict.
func AllDecided(requests []*certificatesv1.CertificateSigningRequest) bool {
	return !slices.ContainsFunc(requests, csr.Undecided)
}

// AddressesToDecide are the keys of the addresses in the CSRs that may be decided.
func AddressesToDecide(requests []*certificatesv1.CertificateSigningRequest) []string {
	var out []string
	for _, r := range newestUndecided(requests) {
		for _, a := range csr.RequestedAddresses(r) {
			if key := a.Key(); !slices.Contains(out, key) {
				out = append(out, key)
			}
		}
	}
	return out
}
