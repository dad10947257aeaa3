// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"cmp"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// What other people and programs decide about the node's requests, as the conditions of the requests tell it.

// maxMessage bounds the message of a decision in characters, as the CRD does.
const maxMessage = 256

// shortened is a message with at most maxMessage characters.
func shortened(message string) string {
	runes := []rune(strings.ToValidUTF8(message, ""))
	if len(runes) <= maxMessage {
		return string(runes)
	}
	const dots = "..."
	return string(runes[:maxMessage-len(dots)]) + dots
}

// approvalReason is the recorded reason of an approval that the record does not have yet: the operator's own if the condition says
// so, as after the NodeBootstrap was deleted and created again.
func approvalReason(r *certificatesv1.CertificateSigningRequest) string {
	if c := requestCondition(r, certificatesv1.CertificateApproved); c != nil && c.Reason == csr.ReasonKubeletClient {
		return c.Reason
	}
	return reasonApprovedElsewhere
}

// recordDenied notes the requests for client certificates that someone else has denied since the NodeBootstrap was created. The
// operator's own denials are recorded before they are carried out.
//
// Nothing is noted twice: once the record is full only what is newer than all of it is added, since what went may be among the
// requests still. Of one token no more is noted than is decided on.
func recordDenied(history []v1alpha1.CertificateDecision, requests []*certificatesv1.CertificateSigningRequest, since time.Time) []v1alpha1.CertificateDecision {
	var found []v1alpha1.CertificateDecision
	for _, r := range requests {
		if d, ok := deniedElsewhere(r); ok && !d.Time.Time.Before(since) && decisionOn(history, d) < 0 {
			found = append(found, d)
		}
	}
	slices.SortFunc(found, func(a, b v1alpha1.CertificateDecision) int {
		return cmp.Or(a.Time.Compare(b.Time.Time), strings.Compare(a.Name, b.Name))
	})
	for _, d := range found {
		if (!full(history) || newerThanAll(history, d.Time)) && decisionsOn(history, d.TokenID) < maxDecisionsPerToken {
			history = insertDecision(history, d)
		}
	}
	return history
}

func deniedElsewhere(r *certificatesv1.CertificateSigningRequest) (v1alpha1.CertificateDecision, bool) {
	c := requestCondition(r, certificatesv1.CertificateDenied)
	if c == nil || r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName || csr.DeniesClient(c.Reason) || c.Reason == ReasonTokenRevoked {
		return v1alpha1.CertificateDecision{}, false
	}
	d := entry(r, v1alpha1.VerdictDenied, reasonDeniedElsewhere, conditionTime(c))
	d.Message = shortened(c.Message)
	return d, true
}

// full reports whether the next entry of a token makes another one go.
func full(history []v1alpha1.CertificateDecision) bool {
	return len(slices.DeleteFunc(slices.Clone(history), ofServing)) >= maxDecisions-maxServing
}

func newerThanAll(history []v1alpha1.CertificateDecision, at metav1.Time) bool {
	return !slices.ContainsFunc(history, func(d v1alpha1.CertificateDecision) bool { return ofToken(d) && !at.After(d.Time.Time) })
}

func decisionsOn(history []v1alpha1.CertificateDecision, tokenID string) int {
	return len(slices.DeleteFunc(slices.Clone(history), func(d v1alpha1.CertificateDecision) bool { return d.TokenID != tokenID }))
}

// insertDecision adds to a history what was decided before its last entries.
func insertDecision(history []v1alpha1.CertificateDecision, d v1alpha1.CertificateDecision) []v1alpha1.CertificateDecision {
	at := len(history)
	for at > 0 && history[at-1].Time.After(d.Time.Time) {
		at--
	}
	return appendDecisions(slices.Insert(slices.Clone(history), at, d))
}
