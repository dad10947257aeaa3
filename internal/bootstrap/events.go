// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// Event is something to tell people, once.
type Event struct {
	// Type is Normal or Warning.
	Type string
	// Reason is a constant of api/v1alpha1.
	Reason string
	// Note is a sentence.
	Note string
}

// maxNoteBytes is the most that events.k8s.io/v1 takes (pkg/apis/core/validation).
const maxNoteBytes = 1024

// Events are what there is to tell of the change from one status to the next.
func Events(old, new *v1alpha1.NodeBootstrapStatus) []Event {
	var out []Event
	add := func(eventType, reason, format string, args ...any) {
		note := fmt.Sprintf(format, args...)
		if len(note) > maxNoteBytes {
			note = strings.ToValidUTF8(note[:maxNoteBytes], "")
		}
		out = append(out, Event{Type: eventType, Reason: reason, Note: note})
	}
	for _, d := range new.Certificates {
		i := slices.IndexFunc(old.Certificates, func(o v1alpha1.CertificateDecision) bool { return o.UID == d.UID })
		switch {
		case i < 0 && d.Verdict == v1alpha1.VerdictDenied:
			add(corev1.EventTypeWarning, v1alpha1.ReasonCertificateDenied,
				"denying the request %s, sent with the token %s (%s): see its condition", d.Name, d.TokenID, d.Reason)
		case i < 0:
			add(corev1.EventTypeNormal, v1alpha1.ReasonCertificateApproved, "approving the request %s, sent with the token %s (%s)", d.Name, d.TokenID, d.Reason)
		}
		if d.IssuedTime != nil && (i < 0 || old.Certificates[i].IssuedTime == nil) {
			add(corev1.EventTypeNormal, v1alpha1.ReasonCertificateIssued, "the request %s has its certificate", d.Name)
		}
	}
	if new.KubeconfigSecretRef != nil && (old.KubeconfigSecretRef == nil || tokenID(old) != tokenID(new)) {
		add(corev1.EventTypeNormal, v1alpha1.ReasonPublished, "the Secret %s/%s holds a kubeconfig with the new token %s",
			new.KubeconfigSecretRef.Namespace, new.KubeconfigSecretRef.Name, tokenID(new))
	}
	if meta.IsStatusConditionTrue(new.Conditions, v1alpha1.ConditionJoined) && !meta.IsStatusConditionTrue(old.Conditions, v1alpha1.ConditionJoined) {
		add(corev1.EventTypeNormal, v1alpha1.ReasonJoined, "the node has joined")
	}
	before := meta.FindStatusCondition(old.Conditions, v1alpha1.ConditionStalled)
	if now := meta.FindStatusCondition(new.Conditions, v1alpha1.ConditionStalled); now != nil && (before == nil || before.Reason != now.Reason) {
		add(corev1.EventTypeWarning, now.Reason, "%s", now.Message)
	}
	return out
}

func tokenID(s *v1alpha1.NodeBootstrapStatus) string {
	if s.Token == nil {
		return ""
	}
	return s.Token.ID
}
