// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
)

// A pinned key is the claim on the node's certificate, and the spec has it before any CSR is sent. So the verdict rests on the spec and the
// CSR alone: nothing is written before the approval, no other CSR sent with the token counts, and misuse of the token revokes nothing.

// pinned is the fingerprint of the node's pinned key; empty if none is pinned.
func (f *Facts) pinned() string {
	if f.NodeBootstrap == nil {
		return ""
	}
	return f.NodeBootstrap.Spec.PinnedKey()
}

// hasPinnedKey reports whether a CSR for a kubelet's client certificate has the node's pinned key.
func (f *Facts) hasPinnedKey(r *certificatesv1.CertificateSigningRequest) bool {
	if f.pinned() == "" || r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return false
	}
	key, err := csr.Fingerprint(r)
	return err == nil && key == f.pinned()
}

// pinnedTwice is why a key that several NodeBootstraps pin is approved for none of them; nil if it is not pinned elsewhere.
func pinnedTwice(f *Facts) *problem.Problem {
	if len(f.PinnedElsewhere) == 0 {
		return nil
	}
	return &problem.Problem{Reason: v1alpha1.ReasonKeyPinnedTwice, Message: fmt.Sprintf("the key %s in spec.clientCertificate.keyFingerprint is also pinned by %s: "+
		"each machine has a key of its own, so no certificate is approved for any of them. Correct or remove the fingerprint in all but one of them",
		f.pinned(), strings.Join(f.PinnedElsewhere, ", "))}
}

// ApprovesPinned reports whether the approval of a CSR with the pinned key still holds for the NodeBootstrap as the API server has it now.
func ApprovesPinned(decided, live *v1alpha1.NodeBootstrap, d Decision) bool {
	f := Facts{NodeBootstrap: live}
	return live.UID == decided.UID && live.Spec.PinnedKey() == d.Record.KeyFingerprint && live.Spec.ApprovalMode() == v1alpha1.ApprovalNode && !f.reissueDue()
}

// pinnedWaits reports whether the record of the approval of a pinned key is delayed, and until when: usually one write records it together
// with the join.
func (f *Facts) pinnedWaits(r *certificatesv1.CertificateSigningRequest, now time.Time) (time.Time, bool) {
	at, approved := csr.ApprovedAt(r)
	if !approved || !decisions.ApprovedByUs(r) || decisions.Find(f.NodeBootstrap.Status.Certificates, r.UID) >= 0 || !f.hasPinnedKey(r) {
		return time.Time{}, false
	}
	until := at.Add(JoinSoon)
	return until, now.Before(until)
}
