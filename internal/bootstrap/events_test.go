// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

func TestEvents(t *testing.T) {
	type status = v1alpha1.NodeBootstrapStatus
	certificates := func(d ...v1alpha1.CertificateDecision) func(*status) {
		return func(s *status) { s.Certificates = append(s.Certificates, d...) }
	}
	unissued := approvedDecision("csr-a", 1, 0)
	unissued.IssuedTime = nil
	condition := func(conditionType string, value metav1.ConditionStatus, reason, message string) func(*status) {
		return func(s *status) {
			meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: conditionType, Status: value, Reason: reason, Message: message})
		}
	}
	stalled := func(reason, message string) func(*status) {
		return condition(v1alpha1.ConditionStalled, metav1.ConditionTrue, reason, message)
	}
	joined := func(value metav1.ConditionStatus) func(*status) {
		return condition(v1alpha1.ConditionJoined, value, "X", "x")
	}
	nothing := func(*status) {}
	tests := map[string]struct {
		old, new func(*status)
		want     string // "Type Reason", in their order
	}{
		"nothing":                    {nothing, nothing, ""},
		"the first token":            {func(s *status) { *s = status{} }, nothing, "Normal Published"},
		"a renewal":                  {nothing, func(s *status) { s.Token.ID = nthID(2) }, "Normal Published"},
		"another end of the token":   {nothing, func(s *status) { s.Token.ExpirationTime = ago(0) }, ""},
		"published at last":          {func(s *status) { s.KubeconfigSecretRef = nil }, nothing, "Normal Published"},
		"not published any more":     {nothing, func(s *status) { s.KubeconfigSecretRef = nil }, ""},
		"the token is gone":          {nothing, func(s *status) { s.KubeconfigSecretRef, s.Token = nil, nil }, ""},
		"approved":                   {nothing, certificates(unissued), "Normal CertificateApproved"},
		"approved and issued":        {nothing, certificates(approvedDecision("csr-a", 1, 0)), "Normal CertificateApproved, Normal CertificateIssued"},
		"issued":                     {certificates(unissued), certificates(approvedDecision("csr-a", 1, 0)), "Normal CertificateIssued"},
		"issued before":              {certificates(approvedDecision("csr-a", 1, 0)), certificates(approvedDecision("csr-a", 1, 0)), ""},
		"denied":                     {nothing, certificates(deniedDecision("csr-a", 1, 0)), "Warning CertificateDenied"},
		"denied before":              {certificates(deniedDecision("csr-a", 1, 0)), certificates(deniedDecision("csr-a", 1, 0)), ""},
		"one more denied":            {certificates(deniedDecision("csr-a", 1, 0)), certificates(deniedDecision("csr-a", 1, 0), deniedDecision("csr-b", 1, 0)), "Warning CertificateDenied"},
		"joined":                     {joined(metav1.ConditionFalse), joined(metav1.ConditionTrue), "Normal Joined"},
		"joined, never looked for":   {nothing, joined(metav1.ConditionTrue), "Normal Joined"},
		"joined before":              {joined(metav1.ConditionTrue), joined(metav1.ConditionTrue), ""},
		"gone":                       {joined(metav1.ConditionTrue), joined(metav1.ConditionFalse), ""},
		"stalled":                    {nothing, stalled("CAExpired", "x"), "Warning CAExpired"},
		"stalled before":             {stalled("CAExpired", "x"), stalled("CAExpired", "y"), ""},
		"stalled for another reason": {stalled("CAExpired", "x"), stalled("CAInvalid", "x"), "Warning CAInvalid"},
		"not stalled any more":       {stalled("CAExpired", "x"), nothing, ""},
		"all at once": {nothing, func(s *status) {
			certificates(unissued)(s)
			joined(metav1.ConditionTrue)(s)
			stalled("CAExpired", "x")(s)
		}, "Normal CertificateApproved, Normal Joined, Warning CAExpired"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before, after := statusOf(1, young), statusOf(1, young)
			tt.old(&before)
			tt.new(&after)
			var got []string
			for _, e := range Events(&before, &after) {
				got = append(got, e.Type+" "+e.Reason)
				if e.Note == "" || len(e.Note) > 1024 {
					t.Errorf("the note of %s has %d bytes: events.k8s.io takes 1 to 1024", e.Reason, len(e.Note))
				}
			}
			if got := strings.Join(got, ", "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
