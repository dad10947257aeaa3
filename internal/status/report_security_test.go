// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

// reported is the status after a plan for the facts, with this outcome.
func reported(f *lifecycle.Facts, o status.Outcome) *v1alpha1.NodeBootstrapStatus {
	p := nodetest.Decide(f, nodetest.Now)
	return status.Report(f, &p, &o, nodetest.Now)
}

func TestReportWithdrawnCredentials(t *testing.T) {
	alarm := nodetest.Raised(csr.ReasonWrongSubject)
	gone := conditions{ready: "False TokenMisused", credentials: "False TokenMisused", joined: "False AwaitingNode", stalled: "TokenMisused"}
	failed := conditions{ready: "False WriteFailed", credentials: "False WriteFailed", joined: "False AwaitingNode", reconciling: "WriteFailed"}
	good := conditions{ready: "True AwaitingNode", credentials: "True Published", joined: "False AwaitingNode"}
	bindings := func(f *lifecycle.Facts) {
		f.BindingsProblem = &problem.Problem{Reason: v1alpha1.ReasonBindingsPending, Message: "being made"}
	}
	tests := map[string]struct {
		facts   *lifecycle.Facts
		edit    func(*lifecycle.Facts)
		outcome status.Outcome
		want    conditions
		token   bool // the status names a token
	}{
		"withdrawn":              {nodetest.Awaited(1, nodetest.Young), alarm, status.Outcome{}, gone, false},
		"withdrawn just now":     {nodetest.Awaited(1, nodetest.Young), nodetest.With(nodetest.Request("csr-a", 1, 0, nodetest.ForNode("worker-2"))), status.Outcome{}, gone, false},
		"withdrawn, no cluster":  {nodetest.Awaited(1, nodetest.Young), nodetest.Edits(alarm, nodetest.NoCluster), status.Outcome{}, gone, false},
		"withdrawn, no bindings": {nodetest.Awaited(1, nodetest.Young), nodetest.Edits(alarm, bindings), status.Outcome{}, gone, false},
		"it could not be":        {nodetest.Awaited(1, nodetest.Young), alarm, status.Outcome{Err: nodetest.ErrWrite}, failed, true},
		"it could not, at first": {nodetest.Awaited(1, nodetest.Young), nodetest.With(nodetest.Request("csr-a", 1, 0, nodetest.ForNode("worker-2"))), status.Outcome{Err: nodetest.ErrWrite}, failed, true},
		"nor, and no cluster": {nodetest.Awaited(1, nodetest.Young), nodetest.Edits(alarm, nodetest.NoCluster), status.Outcome{Err: nodetest.ErrWrite},
			conditions{ready: "False ServerUnknown", credentials: "False WriteFailed", joined: "False AwaitingNode", stalled: "ServerUnknown"}, true},
		"a key is approved":     {nodetest.Awaited(1, nodetest.Young), nodetest.Edits(alarm, nodetest.Claimed("csr-a")), published(1, nodetest.Young), good, true},
		"reissued since":        {nodetest.Awaited(1, nodetest.Young), nodetest.Edits(alarm, nodetest.AskReissue), published(2, 0), good, true},
		"reissued, the old one": {nodetest.Reissued(), nodetest.Edits(alarm, func(f *lifecycle.Facts) { f.Requests = nil }), status.Outcome{}, conditions{ready: "False TokenMisused", credentials: "False TokenMisused", joined: "False Reissued", stalled: "TokenMisused"}, false},
		"ClusterWide":           {nodetest.Awaited(1, nodetest.Young), nodetest.Edits(alarm, nodetest.Approval(v1alpha1.ApprovalClusterWide)), published(1, nodetest.Young), good, true},
		"joined":                {nodetest.JoinedBefore(), alarm, status.Outcome{}, conditions{ready: "True Joined", credentials: "False Joined", joined: "True NodeHasCertificate"}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.edit(tt.facts)
			s := reported(tt.facts, tt.outcome)
			meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionTokenMisused)
			if got := shortConditions(t, s); got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
			if (s.Token != nil) != tt.token || (s.KubeconfigSecretRef != nil) != tt.token {
				t.Errorf("the status names the token %v and the Secret %v", s.Token, s.KubeconfigSecretRef)
			}
			ready := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady)
			if named := strings.Contains(ready.Message, v1alpha1.ReissueRequestedAtAnnotation); named != (ready.Reason == v1alpha1.ReasonTokenMisused) {
				t.Errorf("the message is %s", ready.Message)
			}
		})
	}
}

func TestReportAlarm(t *testing.T) {
	theft := nodetest.With(nodetest.Request("csr-a", 1, 0, nodetest.ForNode("worker-2")))
	tests := map[string]struct {
		edit    func(*lifecycle.Facts)
		outcome status.Outcome
		want    string
		first   bool // the alarm is unchanged
	}{
		"none":                       {nodetest.Unchanged, published(1, nodetest.Young), "", false},
		"evidence":                   {theft, status.Outcome{}, "True WrongSubject", false},
		"evidence, write failed":     {theft, status.Outcome{Err: nodetest.ErrWrite}, "True WrongSubject", false},
		"it is raised":               {nodetest.Raised("SecondKey"), status.Outcome{}, "True SecondKey", true},
		"it is raised, more of it":   {nodetest.Edits(nodetest.Raised("SecondKey"), theft), status.Outcome{}, "True SecondKey", true},
		"it is raised, write failed": {nodetest.Raised("SecondKey"), status.Outcome{Err: nodetest.ErrWrite}, "True SecondKey", true},
		"reissued":                   {nodetest.Edits(nodetest.Raised("SecondKey"), nodetest.AskReissue), published(2, 0), "", false},
		"reissued, not created":      {nodetest.Edits(nodetest.Raised("SecondKey"), nodetest.AskReissue), status.Outcome{}, "True SecondKey", true},
		"reissued, write failed":     {nodetest.Edits(nodetest.Raised("SecondKey"), nodetest.AskReissue), status.Outcome{Err: nodetest.ErrWrite}, "True SecondKey", true},
		"reissued before":            {nodetest.Edits(nodetest.Raised("SecondKey"), nodetest.HandledReissue), status.Outcome{}, "True SecondKey", true},
		"a denial, no evidence":      {nodetest.With(nodetest.Request("csr-a", 1, 0, nodetest.TooLong)), published(1, nodetest.Young), "", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Awaited(1, nodetest.Young)
			tt.edit(f)
			before := nodetest.AlarmOf(&f.NodeBootstrap.Status)
			s := reported(f, tt.outcome)
			if got := nodetest.Short(s, v1alpha1.ConditionTokenMisused); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			is := nodetest.AlarmOf(s)
			if tt.first && *is != *before {
				t.Errorf("got  %+v\nwas %+v", is, before)
			}
			if is != nil && !tt.first && (is.ObservedGeneration != 3 || !is.LastTransitionTime.Time.Equal(nodetest.Now) || !strings.Contains(is.Message, "csr-a")) {
				t.Errorf("got %+v", is)
			}
		})
	}
}

func TestReportApprovalEnforced(t *testing.T) {
	open := func(f *lifecycle.Facts) {
		f.Bypass = &lifecycle.Bypass{Open: true, Why: []string{"binding one", "binding two"}}
	}
	closed := func(f *lifecycle.Facts) { f.Bypass = &lifecycle.Bypass{} }
	wide := nodetest.Approval(v1alpha1.ApprovalClusterWide)
	const yes, no, unknown = "True NothingElseApproves", "False ApprovedByOthers", "Unknown ApproversUnknown"
	tests := map[string]struct {
		facts   *lifecycle.Facts
		edit    func(*lifecycle.Facts)
		outcome status.Outcome
		want    string
		named   string
	}{
		"nobody else":               {nodetest.Awaited(1, nodetest.Young), closed, published(1, nodetest.Young), yes, ""},
		"nobody, a new token":       {nodetest.Fresh(), closed, published(1, 0), yes, ""},
		"nobody, not published":     {nodetest.Fresh(), closed, unpublished(published(1, 0)), yes, ""},
		"others":                    {nodetest.Awaited(1, nodetest.Young), open, published(1, nodetest.Young), no, "binding one; binding two"},
		"others, Manual":            {nodetest.Awaited(1, nodetest.Young), nodetest.Edits(open, nodetest.Approval(v1alpha1.ApprovalManual)), published(1, nodetest.Young), no, "certificatesigningrequests/nodeclient"},
		"not known":                 {nodetest.Awaited(1, nodetest.Young), nodetest.Unchanged, published(1, nodetest.Young), unknown, "could not be asked"},
		"ClusterWide":               {nodetest.Awaited(1, nodetest.Young), nodetest.Edits(wide, closed), published(1, nodetest.Young), "False ApprovalClusterWide", "any node"},
		"ClusterWide, others too":   {nodetest.Awaited(1, nodetest.Young), nodetest.Edits(wide, open), published(1, nodetest.Young), "False ApprovalClusterWide", "spec.clientCertificate.approval"},
		"ClusterWide, not known":    {nodetest.Awaited(1, nodetest.Young), wide, published(1, nodetest.Young), "False ApprovalClusterWide", ""},
		"no token":                  {nodetest.Fresh(), open, status.Outcome{}, "", ""},
		"no token could be created": {nodetest.Fresh(), open, status.Outcome{Err: nodetest.ErrWrite}, "", ""},
		"it expired":                {nodetest.Awaited(1, nodetest.Old), nodetest.Edits(open, nodetest.NoCluster), status.Outcome{}, "", ""},
		"joined":                    {nodetest.JoinedBefore(), open, status.Outcome{}, "", ""},
		"withdrawn":                 {nodetest.Awaited(1, nodetest.Young), nodetest.Edits(open, nodetest.Raised("SecondKey")), status.Outcome{}, "", ""},
		"not withdrawn yet":         {nodetest.Awaited(1, nodetest.Young), nodetest.Edits(open, nodetest.Raised("SecondKey")), status.Outcome{Err: nodetest.ErrWrite}, no, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, before := range []func(*lifecycle.Facts){nodetest.Unchanged, func(f *lifecycle.Facts) { // it existed before
				meta.SetStatusCondition(&f.NodeBootstrap.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionApprovalEnforced, Status: metav1.ConditionUnknown, Reason: "Before"})
			}} {
				f := *tt.facts
				f.NodeBootstrap = tt.facts.NodeBootstrap.DeepCopy()
				before(&f)
				tt.edit(&f)
				s := reported(&f, tt.outcome)
				if got := nodetest.Short(s, v1alpha1.ConditionApprovalEnforced); got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
				if c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionApprovalEnforced); c != nil && !strings.Contains(c.Message, tt.named) {
					t.Errorf("%q is not in the message: %s", tt.named, c.Message)
				}
			}
		})
	}
}

func TestReportServingCertificateApproved(t *testing.T) {
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return nodetest.ServingRequest("serving-a", nodetest.Minutes(2), edit...)
	}
	b := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return nodetest.ServingRequest("serving-b", nodetest.Minutes(1), edit...)
	}
	asks := func(requests ...*certificatesv1.CertificateSigningRequest) func(*lifecycle.Facts) {
		return nodetest.Edits(nodetest.Declares(), nodetest.Serves(requests...))
	}
	ours := func(age time.Duration) func(*certificatesv1.CertificateSigningRequest) {
		return func(r *certificatesv1.CertificateSigningRequest) {
			nodetest.Approved(age)(r)
			nodetest.Reason(csr.ReasonKubeletServing)(r)
		}
	}
	noAddress := func(r *certificatesv1.CertificateSigningRequest) {
		nodetest.Decided(certificatesv1.CertificateDenied, 0)(r)
		nodetest.Reason(csr.ReasonNoAddress)(r)
	}
	entries := func(letters string) func(*lifecycle.Facts) { return nodetest.Records(nodetest.History(letters)...) }
	const unasked, yes, denied = "Unknown AwaitingRequest", "True KubeletServingOfThisNode", "False NoAddress"
	tests := map[string]struct {
		edit  func(*lifecycle.Facts)
		want  string
		named string
	}{
		"nothing is declared":              {nodetest.Serves(a(ours(0))), "", ""},
		"not declared any more":            {entries("as"), "", ""},
		"none was requested":               {nodetest.Declares(), unasked, "serverTLSBootstrap"},
		"others are on record":             {nodetest.Edits(nodetest.Declares(), entries("adiom")), unasked, ""},
		"it is approved in this reconcile": {asks(a()), unasked, ""},
		"it was approved":                  {asks(a(ours(0))), yes, "serving-a"},
		"someone else approved it":         {asks(a(nodetest.Approved(0))), "True ApprovedElsewhere", "serving-a"},
		"it was denied":                    {asks(a(noAddress)), denied, "serving-a"},
		"it waits":                         {asks(a(nodetest.Naming("192.0.2.8"))), "False AddressNotDeclared", "192.0.2.8"},
		"it waits, one was approved":       {asks(a(ours(0)), b(nodetest.Naming("192.0.2.8"))), "False AddressNotDeclared", "192.0.2.8"},
		"one waited, it is approved":       {asks(a(nodetest.Naming("192.0.2.8")), b(ours(0))), yes, "serving-b"},
		"the last one was denied":          {asks(a(ours(nodetest.Minutes(1))), b(noAddress)), denied, "serving-b"},
		"the last one was approved":        {asks(a(noAddress), b(ours(-time.Second))), yes, "serving-b"},
		"approved, on record":              {nodetest.Edits(nodetest.Declares(), entries("xsad")), yes, "1"},
		"denied, on record":                {nodetest.Edits(nodetest.Declares(), entries("sxad")), denied, "1"},
		"a new one is to be approved":      {nodetest.Edits(asks(a()), entries("sx")), denied, "1"},
		"too many":                         {asks(append(nodetest.ServingRequests(20, ours(0)), nodetest.ServingRequest("serving-c", 0))...), "False TooManyRequests", "hour"},
		"too many, an older one":           {asks(append(nodetest.ServingRequests(20, ours(0)), a())...), yes, "serving/19"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := nodetest.JoinedBefore()
			tt.edit(f)
			s := reported(f, status.Outcome{})
			if got := nodetest.Short(s, v1alpha1.ConditionServingCertificateApproved); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionServingCertificateApproved); c != nil && !strings.Contains(c.Message, tt.named) {
				t.Errorf("%q is not in the message: %s", tt.named, c.Message)
			}
		})
	}
}
