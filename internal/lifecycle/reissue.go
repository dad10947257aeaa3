// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// reissueDue reports whether a reissue was requested that is not handled yet.
func (f *Facts) reissueDue() bool {
	want := token.Reissue(f.NodeBootstrap)
	return want != "" && want != token.NormalReissue(f.NodeBootstrap.Status.LastHandledReissueAt) && !f.ReissueOutdated()
}

// awaitingReissue reports whether a reissue was handled and the node has not joined since then.
func (f *Facts) awaitingReissue() bool {
	s := f.NodeBootstrap.Status
	return s.LastHandledReissueAt != "" && s.AwaitingSince != nil
}

// beforeReissue reports whether a token is from before the current reissue: it was revoked, and a stale cache still shows it.
func (f *Facts) beforeReissue(t token.Token) bool {
	s := f.NodeBootstrap.Status
	return f.awaitingReissue() && t.Created.Before(s.AwaitingSince.Time) && token.Reissue(t.Object) != token.NormalReissue(s.LastHandledReissueAt)
}

// A reissue annotation stays in Git. When a NodeBootstrap is deleted and applied again, last year's annotation, which was handled then,
// must not request another reissue.

// reissueOlder reports whether the NodeBootstrap has no reported status yet and its reissue annotation is a time before its creation.
func (f *Facts) reissueOlder() bool {
	nb := f.NodeBootstrap
	if meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionJoined) != nil || nb.Status.LastHandledReissueAt != "" { // every report has Joined
		return false
	}
	at, err := time.Parse(time.RFC3339, nb.Annotations[v1alpha1.ReissueRequestedAtAnnotation])
	return err == nil && at.Before(nb.CreationTimestamp.Time)
}

// ReissueOutdated reports whether the reissue counts as handled: it is older than the NodeBootstrap, and the node is a member.
func (f *Facts) ReissueOutdated() bool {
	return f.Node != nil && f.reissueOlder() && f.kubeletWorks()
}

// A reissue is often requested while the old kubelet still works as the node. The Lease then proves nothing about the new certificate:
// both kubelets renew the same Lease.

const (
	// leaseInterval is how often a kubelet renews its Lease: a quarter of nodeLeaseDurationSeconds, whose default is 40.
	leaseInterval = 10 * time.Second
	// leaseSilence is the time without a renewal after which no kubelet works as the node.
	leaseSilence = 2 * leaseInterval
	// collected is the time after an approval within which the kubelet gets its certificate: the signer takes a second, and the kubelet
	// watches the CSR.
	collected = time.Minute
	// cacheDelay is longer than the cache lags behind the API server, unless its watch is broken.
	cacheDelay = 3 * time.Second
)

// sameNodeAsReissued reports whether the node is awaited because of a reissue and its Node is the one that existed at the reissue, so
// that the old kubelet may have renewed the Lease.
func (f *Facts) sameNodeAsReissued() bool {
	return f.awaitingReissue() && f.Node != nil && f.Node.UID == f.NodeBootstrap.Status.NodeUID
}

// proofDelay is how long after the approval of a CSR the Lease must have been renewed to prove that the node uses the certificate.
// decided is the decision on the CSR in the status, or nil. After a reissue the old kubelet may renew the Lease, so a renewal proves
// nothing. The token can still be revoked a minute later, when the new kubelet has its certificate.
//
// The old kubelet is known to be silent only if the operator decided to approve, for which it has just read the Lease, and if a running
// kubelet would have renewed the Lease between the reissue and that decision. That is not known for a pinned key, whose approval has no
// record from before it.
func (f *Facts) proofDelay(decided *v1alpha1.DecidedCSR) time.Duration {
	const nextSecond = time.Second
	s := f.NodeBootstrap.Status
	if !f.awaitingReissue() { // any renewal for a Node other than the one at the reissue proves the join
		return nextSecond
	}
	if s.NodeAliveTime == nil && f.pinned() == "" && decided != nil && decided.Verdict == v1alpha1.VerdictApproved && decided.Reason == csr.ReasonKubeletClient &&
		!decided.Time.Time.Before(s.AwaitingSince.Add(leaseSilence)) {
		return nextSecond
	}
	return collected
}

// alive is when a kubelet was seen to work as the node after the last reissue and before a certificate was approved for it; nil when none
// was. Once recorded, it stays for this wait, also after the join.
func (f *Facts) alive(now time.Time) *metav1.Time {
	s := f.NodeBootstrap.Status
	if s.NodeAliveTime != nil || f.reissueDue() || !f.sameNodeAsReissued() {
		return s.NodeAliveTime
	}
	before := f.firstApproval()
	if before.IsZero() && f.NodeBootstrap.Spec.ApprovalMode() != v1alpha1.ApprovalNode {
		before = now.Add(-cacheDelay) // the cache may not show another client's approval yet
	}
	if f.LeaseRenewed.Before(s.AwaitingSince.Add(time.Second)) || !before.IsZero() && !f.LeaseRenewed.Before(before.Truncate(time.Second)) {
		return nil
	}
	return new(metav1.NewTime(f.LeaseRenewed))
}

// firstApproval is when a certificate was first approved in the current wait, or the approval was claimed; zero if never.
func (f *Facts) firstApproval() time.Time {
	var first time.Time
	s := &f.NodeBootstrap.Status
	if s.FirstApprovalTime != nil {
		first = s.FirstApprovalTime.Time
	}
	for _, r := range f.OwnRequests() {
		at, approved := csr.ApprovedAt(r)
		if approved && decisions.InCurrentWait(s, token.IDOfUser(r.Spec.Username), at) && (first.IsZero() || at.Time.Before(first)) {
			first = at.Time
		}
	}
	return first
}

// pollOldKubelet requeues to read the Lease again while it is unknown whether the old kubelet still works as the node. The first reads
// come often, because nothing else reads the Lease before a CSR is sent.
func (p *Plan) pollOldKubelet(f *Facts, now time.Time) {
	if p.Alive == nil && f.sameNodeAsReissued() && f.firstApproval().IsZero() {
		since := now.Sub(f.NodeBootstrap.Status.AwaitingSince.Time)
		p.RequeueBy(now.Add(min(max(since/10, leaseInterval), leasePollMax)))
	}
}
