// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

func TestEvents(t *testing.T) {
	type stored = v1alpha1.NodeBootstrapStatus
	certificates := func(d ...v1alpha1.CertificateDecision) func(*stored) {
		return func(s *stored) { s.Certificates = append(s.Certificates, d...) }
	}
	unissued := nodetest.ApprovedDecision("csr-a", 1, 0)
	unissued.IssuedTime = nil
	condition := func(conditionType string, value metav1.ConditionStatus, reason, message string) func(*stored) {
		return func(s *stored) {
			meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: conditionType, Status: value, Reason: reason, Message: message})
		}
	}
	stalled := func(reason, message string) func(*stored) {
		return condition(v1alpha1.ConditionStalled, metav1.ConditionTrue, reason, message)
	}
	joined := func(value metav1.ConditionStatus) func(*stored) {
		return condition(v1alpha1.ConditionJoined, value, "X", "x")
	}
	alarm := func(reason, message string) func(*stored) {
		return condition(v1alpha1.ConditionTokenMisused, metav1.ConditionTrue, reason, message)
	}
	enforced := func(value metav1.ConditionStatus, reason string) func(*stored) {
		return condition(v1alpha1.ConditionApprovalEnforced, value, reason, "x")
	}
	served := func(value metav1.ConditionStatus, reason string) func(*stored) {
		return condition(v1alpha1.ConditionServingCertificateApproved, value, reason, "x")
	}
	both := func(edits ...func(*stored)) func(*stored) {
		return func(s *stored) {
			for _, edit := range edits {
				edit(s)
			}
		}
	}
	nothing := func(*stored) {}
	tests := map[string]struct {
		old, new func(*stored)
		want     string // "Type Reason", in their order
	}{
		"nothing":         {nothing, nothing, ""},
		"the first token": {func(s *stored) { *s = stored{} }, nothing, "Normal Published"},
		"a renewal":       {nothing, func(s *stored) { s.Token.ID = nodetest.NthID(2) }, "Normal Published"},
		"replaced": {nothing, func(s *stored) {
			s.Token.ID, s.LastTokenID, s.Tokens = nodetest.NthID(2), nodetest.NthID(2), []v1alpha1.LiveToken{{ID: nodetest.NthID(2)}}
		}, "Normal Published, Normal TokenReplaced"},
		"a reissue": {nothing, func(s *stored) {
			s.Token.ID, s.LastTokenID, s.Tokens = nodetest.NthID(2), nodetest.NthID(2), []v1alpha1.LiveToken{{ID: nodetest.NthID(2)}}
			s.LastHandledReissueAt = "again"
		}, "Normal Published, Normal Reissued"},
		"a reissue that is no news": {func(s *stored) { s.LastHandledReissueAt = "again" }, func(s *stored) { s.LastHandledReissueAt = "again" }, ""},
		"created with a reissue":    {func(s *stored) { *s = stored{} }, func(s *stored) { s.LastHandledReissueAt = "again" }, "Normal Published"},
		"the Node was deleted": {both(joined(metav1.ConditionTrue), func(s *stored) { s.AwaitingSince, s.Token, s.Tokens, s.KubeconfigSecretRef = nil, nil, nil, nil }),
			both(joined(metav1.ConditionFalse), func(s *stored) { s.Token.ID = nodetest.NthID(2) }), "Normal Published, Normal NodeDeleted"},
		"another end of the token":    {nothing, func(s *stored) { s.Token.ExpirationTime = nodetest.Ago(0) }, ""},
		"published at last":           {func(s *stored) { s.KubeconfigSecretRef = nil }, nothing, "Normal Published"},
		"not published any more":      {nothing, func(s *stored) { s.KubeconfigSecretRef = nil }, ""},
		"the token was deleted":       {nothing, func(s *stored) { s.KubeconfigSecretRef, s.Token = nil, nil }, ""},
		"approved":                    {nothing, certificates(unissued), "Normal CertificateApproved"},
		"approved and issued":         {nothing, certificates(nodetest.ApprovedDecision("csr-a", 1, 0)), "Normal CertificateApproved, Normal CertificateIssued"},
		"issued":                      {certificates(unissued), certificates(nodetest.ApprovedDecision("csr-a", 1, 0)), "Normal CertificateIssued"},
		"issued before":               {certificates(nodetest.ApprovedDecision("csr-a", 1, 0)), certificates(nodetest.ApprovedDecision("csr-a", 1, 0)), ""},
		"denied":                      {nothing, certificates(nodetest.DeniedDecision("csr-a", 1, 0)), "Warning CertificateDenied"},
		"denied before":               {certificates(nodetest.DeniedDecision("csr-a", 1, 0)), certificates(nodetest.DeniedDecision("csr-a", 1, 0)), ""},
		"one more denied":             {certificates(nodetest.DeniedDecision("csr-a", 1, 0)), certificates(nodetest.DeniedDecision("csr-a", 1, 0), nodetest.DeniedDecision("csr-b", 1, 0)), "Warning CertificateDenied"},
		"joined":                      {joined(metav1.ConditionFalse), joined(metav1.ConditionTrue), "Normal Joined"},
		"joined, no condition before": {nothing, joined(metav1.ConditionTrue), "Normal Joined"},
		"joined before":               {joined(metav1.ConditionTrue), joined(metav1.ConditionTrue), ""},
		"no longer joined":            {joined(metav1.ConditionTrue), joined(metav1.ConditionFalse), ""},
		"stalled":                     {nothing, stalled("CAExpired", "x"), "Warning CAExpired"},
		"stalled before":              {stalled("CAExpired", "x"), stalled("CAExpired", "y"), ""},
		"stalled for another reason":  {stalled("CAExpired", "x"), stalled("CAInvalid", "x"), "Warning CAInvalid"},
		"not stalled any more":        {stalled("CAExpired", "x"), nothing, ""},
		"ignored":                     {nothing, certificates(nodetest.Decision('i', "csr-a")), "Warning RequestIgnored"},
		"ignored before":              {certificates(nodetest.Decision('i', "csr-a")), certificates(nodetest.Decision('i', "csr-a")), ""},
		"ignored, approved since":     {certificates(nodetest.Decision('i', "csr-a")), certificates(nodetest.ApprovedDecision("csr-a", 1, 0)), "Warning CertificateApproved, Normal CertificateIssued"},
		"denied, approved since":      {certificates(nodetest.DeniedDecision("csr-a", 1, 0)), certificates(unissued), "Warning CertificateApproved"},
		"approved for another":        {nothing, certificates(nodetest.Because("WrongSubject", unissued)), "Warning CertificateApproved"},
		"the same before":             {certificates(nodetest.Because("WrongSubject", unissued)), certificates(nodetest.Because("WrongSubject", unissued)), ""},
		"a serving certificate":       {nothing, certificates(nodetest.Decision('s', "csr-a")), "Normal CertificateApproved"},
		"a serving one, denied":       {nothing, certificates(nodetest.Decision('x', "csr-a")), "Warning CertificateDenied"},

		"an alarm":                     {nothing, alarm("SecondKey", "x"), "Warning TokenMisused"},
		"an alarm before":              {alarm("SecondKey", "x"), alarm("SecondKey", "x"), ""},
		"an alarm, in other words":     {alarm("SecondKey", "x"), alarm("SecondKey", "y"), ""},
		"an alarm for another reason":  {alarm("SecondKey", "x"), alarm("WrongSubject", "x"), "Warning TokenMisused"},
		"an alarm that is over":        {alarm("SecondKey", "x"), nothing, ""},
		"an alarm and its denial":      {nothing, both(alarm("SecondKey", "x"), certificates(nodetest.DeniedDecision("csr-a", 1, 0))), "Warning CertificateDenied, Warning TokenMisused"},
		"an alarm that withdraws":      {nothing, both(alarm("SecondKey", "x"), stalled("TokenMisused", "x")), "Warning TokenMisused"},
		"withdrawn for an alarm":       {alarm("SecondKey", "x"), both(alarm("SecondKey", "x"), stalled("TokenMisused", "x")), ""},
		"withdrawn, stalled before":    {stalled("CAExpired", "x"), stalled("TokenMisused", "x"), ""},
		"stalled, withdrawn before":    {stalled("TokenMisused", "x"), stalled("CAExpired", "x"), "Warning CAExpired"},
		"a condition that is no alarm": {nothing, condition(v1alpha1.ConditionTokenMisused, metav1.ConditionFalse, "SecondKey", "x"), ""},

		"others approve":              {nothing, enforced(metav1.ConditionFalse, "ApprovedByOthers"), "Warning ApprovedByOthers"},
		"others approve, as before":   {enforced(metav1.ConditionFalse, "ApprovedByOthers"), enforced(metav1.ConditionFalse, "ApprovedByOthers"), ""},
		"others approve since":        {enforced(metav1.ConditionTrue, "NothingElseApproves"), enforced(metav1.ConditionFalse, "ApprovedByOthers"), "Warning ApprovedByOthers"},
		"others approved, and are to": {enforced(metav1.ConditionFalse, "ApprovedByOthers"), enforced(metav1.ConditionFalse, "ApprovalClusterWide"), "Warning ApprovalClusterWide"},
		"others approved, it is open": {enforced(metav1.ConditionFalse, "ApprovedByOthers"), enforced(metav1.ConditionUnknown, "ApproversUnknown"), ""},
		"nothing else approves":       {nothing, enforced(metav1.ConditionTrue, "NothingElseApproves"), ""},
		"nothing else does any more":  {enforced(metav1.ConditionFalse, "ApprovedByOthers"), enforced(metav1.ConditionTrue, "NothingElseApproves"), ""},
		"unknown who approves":        {nothing, enforced(metav1.ConditionUnknown, "ApproversUnknown"), ""},
		"it was unknown who approves": {enforced(metav1.ConditionUnknown, "ApprovedByOthers"), enforced(metav1.ConditionFalse, "ApprovedByOthers"), "Warning ApprovedByOthers"},
		"no token any more":           {enforced(metav1.ConditionFalse, "ApprovedByOthers"), nothing, ""},

		"a serving certificate waits":    {nothing, served(metav1.ConditionFalse, "AddressNotDeclared"), "Warning AddressNotDeclared"},
		"it waits, as before":            {served(metav1.ConditionFalse, "AddressNotDeclared"), served(metav1.ConditionFalse, "AddressNotDeclared"), ""},
		"it waits for another reason":    {served(metav1.ConditionFalse, "AddressNotDeclared"), served(metav1.ConditionFalse, "AddressReserved"), "Warning AddressReserved"},
		"it waited, and is approved":     {served(metav1.ConditionFalse, "AddressNotDeclared"), served(metav1.ConditionTrue, "KubeletServingOfThisNode"), ""},
		"it was approved, another waits": {served(metav1.ConditionTrue, "KubeletServingOfThisNode"), served(metav1.ConditionFalse, "AddressReserved"), "Warning AddressReserved"},
		"none was requested":             {nothing, served(metav1.ConditionUnknown, "AwaitingRequest"), ""},

		"all at once": {nothing, func(s *stored) {
			certificates(unissued)(s)
			joined(metav1.ConditionTrue)(s)
			stalled("CAExpired", "x")(s)
		}, "Normal CertificateApproved, Normal Joined, Warning CAExpired"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before, after := nodetest.StatusOf(1, nodetest.Young), nodetest.StatusOf(1, nodetest.Young)
			tt.old(&before)
			tt.new(&after)
			var got []string
			for _, e := range status.Events(&before, &after) {
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

// saying is a decision with a message.
func saying(message string, d v1alpha1.CertificateDecision) v1alpha1.CertificateDecision {
	d.Message = message
	return d
}

// A note names the sender of the CSR and the verdict, without the token's secret part.
func TestEventsNameTheSender(t *testing.T) {
	another := nodetest.DeniedDecision("csr-a", 1, 0)
	another.SignerName = "example.com/signer"
	tests := map[string]struct {
		decision v1alpha1.CertificateDecision
		named    []string
	}{
		"a token's":          {nodetest.DeniedDecision("csr-a", 1, 0), []string{"denying", "csr-a", "sent with the token " + nodetest.NthID(1), "SecondKey"}},
		"approved":           {nodetest.ApprovedDecision("csr-a", 1, 0), []string{"approving", "csr-a", "sent with the token " + nodetest.NthID(1), "KubeletClientOfThisNode"}},
		"ignored":            {nodetest.Decision('i', "csr-a"), []string{"leaving alone", "csr-a", "all that follow", "sent with the token " + nodetest.NthID(1), "TooManyRequests"}},
		"deleted":            {nodetest.Because("WrongSigner", another), []string{"deleting", "csr-a", "sent with the token " + nodetest.NthID(1), "WrongSigner"}},
		"elsewhere":          {nodetest.Because("WrongSubject", nodetest.ApprovedDecision("csr-a", 1, 0)), []string{"someone else approved", "csr-a", "sent with the token " + nodetest.NthID(1), "WrongSubject"}},
		"by someone else":    {nodetest.Because("ApprovedElsewhere", nodetest.ApprovedDecision("csr-a", 1, 0)), []string{"CSR csr-a was approved by someone else", "sent with the token " + nodetest.NthID(1), "ApprovedElsewhere"}},
		"denied by others":   {nodetest.Because("DeniedElsewhere", saying("not this one", nodetest.DeniedDecision("csr-a", 1, 0))), []string{"CSR csr-a was denied by someone else", "not this one", "DeniedElsewhere"}},
		"denied, and why":    {saying("another key", nodetest.DeniedDecision("csr-a", 1, 0)), []string{"denying", "csr-a", "SecondKey: another key"}},
		"the node's, denied": {nodetest.Decision('x', "csr-a"), []string{"denying", "csr-a", "sent by the node", "NoAddress", "see its condition"}},
		"the node's":         {nodetest.Decision('s', "csr-a"), []string{"approving", "csr-a", "sent by the node", "KubeletServingOfThisNode"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			events := status.Events(&v1alpha1.NodeBootstrapStatus{}, &v1alpha1.NodeBootstrapStatus{Certificates: []v1alpha1.CertificateDecision{tt.decision}})
			for _, want := range tt.named {
				if !strings.Contains(events[0].Note, want) {
					t.Errorf("%q is not in the note: %s", want, events[0].Note)
				}
			}
		})
	}
}

// A full log drops denials of serving certificates in favor of those for tokens: they are not new when they are found again.
func TestServingDenialsAreNotReportedAgain(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	nodetest.Declares()(f)
	for i := range 4 {
		r := blank(fmt.Sprintf("serving-%d", i))
		nodetest.Decided(certificatesv1.CertificateDenied, nodetest.Minutes(1))(r)
		nodetest.Reason(csr.ReasonNoAddress)(r)
		f.ServingRequests = append(f.ServingRequests, r)
	}
	nodetest.Records(append(nodetest.History("AOMsa"), nodetest.Denials(1, 7)...)...)(f)
	reconcile(f)
	f.Requests = nodetest.BadRequests(1, 1)
	_, _, events := reconcile(f)
	for _, e := range events {
		if strings.Contains(e.Note, "serving-") {
			t.Errorf("reported again: %s", e.Note)
		}
	}
}

// Someone else's approval of a theft is not reported as the operator's; a deleted CSR has no condition to look at.
func TestEventsOnThefts(t *testing.T) {
	events := func(edit ...func(*certificatesv1.CertificateSigningRequest)) []status.Event {
		f := nodetest.Awaited(1, nodetest.Young)
		f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, 0, edit...)}
		_, _, events := reconcile(f)
		return slices.DeleteFunc(events, func(e status.Event) bool { return !strings.HasPrefix(e.Reason, "Certificate") })
	}
	elsewhere := events(nodetest.ForNode("worker-2"), nodetest.Approved(0))
	if len(elsewhere) != 1 || strings.HasPrefix(elsewhere[0].Note, "approving") {
		t.Errorf("approved elsewhere: %+v", elsewhere)
	}
	deleted := events(nodetest.AnotherSigner)
	if len(deleted) != 1 || deleted[0].Type != "Warning" || strings.Contains(deleted[0].Note, "see its condition") {
		t.Errorf("deleted: %+v", deleted)
	}
}
