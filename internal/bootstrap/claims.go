// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// Claimed is the status of a NodeBootstrap with the decisions and the evidence of a plan that it does not tell of yet; nil
// when it tells of all. It is stored before anything is carried out, so that a crash in between never leads to a second key
// or to a forgotten alarm.
func (p *Plan) Claimed(nb *v1alpha1.NodeBootstrap, now time.Time) *v1alpha1.NodeBootstrapStatus {
	status := nb.Status.DeepCopy()
	var claims []v1alpha1.CertificateDecision
	changed := false
	for _, d := range p.Decisions {
		switch i := decisionOn(status.Certificates, d.Record); {
		case d.Record.UID == "":
		case i < 0:
			claims = append(claims, d.Record)
		case status.Certificates[i].Verdict != d.Record.Verdict:
			status.Certificates[i], changed = d.Record, true
		}
	}
	status.Certificates = appendDecisions(status.Certificates, claims...)
	var outliving bool
	status.Certificates, outliving = p.recordOutliving(status.Certificates)
	if p.Alive != nil && status.NodeAliveTime == nil && p.approves() { // the next pass reads a Lease that may be the new kubelet's
		status.NodeAliveTime, changed = p.Alive, true
	}
	alarmed := p.raise(status, nb.Generation, now)
	if p.unrecorded != "" && p.unrecorded != status.LastTokenID {
		status.LastTokenID, changed = p.unrecorded, true
	}
	if p.recordKeys(status) && p.Revokes() { // the requests may be deleted; otherwise the report is early enough
		changed = true
	}
	if len(claims) == 0 && !changed && !alarmed && !outliving {
		return nil
	}
	return status
}

// approves reports whether the plan approves a client certificate.
func (p *Plan) approves() bool {
	return slices.ContainsFunc(p.Decisions, func(d Decision) bool { return d.Result.Verdict == csr.Approve && d.Record.UID != "" })
}

// raise sets the condition of the alarm, and reports whether it was not set before: the first evidence stays.
func (p *Plan) raise(status *v1alpha1.NodeBootstrapStatus, generation int64, now time.Time) bool {
	if p.Misuse == nil || meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionTokenMisused) {
		return false
	}
	return meta.SetStatusCondition(&status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionTokenMisused, Status: metav1.ConditionTrue, Reason: p.Misuse.Reason, Message: p.Misuse.Message,
		ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(now),
	})
}
