// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// certificateUsed reports whether the node has used a certificate that was issued to it in its present wait: its Lease was
// renewed after the approval. A Node of that time proves nothing: an administrator may have created it while the request
// was waiting. What happened in the same second may have happened before: times of conditions are whole seconds.
func (f *Facts) certificateUsed() bool {
	used := func(approved time.Time, request types.UID) bool {
		return !f.LeaseRenewed.Before(approved.Add(f.proofDelay(request)))
	}
	for _, r := range f.Requests {
		at, approved := approvedAt(r)
		if approved && issued(r) && f.concerns(r) && f.inPresentWait(TokenIDOfUser(r.Spec.Username), at) && used(at.Time, r.UID) {
			return true
		}
	}
	for _, d := range f.NodeBootstrap.Status.Certificates {
		if !ofThisNode(d) {
			continue
		}
		if d.IssuedTime != nil && f.inPresentWait(d.TokenID, *d.IssuedTime) && used(d.IssuedTime.Time, d.UID) {
			return true
		}
		if f.issuedUnseen(d) && f.LeaseRenewed.After(d.Time.Add(approvedRequestLife)) {
			return true
		}
	}
	return false
}

// approvedRequestLife is how long kube-controller-manager leaves an approved request before it deletes it
// (pkg/controller/certificates/cleaner).
const approvedRequestLife = time.Hour

// issuedUnseen reports whether a request of the present wait was approved and is gone by now, so that its certificate was
// issued while nobody looked.
func (f *Facts) issuedUnseen(d v1alpha1.CertificateDecision) bool {
	return d.Verdict == v1alpha1.VerdictApproved && d.IssuedTime == nil && f.inPresentWait(d.TokenID, d.Time) &&
		!slices.ContainsFunc(f.Requests, func(r *certificatesv1.CertificateSigningRequest) bool { return r.UID == d.UID })
}

// inPresentWait reports whether a certificate was issued for the wait that lasts: to the present token, or to one that was
// renewed since. Times alone do not tell, since they are whole seconds.
func (f *Facts) inPresentWait(tokenID string, issued metav1.Time) bool {
	s := f.NodeBootstrap.Status
	return s.Token != nil && s.Token.ID == tokenID || s.AwaitingSince != nil && issued.After(s.AwaitingSince.Time)
}

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

// lastIssued is when a certificate was last issued to the node; zero for never.
func (f *Facts) lastIssued() time.Time {
	var last time.Time
	for _, d := range f.NodeBootstrap.Status.Certificates {
		if d.IssuedTime != nil && d.IssuedTime.After(last) {
			last = d.IssuedTime.Time
		}
	}
	for _, r := range f.ownRequests() { // of which the record may not tell yet
		if at, approved := approvedAt(r); approved && issued(r) && at.After(last) {
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
