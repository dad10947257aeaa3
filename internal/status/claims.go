// SPDX-License-Identifier: Apache-2.0

// Package status reports the state of a node: it turns the outcome of a plan into a status, events and lines of the decision log.
//
// It is pure: [Report] turns facts, a plan and its outcome into a status. Nothing here reads or writes anything.
package status

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
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
		if d.Record.UID != "" && !d.Pinned {
			decisions.Record(status, d.Record)
		}
	}
	for _, r := range p.Outliving {
		decisions.RecordIssued(status, []*certificatesv1.CertificateSigningRequest{r})
		decisions.RecordUnrevoked(status, r, v1alpha1.ReasonIssuedBeforeRevocation)
	}
	if p.Alive != nil && status.NodeAliveTime == nil && len(p.KeysToClaim()) > 0 { // in the next reconcile, the new kubelet may have renewed the Lease
		status.NodeAliveTime = p.Alive
	}
	raise(p, status, nb.Generation, now)
	if p.Unrecorded != "" {
		status.LastTokenID = p.Unrecorded
	}
	if p.Revokes() { // it deletes CSRs; otherwise the report comes early enough
		recordKeys(p, status)
	}
	if equality.Semantic.DeepEqual(status, named) {
		return nil
	}
	return status
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

// maxKeys bounds the keys in a status: one for each decision on a token's CSRs.
const maxKeys = decisions.MaxDecisionsPerToken

// recordKeys adds the keys that a plan found to those in a status.
func recordKeys(p *lifecycle.Plan, status *v1alpha1.NodeBootstrapStatus) {
	for _, k := range p.Keys {
		if len(status.Keys) < maxKeys && !lifecycle.HasKey(status.Keys, k) {
			status.Keys = append(status.Keys, k)
		}
	}
}
