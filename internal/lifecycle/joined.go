// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// joined reports whether the node is a member of the cluster and needs no credential. A Node proves nothing: an administrator may have
// created it in advance, and on a reinstall it is still the old one. If a kubelet works as the node, it was a member already, or has
// joined in another way.
func (f *Facts) joined() bool {
	switch {
	case f.Node == nil || f.reissueDue():
		return false
	case f.joinedBefore() || f.certificateUsed():
		return true
	default:
		return f.kubeletWorks() && (!f.awaitingReissue() || f.Node.UID != f.NodeBootstrap.Status.NodeUID)
	}
}

// joinedBefore reports whether the status reports the current Node as joined.
func (f *Facts) joinedBefore() bool {
	s := f.NodeBootstrap.Status
	joined := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionJoined)
	return s.AwaitingSince == nil && joined != nil && joined.Status == metav1.ConditionTrue && s.NodeUID == f.Node.UID
}

// kubeletWorks reports whether a kubelet has reported in the Node's status and has renewed its Lease since the Node was created. Whoever
// can create Nodes can fill in the status, and the Lease of a deleted Node stays for a moment.
func (f *Facts) kubeletWorks() bool {
	return f.NodeReported && !f.LeaseRenewed.IsZero() && !f.LeaseRenewed.Before(f.Node.CreationTimestamp.Time)
}

// firstLease is how long after its Node a kubelet's first Lease can come: a kubelet renews it every 10 seconds, and the Lease lasts for
// 40 (nodeLeaseDurationSeconds).
const firstLease = 40 * time.Second

// mayBeMember reports whether a kubelet has reported as a new Node whose first Lease is still missing. A member gets no credential, so
// none is created until then.
func (f *Facts) mayBeMember(now time.Time) bool {
	return f.Node != nil && f.NodeReported && !f.kubeletWorks() && !f.reissueDue() && !f.awaitingReissue() && now.Before(f.Node.CreationTimestamp.Add(firstLease))
}

// certificateUsed reports whether the node has used a certificate that was issued to it in the current wait: its Lease was renewed after
// the approval. A Node created after the approval proves nothing: an administrator may have created it while the CSR was pending.
func (f *Facts) certificateUsed() bool {
	proof := f.JoinProof(&f.NodeBootstrap.Status, f.Requests)
	return proof != nil && !f.LeaseRenewed.Before(proof.Time)
}

// JoinProof is the time from which a renewal of the node's Lease proves that the node uses a certificate that was issued in the current
// wait, by a status and some CSRs; nil while none was issued. A renewal in the second of the approval may have come before it: times of
// conditions are whole seconds.
func (f *Facts) JoinProof(s *v1alpha1.NodeBootstrapStatus, requests []*certificatesv1.CertificateSigningRequest) *metav1.Time {
	proof := s.JoinProofTime
	add := func(at time.Time) {
		if proof == nil || at.Before(proof.Time) {
			proof = &metav1.Time{Time: at}
		}
	}
	for _, r := range requests {
		at, approved := csr.ApprovedAt(r)
		if approved && csr.Issued(r) && f.Concerns(r) && decisions.InCurrentWait(s, token.IDOfUser(r.Spec.Username), at) {
			add(at.Add(f.proofDelay(decisions.Decided(f.DecidedWith(token.IDOfUser(r.Spec.Username)), r.UID))))
		}
	}
	for _, t := range s.Tokens {
		for _, c := range t.CSRs {
			exists := slices.ContainsFunc(f.Requests, func(r *certificatesv1.CertificateSigningRequest) bool { return r.UID == c.UID })
			if decisions.BindsKey(c) && !exists { // it was issued while the operator did not run
				add(c.Time.Add(approvedRequestLife + time.Second))
			}
		}
	}
	return proof
}

// approvedRequestLife is how long kube-controller-manager leaves an approved CSR before it deletes it
// (pkg/controller/certificates/cleaner).
const approvedRequestLife = time.Hour

// lastIssued is about when a certificate was last issued to the node in the current wait; zero if never.
func (f *Facts) lastIssued() time.Time {
	var last time.Time
	if proof := f.NodeBootstrap.Status.JoinProofTime; proof != nil {
		last = proof.Time
	}
	for _, r := range f.OwnRequests() {
		if at, approved := csr.ApprovedAt(r); approved && csr.Issued(r) && at.After(last) {
			last = at.Time
		}
	}
	return last
}

// JoinSoon is how long a node usually takes from the approval of its CSR to its Node and its first Lease. The log entry is delayed until
// then, so that one write has both.
const JoinSoon = 15 * time.Second

// RecordWaits reports whether the log entry for the issued certificate of a CSR that the operator approved can be delayed until the node
// joins, and until when.
func (f *Facts) RecordWaits(r *certificatesv1.CertificateSigningRequest, now time.Time) (time.Time, bool) {
	if until, waits := f.pinnedWaits(r, now); waits {
		return until, true
	}
	at, approved := csr.ApprovedAt(r)
	until := at.Add(JoinSoon)
	i := decisions.Find(f.NodeBootstrap.Status.Certificates, r.UID)
	return until, approved && csr.Issued(r) && now.Before(until) && i >= 0 &&
		f.NodeBootstrap.Status.Certificates[i].Verdict == v1alpha1.VerdictApproved && f.NodeBootstrap.Status.Certificates[i].IssuedTime == nil
}
