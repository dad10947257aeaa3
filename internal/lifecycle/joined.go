// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// certificateUsed reports whether the node has used a certificate that was issued to it in its present wait: its Lease was renewed after
// the approval. A Node of that time proves nothing: an administrator may have created it while the CSR was waiting.
func (f *Facts) certificateUsed() bool {
	proof := f.JoinProof(&f.NodeBootstrap.Status, f.Requests)
	return proof != nil && !f.LeaseRenewed.Before(proof.Time)
}

// JoinProof is when a renewal of the node's Lease begins to prove that it uses a certificate that was issued in its present wait, by a
// status and by some CSRs; nil while none was issued. What happened in the second of the approval may have happened before: times of
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
		if approved && csr.Issued(r) && f.Concerns(r) && decisions.InPresentWait(s, token.IDOfUser(r.Spec.Username), at) {
			add(at.Add(f.proofDelay(decisions.Decided(f.DecidedWith(token.IDOfUser(r.Spec.Username)), r.UID))))
		}
	}
	for _, t := range s.Tokens {
		for _, c := range t.CSRs {
			exists := slices.ContainsFunc(f.Requests, func(r *certificatesv1.CertificateSigningRequest) bool { return r.UID == c.UID })
			if decisions.BindsKey(c) && !exists { // it was issued while the operator did not look
				add(c.Time.Add(approvedRequestLife + time.Second))
			}
		}
	}
	return proof
}

// approvedRequestLife is how long kube-controller-manager leaves an approved CSR before it deletes it
// (pkg/controller/certificates/cleaner).
const approvedRequestLife = time.Hour

// joinedBefore reports whether the status says Joined of the Node that is there now.
func (f *Facts) joinedBefore() bool {
	s := f.NodeBootstrap.Status
	joined := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionJoined)
	return s.AwaitingSince == nil && joined != nil && joined.Status == metav1.ConditionTrue && s.NodeUID == f.Node.UID
}

// NeedsLive reports whether the node itself and its Lease have to be read to know if the node has joined. Doing so for every
// reconcile would be two requests for each, and watching them would be an event for each node every ten seconds.
func (f *Facts) NeedsLive() bool {
	return f.NodeBootstrap != nil && f.Node != nil && (!f.reissueDue() || f.reissueOlder()) && !f.joinedBefore()
}

// joined reports whether the node is a member of the cluster and needs no credential. A Node alone proves nothing: an
// administrator may have created it ahead, and on a reinstall it is still the old one. One that a kubelet works as was a
// member already, or has joined in another way.
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

// kubeletWorks reports whether a kubelet has reported in the Node's status and has renewed its Lease since the Node was made.
// Whoever may create Nodes can fill in the status, and the Lease of a deleted Node stays for a moment.
func (f *Facts) kubeletWorks() bool {
	return f.NodeReported && !f.LeaseRenewed.IsZero() && !f.LeaseRenewed.Before(f.Node.CreationTimestamp.Time)
}

// firstLease is how long after its Node a kubelet's first Lease may come: a kubelet renews it every 10 seconds, and the Lease lasts for
// 40 (nodeLeaseDurationSeconds).
const firstLease = 40 * time.Second

// mayBeMember reports whether a kubelet has reported as a new Node whose first Lease is still to come. Who is a member gets no
// credential, so nothing is made for it until then.
func (f *Facts) mayBeMember(now time.Time) bool {
	return f.Node != nil && f.NodeReported && !f.kubeletWorks() && !f.reissueDue() && !f.awaitingReissue() && now.Before(f.Node.CreationTimestamp.Add(firstLease))
}

// lastIssued is about when a certificate was last issued to the node in its present wait; zero for never.
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

// LeaseRenewed is when a node's Lease was last renewed, by the API server's clock, in whole seconds: metadata.managedFields
// has it. What the Lease itself says is by the node's clock, and one that is fast would make the Lease of the machine's
// former life look renewed after the approval of a certificate that the kubelet has yet to collect.
func LeaseRenewed(l *coordinationv1.Lease) time.Time {
	var renewed time.Time
	for _, m := range l.ManagedFields {
		if m.Time != nil && m.FieldsV1 != nil && strings.Contains(m.FieldsV1.GetRawString(), `"f:renewTime"`) {
			renewed = later(renewed, m.Time.Time)
		}
	}
	if renewed.IsZero() && l.Spec.RenewTime != nil {
		return l.Spec.RenewTime.Time
	}
	return renewed
}

// JoinSoon is how long a node takes from its certificate to its first Lease, usually: until then the log entry waits, since the write
// that reports the join has both.
const JoinSoon = 15 * time.Second

// RecordWaits reports whether the log entry that a CSR which the operator approved has its certificate can wait for the node to
// join, at a time, and until when.
func (f *Facts) RecordWaits(r *certificatesv1.CertificateSigningRequest, now time.Time) (time.Time, bool) {
	at, approved := csr.ApprovedAt(r)
	until := at.Add(JoinSoon)
	i := decisions.Find(f.NodeBootstrap.Status.Certificates, r.UID)
	return until, approved && csr.Issued(r) && now.Before(until) && i >= 0 &&
		f.NodeBootstrap.Status.Certificates[i].Verdict == v1alpha1.VerdictApproved && f.NodeBootstrap.Status.Certificates[i].IssuedTime == nil
}
