// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
)

// Event is reported to people once.
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

func newEvent(eventType, reason, format string, args ...any) Event {
	note := fmt.Sprintf(format, args...)
	if len(note) > maxNoteBytes {
		note = strings.ToValidUTF8(note[:maxNoteBytes], "")
	}
	return Event{Type: eventType, Reason: reason, Note: note}
}

func normal(reason, format string, args ...any) Event {
	return newEvent(corev1.EventTypeNormal, reason, format, args...)
}

func warning(reason, format string, args ...any) Event {
	return newEvent(corev1.EventTypeWarning, reason, format, args...)
}

// Events are the events for the change from one status to the next.
func Events(old, new *v1alpha1.NodeBootstrapStatus) []Event {
	var out []Event
	for _, d := range new.Certificates {
		i := decisions.Find(old.Certificates, d.UID)
		switch {
		case i < 0:
			out = append(out, decisionEvent(d))
		case old.Certificates[i].Verdict != d.Verdict && d.Verdict == v1alpha1.VerdictApproved:
			out = append(out, overtakenEvent(d))
		}
		if d.IssuedTime != nil && (i < 0 || old.Certificates[i].IssuedTime == nil) {
			out = append(out, normal(v1alpha1.ReasonCertificateIssued, "the request %s has its certificate", d.Name))
		}
	}
	return append(append(out, changeEvents(old, new)...), conditionEvents(old, new)...)
}

// sender names the token or node that sent the CSR of a decision.
func sender(d v1alpha1.CertificateDecision) string {
	if d.TokenID == "" {
		return "sent by the node"
	}
	return "sent with the token " + d.TokenID
}

// decisionEvent is the event of a new decision.
func decisionEvent(d v1alpha1.CertificateDecision) Event {
	otherSigner := d.TokenID != "" && d.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName
	switch {
	case lifecycle.IsSettledElsewhere(d):
		return warning(v1alpha1.ReasonCertificateDenied, "CSR %s, %s, would have been denied: %s (%s)", d.Name, sender(d), d.Message, d.Reason)
	case d.Verdict == v1alpha1.VerdictApproved && (decisions.Evidence(d) || d.Reason == csr.ReasonKeyReplaced):
		return overtakenEvent(d)
	case d.Verdict == v1alpha1.VerdictDenied && otherSigner:
		return warning(v1alpha1.ReasonCertificateDenied, "deleting the request %s, %s (%s)", d.Name, sender(d), saidOf(&d))
	case d.Verdict == v1alpha1.VerdictDenied && d.Reason == decisions.ReasonDeniedElsewhere:
		return warning(v1alpha1.ReasonCertificateDenied, "CSR %s was denied by someone else (%s, %s): find out who. A kubelet that is restarted sends the next one",
			d.Name, sender(d), saidOf(&d))
	case d.Verdict == v1alpha1.VerdictDenied:
		return warning(v1alpha1.ReasonCertificateDenied, "denying the request %s, %s (%s): see its condition", d.Name, sender(d), saidOf(&d))
	case d.Verdict == v1alpha1.VerdictIgnored:
		return warning(v1alpha1.ReasonRequestIgnored, "leaving alone the request %s and all that follow, %s (%s)", d.Name, sender(d), d.Reason)
	case d.Reason == decisions.ReasonApprovedElsewhere:
		return normal(v1alpha1.ReasonCertificateApproved, "CSR %s was approved by someone else (%s, %s)", d.Name, sender(d), d.Reason)
	default:
		return normal(v1alpha1.ReasonCertificateApproved, "approving the request %s, %s (%s)", d.Name, sender(d), d.Reason)
	}
}

// overtakenEvent is the event of a CSR that someone else approved and the operator would have denied.
func overtakenEvent(d v1alpha1.CertificateDecision) Event {
	return warning(v1alpha1.ReasonCertificateApproved, "someone else approved the request %s, %s, which would have been denied (%s)", d.Name, sender(d), d.Reason)
}

// changeEvents are the events for publication, reissue and join.
func changeEvents(old, new *v1alpha1.NodeBootstrapStatus) []Event {
	var out []Event
	if new.KubeconfigSecretRef != nil && (old.KubeconfigSecretRef == nil || tokenID(old) != tokenID(new)) {
		out = append(out, normal(v1alpha1.ReasonPublished, "the Secret %s/%s holds a kubeconfig with the new token %s",
			new.KubeconfigSecretRef.Namespace, new.KubeconfigSecretRef.Name, tokenID(new)))
	}
	if id := old.LastTokenID; id != "" && id != new.LastTokenID && tokenID(new) == new.LastTokenID && sameWait(old, new) && decisions.LiveToken(new, id) == nil {
		out = append(out, normal(v1alpha1.ReasonTokenReplaced, "the token %s was deleted, or expired before it was renewed: the token %s replaces it", id, tokenID(new)))
	}
	if KubeconfigChanged(old, new) != (KubeconfigChange{}) {
		out = append(out, warning(v1alpha1.ReasonKubeconfigChanged, "the published kubeconfig, whose token %s is live, has changed: the server from %.250s to %.250s, "+
			"the CA from %s to %s. If this was not intended, someone may be trying to get the token: see docs/troubleshooting.md",
			tokenID(new), old.Server, new.Server, cmp.Or(old.CAFingerprint, "an unknown one"), new.CAFingerprint))
	}
	if meta.IsStatusConditionTrue(new.Conditions, v1alpha1.ConditionJoined) && !meta.IsStatusConditionTrue(old.Conditions, v1alpha1.ConditionJoined) {
		out = append(out, normal(v1alpha1.ReasonJoined, "the node has joined"))
	}
	out = append(out, waitEvents(old, new)...)
	if value := new.LastHandledReissueAt; value != old.LastHandledReissueAt && value != "" && new.AwaitingSince == nil { // handled without a credential
		out = append(out, normal(v1alpha1.ReasonReissueOutdated, "the reissue requested at %.64s counts as handled: it is older than this NodeBootstrap, and a kubelet "+
			"works as the node. If the node needs a new credential, set the annotation %s to the present time", value, v1alpha1.ReissueRequestedAtAnnotation))
	}
	return out
}

// waitEvents are the events for a wait that begins again.
func waitEvents(old, new *v1alpha1.NodeBootstrapStatus) []Event {
	switch {
	case len(old.Conditions) == 0 || new.AwaitingSince == nil:
		return nil
	case new.LastHandledReissueAt != old.LastHandledReissueAt:
		return []Event{normal(v1alpha1.ReasonReissued, "the reissue requested at %.64s was handled: earlier tokens are revoked, and the node is awaited again", new.LastHandledReissueAt)}
	case old.AwaitingSince == nil && meta.IsStatusConditionTrue(old.Conditions, v1alpha1.ConditionJoined):
		return []Event{normal(v1alpha1.ReasonNodeDeleted, "the Node was deleted, so its machine is awaited again, with a new token. If the machine was removed for good, delete the NodeBootstrap")}
	}
	return nil
}

// sameWait reports whether the node is awaited in both of two statuses, without a reissue in between.
func sameWait(old, new *v1alpha1.NodeBootstrapStatus) bool {
	return old.AwaitingSince != nil && new.AwaitingSince != nil && old.AwaitingSince.Equal(new.AwaitingSince) && old.LastHandledReissueAt == new.LastHandledReissueAt
}

// conditionEvents are the events for conditions whose new status needs attention.
func conditionEvents(old, new *v1alpha1.NodeBootstrapStatus) []Event {
	var out []Event
	for _, w := range warnings {
		before, now := meta.FindStatusCondition(old.Conditions, w.condition), meta.FindStatusCondition(new.Conditions, w.condition)
		switch {
		case now == nil || now.Status != w.status || before != nil && before.Status == w.status && before.Reason == now.Reason:
		case w.condition == v1alpha1.ConditionJoined && now.Reason != v1alpha1.ReasonNodeAlive: // a node that has not joined yet needs no attention
		case w.condition == v1alpha1.ConditionTokenMisused: // its own reason is that of the denial, which has an event
			out = append(out, warning(v1alpha1.ReasonTokenMisused, "%s", now.Message))
		case now.Reason != v1alpha1.ReasonTokenMisused:
			out = append(out, warning(now.Reason, "%s", now.Message))
		}
	}
	return out
}

// warnings are the conditions with the status that needs attention.
var warnings = []struct {
	condition string
	status    metav1.ConditionStatus
}{
	{v1alpha1.ConditionTokenMisused, metav1.ConditionTrue},
	{v1alpha1.ConditionKeyConflict, metav1.ConditionTrue},
	{v1alpha1.ConditionCertificateNotRevoked, metav1.ConditionTrue},
	{v1alpha1.ConditionClientCertificateExpiring, metav1.ConditionTrue},
	{v1alpha1.ConditionStalled, metav1.ConditionTrue},
	{v1alpha1.ConditionApprovalEnforced, metav1.ConditionFalse},
	{v1alpha1.ConditionServingCertificateApproved, metav1.ConditionFalse},
	{v1alpha1.ConditionJoined, metav1.ConditionFalse},
}

// Renewed reports whether a token replaced one that was about to expire, from one status to the next.
func Renewed(old, new *v1alpha1.NodeBootstrapStatus) bool {
	return old.Token != nil && new.Token != nil && old.Token.ID != new.Token.ID && old.LastHandledReissueAt == new.LastHandledReissueAt
}

func tokenID(s *v1alpha1.NodeBootstrapStatus) string {
	if s.Token == nil {
		return ""
	}
	return s.Token.ID
}

// KubeconfigChange reports changes in a published kubeconfig, apart from the token.
type KubeconfigChange struct {
	// Server and CA report whether the kubeconfig names another server or has another CA.
	Server, CA bool
}

// KubeconfigChanged reports changes in a kubeconfig from one status to the next while its token stayed or was renewed: a machine with the
// new kubeconfig sends the token elsewhere. A kubeconfig that was not published before, or by a version that did not record it, is not a
// change, nor is a requested reissue.
func KubeconfigChanged(old, new *v1alpha1.NodeBootstrapStatus) KubeconfigChange {
	if old.KubeconfigSecretRef == nil || new.KubeconfigSecretRef == nil || tokenID(old) == "" || tokenID(old) != tokenID(new) && !Renewed(old, new) {
		return KubeconfigChange{}
	}
	return KubeconfigChange{
		Server: differ(old.Server, new.Server),
		CA:     differ(old.CAFingerprint, new.CAFingerprint),
	}
}

func differ(old, new string) bool { return old != "" && new != "" && old != new }

// NewlyUnrevoked is how many unrevoked certificates a status has that an older one does not have.
func NewlyUnrevoked(old, new *v1alpha1.NodeBootstrapStatus) int {
	n := 0
	for _, c := range new.UnrevokedCertificates {
		if !slices.ContainsFunc(old.UnrevokedCertificates, func(o v1alpha1.UnrevokedCertificate) bool { return o.UID == c.UID }) {
			n++
		}
	}
	return n
}
