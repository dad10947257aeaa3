// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// reported is a status after a plan of the facts, with this outcome.
func reported(f *Facts, o Outcome) *v1alpha1.NodeBootstrapStatus {
	p := decide(f, now)
	return Report(f, &p, &o, now)
}

func TestReportWithdrawnCredentials(t *testing.T) {
	alarm := raised(csr.ReasonWrongSubject)
	gone := told{ready: "False TokenMisused", credentials: "False TokenMisused", joined: "False AwaitingNode", stalled: "TokenMisused"}
	failed := told{ready: "False WriteFailed", credentials: "False WriteFailed", joined: "False AwaitingNode", reconciling: "WriteFailed"}
	good := told{ready: "True AwaitingNode", credentials: "True Published", joined: "False AwaitingNode"}
	bindings := func(f *Facts) { f.BindingsProblem = &Problem{v1alpha1.ReasonBindingsPending, "being made"} }
	tests := map[string]struct {
		facts   *Facts
		edit    func(*Facts)
		outcome Outcome
		want    told
		token   bool // the status names a token
	}{
		"withdrawn":              {awaited(1, young), alarm, Outcome{}, gone, false},
		"withdrawn just now":     {awaited(1, young), with(request("csr-a", 1, 0, forNode("worker-2"))), Outcome{}, gone, false},
		"withdrawn, no cluster":  {awaited(1, young), edits(alarm, noCluster), Outcome{}, gone, false},
		"withdrawn, no bindings": {awaited(1, young), edits(alarm, bindings), Outcome{}, gone, false},
		"it could not be":        {awaited(1, young), alarm, Outcome{Err: errWrite}, failed, true},
		"it could not, at first": {awaited(1, young), with(request("csr-a", 1, 0, forNode("worker-2"))), Outcome{Err: errWrite}, failed, true},
		"nor, and no cluster": {awaited(1, young), edits(alarm, noCluster), Outcome{Err: errWrite},
			told{ready: "False ServerUnknown", credentials: "False WriteFailed", joined: "False AwaitingNode", stalled: "ServerUnknown"}, true},
		"a key is approved":     {awaited(1, young), edits(alarm, claimed("csr-a")), published(1, young), good, true},
		"reissued since":        {awaited(1, young), edits(alarm, askReissue), published(2, 0), good, true},
		"reissued, the old one": {reissued(), edits(alarm, func(f *Facts) { f.Requests = nil }), Outcome{}, told{ready: "False TokenMisused", credentials: "False TokenMisused", joined: "False Reissued", stalled: "TokenMisused"}, false},
		"ClusterWide":           {awaited(1, young), edits(alarm, approval(v1alpha1.ApprovalClusterWide)), published(1, young), good, true},
		"joined":                {joinedBefore(), alarm, Outcome{}, told{ready: "True Joined", credentials: "False Joined", joined: "True NodeHasCertificate"}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.edit(tt.facts)
			status := reported(tt.facts, tt.outcome)
			meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionTokenMisused)
			if got := toldBy(t, status); got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
			if (status.Token != nil) != tt.token || (status.KubeconfigSecretRef != nil) != tt.token {
				t.Errorf("the status names the token %v and the Secret %v", status.Token, status.KubeconfigSecretRef)
			}
			ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
			if named := strings.Contains(ready.Message, v1alpha1.ReissueRequestedAtAnnotation); named != (ready.Reason == v1alpha1.ReasonTokenMisused) {
				t.Errorf("the message is %s", ready.Message)
			}
		})
	}
}

func TestReportAlarm(t *testing.T) {
	theft := with(request("csr-a", 1, 0, forNode("worker-2")))
	tests := map[string]struct {
		edit    func(*Facts)
		outcome Outcome
		want    string
		first   bool // the alarm is as it was
	}{
		"none":                    {as, published(1, young), "", false},
		"evidence":                {theft, Outcome{}, "True WrongSubject", false},
		"evidence, write failed":  {theft, Outcome{Err: errWrite}, "True WrongSubject", false},
		"it stands":               {raised("SecondKey"), Outcome{}, "True SecondKey", true},
		"it stands, more of it":   {edits(raised("SecondKey"), theft), Outcome{}, "True SecondKey", true},
		"it stands, write failed": {raised("SecondKey"), Outcome{Err: errWrite}, "True SecondKey", true},
		"reissued":                {edits(raised("SecondKey"), askReissue), published(2, 0), "", false},
		"reissued, not made":      {edits(raised("SecondKey"), askReissue), Outcome{}, "True SecondKey", true},
		"reissued, write failed":  {edits(raised("SecondKey"), askReissue), Outcome{Err: errWrite}, "True SecondKey", true},
		"reissued before":         {edits(raised("SecondKey"), handledReissue), Outcome{}, "True SecondKey", true},
		"a denial, no evidence":   {with(request("csr-a", 1, 0, tooLong)), published(1, young), "", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := awaited(1, young)
			tt.edit(f)
			before := alarmOf(&f.NodeBootstrap.Status)
			status := reported(f, tt.outcome)
			if got := short(status, v1alpha1.ConditionTokenMisused); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			is := alarmOf(status)
			if tt.first && *is != *before {
				t.Errorf("got  %+v\nwas %+v", is, before)
			}
			if is != nil && !tt.first && (is.ObservedGeneration != 3 || !is.LastTransitionTime.Time.Equal(now) || !strings.Contains(is.Message, "csr-a")) {
				t.Errorf("got %+v", is)
			}
		})
	}
}

func TestReportApprovalEnforced(t *testing.T) {
	open := func(f *Facts) { f.Bypass = &Bypass{Open: true, Why: []string{"binding one", "binding two"}} }
	closed := func(f *Facts) { f.Bypass = &Bypass{} }
	wide := approval(v1alpha1.ApprovalClusterWide)
	const yes, no, unknown = "True NothingElseApproves", "False ApprovedByOthers", "Unknown ApproversUnknown"
	tests := map[string]struct {
		facts   *Facts
		edit    func(*Facts)
		outcome Outcome
		want    string
		named   string
	}{
		"nobody else":             {awaited(1, young), closed, published(1, young), yes, ""},
		"nobody, a new token":     {fresh(), closed, published(1, 0), yes, ""},
		"nobody, not published":   {fresh(), closed, unpublished(published(1, 0)), yes, ""},
		"others":                  {awaited(1, young), open, published(1, young), no, "binding one; binding two"},
		"others, Manual":          {awaited(1, young), edits(open, approval(v1alpha1.ApprovalManual)), published(1, young), no, "certificatesigningrequests/nodeclient"},
		"not known":               {awaited(1, young), as, published(1, young), unknown, "could not be asked"},
		"ClusterWide":             {awaited(1, young), edits(wide, closed), published(1, young), "False ApprovalClusterWide", "any node"},
		"ClusterWide, others too": {awaited(1, young), edits(wide, open), published(1, young), "False ApprovalClusterWide", "spec.clientCertificate.approval"},
		"ClusterWide, not known":  {awaited(1, young), wide, published(1, young), "False ApprovalClusterWide", ""},
		"no token":                {fresh(), open, Outcome{}, "", ""},
		"no token could be made":  {fresh(), open, Outcome{Err: errWrite}, "", ""},
		"it expired":              {awaited(1, old), edits(open, noCluster), Outcome{}, "", ""},
		"joined":                  {joinedBefore(), open, Outcome{}, "", ""},
		"withdrawn":               {awaited(1, young), edits(open, raised("SecondKey")), Outcome{}, "", ""},
		"not withdrawn yet":       {awaited(1, young), edits(open, raised("SecondKey")), Outcome{Err: errWrite}, no, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, before := range []func(*Facts){as, func(f *Facts) { // it was there before
				meta.SetStatusCondition(&f.NodeBootstrap.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionApprovalEnforced, Status: metav1.ConditionUnknown, Reason: "Before"})
			}} {
				f := *tt.facts
				f.NodeBootstrap = tt.facts.NodeBootstrap.DeepCopy()
				before(&f)
				tt.edit(&f)
				status := reported(&f, tt.outcome)
				if got := short(status, v1alpha1.ConditionApprovalEnforced); got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
				if c := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionApprovalEnforced); c != nil && !strings.Contains(c.Message, tt.named) {
					t.Errorf("%q is not in the message: %s", tt.named, c.Message)
				}
			}
		})
	}
}

func TestReportServingCertificateApproved(t *testing.T) {
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return servingRequest("serving-a", minutes(2), edit...)
	}
	b := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return servingRequest("serving-b", minutes(1), edit...)
	}
	asks := func(requests ...*certificatesv1.CertificateSigningRequest) func(*Facts) {
		return edits(declares(), serves(requests...))
	}
	ours := func(age time.Duration) func(*certificatesv1.CertificateSigningRequest) {
		return func(r *certificatesv1.CertificateSigningRequest) {
			approved(age)(r)
			reason(csr.ReasonKubeletServing)(r)
		}
	}
	noAddress := func(r *certificatesv1.CertificateSigningRequest) {
		decided(certificatesv1.CertificateDenied, 0)(r)
		reason(csr.ReasonNoAddress)(r)
	}
	entries := func(letters string) func(*Facts) { return records(history(letters)...) }
	const unasked, yes, denied = "Unknown AwaitingRequest", "True KubeletServingOfThisNode", "False NoAddress"
	tests := map[string]struct {
		edit  func(*Facts)
		want  string
		named string
	}{
		"nothing is declared":         {serves(a(ours(0))), "", ""},
		"not declared any more":       {entries("as"), "", ""},
		"none was asked for":          {declares(), unasked, "serverTLSBootstrap"},
		"others are on record":        {edits(declares(), entries("adiom")), unasked, ""},
		"it is approved in this pass": {asks(a()), unasked, ""},
		"it was approved":             {asks(a(ours(0))), yes, "serving-a"},
		"someone else approved it":    {asks(a(approved(0))), "True ApprovedElsewhere", "serving-a"},
		"it was denied":               {asks(a(noAddress)), denied, "serving-a"},
		"it waits":                    {asks(a(naming("192.0.2.8"))), "False AddressNotDeclared", "192.0.2.8"},
		"it waits, one was approved":  {asks(a(ours(0)), b(naming("192.0.2.8"))), "False AddressNotDeclared", "192.0.2.8"},
		"one waited, it is approved":  {asks(a(naming("192.0.2.8")), b(ours(0))), yes, "serving-b"},
		"the last one was denied":     {asks(a(ours(minutes(1))), b(noAddress)), denied, "serving-b"},
		"the last one was approved":   {asks(a(noAddress), b(ours(-time.Second))), yes, "serving-b"},
		"approved, on record":         {edits(declares(), entries("xsad")), yes, "1"},
		"denied, on record":           {edits(declares(), entries("sxad")), denied, "1"},
		"a new one is to be approved": {edits(asks(a()), entries("sx")), denied, "1"},
		"too many":                    {asks(append(servingRequests(20, ours(0)), servingRequest("serving-c", 0))...), "False TooManyRequests", "hour"},
		"too many, an older one":      {asks(append(servingRequests(20, ours(0)), a())...), yes, "serving/19"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := joinedBefore()
			tt.edit(f)
			status := reported(f, Outcome{})
			if got := short(status, v1alpha1.ConditionServingCertificateApproved); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if c := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionServingCertificateApproved); c != nil && !strings.Contains(c.Message, tt.named) {
				t.Errorf("%q is not in the message: %s", tt.named, c.Message)
			}
		})
	}
}
