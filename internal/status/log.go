// SPDX-License-Identifier: Apache-2.0

package status

import (
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
)

// The decision log has a line for each identity that the operator granted or took away. It outlives objects, events and the status
// (docs/security.md). A line is written after the API server has confirmed the write, so a failed write has no line. No line contains a
// secret part.
const (
	RecordCreated   = "created a token"
	RecordTakenOver = "took over a token that an interrupted reconcile had created"
	RecordRevoked   = "revoked a token"
	RecordApproved  = "approved a CertificateSigningRequest"
	RecordDenied    = "denied a CertificateSigningRequest"
	RecordDeleted   = "deleted a CertificateSigningRequest"
	RecordAlarm     = "raised an alarm"
)

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
