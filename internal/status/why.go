// SPDX-License-Identifier: Apache-2.0

package status

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// The reasons why tokens are created and revoked, and CSRs deleted, for the log: it keeps them longer than objects and events do.

// Reasons for creating or revoking a token that no condition has.
const (
	// ReasonRenewed is the reason of a token whose predecessor expires soon.
	ReasonRenewed = "Renewed"
	// ReasonNodeBootstrapDeleted is the reason of a token that is revoked because the NodeBootstrap that it was created for no longer
	// exists.
	ReasonNodeBootstrapDeleted = "NodeBootstrapDeleted"
	// ReasonOwnerRemoved is the reason of a token that is revoked because its Secret no longer says which NodeBootstrap it belongs to.
	ReasonOwnerRemoved = "OwnerRemoved"
	// ReasonReplaced is the reason of a token that is revoked because another one replaced it, or its Secret was spoiled.
	ReasonReplaced = "Replaced"
)

// WhyCreated is the reason why a plan creates a token.
func WhyCreated(p *lifecycle.Plan) string {
	switch {
	case p.Reissue:
		return v1alpha1.ReasonReissued
	case len(p.Keep) > 0:
		return ReasonRenewed
	default:
		return v1alpha1.ReasonAwaitingNode
	}
}

// WhyRevoked is the reason why a plan revokes the token of a Secret, at a time.
func WhyRevoked(p *lifecycle.Plan, f *lifecycle.Facts, s *corev1.Secret, now time.Time) string {
	nb := f.NodeBootstrap
	if nb == nil {
		return ReasonNodeBootstrapDeleted
	}
	t, ok := token.Parse(s)
	switch {
	case p.Phase == lifecycle.Joined:
		return v1alpha1.ReasonJoined
	case owned.NodeOf(s) == "":
		return ReasonOwnerRemoved
	case !owned.By(s, nb):
		return ReasonNodeBootstrapDeleted
	case ok && !t.Live(now):
		return csr.ReasonTokenExpired
	case !f.Trusts(t):
		return v1alpha1.ReasonReissued
	case f.ClusterWideRefused():
		return v1alpha1.ReasonClusterWideNotAllowed
	case p.Misuse != nil || meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionTokenMisused):
		return v1alpha1.ReasonTokenMisused
	default:
		return ReasonReplaced
	}
}

// WhyDeleted is the reason why a plan deletes a CSR.
func WhyDeleted(p *lifecycle.Plan, r *certificatesv1.CertificateSigningRequest) string {
	for _, d := range p.Decisions {
		if d.Request == r {
			return d.Result.Reason
		}
	}
	return decisions.ReasonTokenRevoked
}

// RaisedAlarm is an alarm that a status reports and an older one does not, with the decision that is its evidence.
type RaisedAlarm struct {
	// Condition is one of the conditions that exist only while they are True.
	Condition, Reason, Message string
	// Evidence is the decision; for KeyConflict it has only the token, for CertificateNotRevoked it is empty.
	Evidence v1alpha1.CertificateDecision
}

// RaisedAlarms are the alarms that became True from one status to the next.
func RaisedAlarms(old, new *v1alpha1.NodeBootstrapStatus) []RaisedAlarm {
	var out []RaisedAlarm
	for _, condition := range []string{v1alpha1.ConditionTokenMisused, v1alpha1.ConditionKeyConflict, v1alpha1.ConditionCertificateNotRevoked} {
		raised := meta.FindStatusCondition(new.Conditions, condition)
		if raised == nil || !meta.IsStatusConditionTrue(new.Conditions, condition) || meta.IsStatusConditionTrue(old.Conditions, condition) {
			continue
		}
		a := RaisedAlarm{Condition: condition, Reason: raised.Reason, Message: raised.Message}
		switch condition {
		case v1alpha1.ConditionTokenMisused:
			for _, d := range decisions.New(old, new) {
				if a.Evidence.UID == "" && decisions.Evidence(d) && d.Reason == raised.Reason {
					a.Evidence = d
				}
			}
			if k := old.ReplacedKey; k != nil && a.Evidence.UID == "" { // it became evidence when the earlier key was used
				a.Evidence = v1alpha1.CertificateDecision{Name: k.Name, TokenID: k.TokenID, KeyFingerprint: k.KeyFingerprint}
			}
		case v1alpha1.ConditionKeyConflict:
			if len(new.Keys) > 0 {
				a.Evidence.TokenID = new.Keys[0].TokenID
			}
		}
		out = append(out, a)
	}
	return out
}

// TakenOver is the id of the newest token in a status if an older status has another one; empty if they name the same.
func TakenOver(old, new *v1alpha1.NodeBootstrapStatus) string {
	if new.Token == nil || new.LastTokenID == old.LastTokenID || new.Token.ID != new.LastTokenID {
		return ""
	}
	return new.Token.ID
}
