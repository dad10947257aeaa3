// SPDX-License-Identifier: Apache-2.0

package status

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
)

// Claimed is the status of a NodeBootstrap with the decisions and the evidence of a plan that it does not have yet; nil if it has all of
// them. It is stored before anything is carried out, so that a crash in between never leads to a second key or to a lost alarm.
func Claimed(p *lifecycle.Plan, f *lifecycle.Facts, now time.Time) *v1alpha1.NodeBootstrapStatus {
	nb := f.NodeBootstrap
	status := nb.Status.DeepCopy()
	if p.Phase != lifecycle.Joined { // decisions prove it that disappear with their token
		status.JoinProofTime = f.JoinProof(status, f.Requests)
	}
	if p.Reissue && p.Misuse != nil { // misuse of a token that was created for the reissue
		handleReissue(p, f, status)
	}
	if p.Phase != lifecycle.Joined {
		decisions.SetTokens(status, p.Keep)
	}
	named := status.DeepCopy() // this change does not justify a write
	for _, d := range p.Decisions {
		if d.Record.UID != "" {
			decisions.Record(status, d.Record)
		}
	}
	recordOutliving(p, status)
	if p.Alive != nil && status.NodeAliveTime == nil && approves(p) { // in the next reconcile, the new kubelet may have renewed the Lease
		status.NodeAliveTime = p.Alive
	}
	raise(p, status, nb.Generation, now)
	if p.Unrecorded != "" {
		status.LastTokenID = p.Unrecorded
	}
	if keys := slices.Clone(status.Keys); recordKeys(p, status) && !p.Revokes() { // a revocation deletes CSRs; otherwise the report comes early enough
		status.Keys = keys
	}
	if equality.Semantic.DeepEqual(status, named) {
		return nil
	}
	return status
}

// approves reports whether the plan approves a client certificate.
func approves(p *lifecycle.Plan) bool {
	return slices.ContainsFunc(p.Decisions, func(d lifecycle.Decision) bool { return d.Result.Verdict == csr.Approve && d.Record.UID != "" })
}

// raise sets the condition of the alarm if it is not set yet: the first evidence stays.
func raise(p *lifecycle.Plan, status *v1alpha1.NodeBootstrapStatus, generation int64, now time.Time) {
	if p.Misuse == nil || meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionTokenMisused) {
		return
	}
	meta.SetStatusCondition(&status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionTokenMisused, Status: metav1.ConditionTrue, Reason: p.Misuse.Reason, Message: p.Misuse.Message,
		ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(now),
	})
}
