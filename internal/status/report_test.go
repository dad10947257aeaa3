// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

// conditions is the conditions of a status in short: "True AwaitingNode". Stalled and Reconciling are their reason, or empty if absent:
// kstatus wants them absent while they are not True.
type conditions struct{ ready, credentials, joined, stalled, reconciling string }

func shortConditions(t *testing.T, status *v1alpha1.NodeBootstrapStatus) conditions {
	t.Helper()
	short := func(conditionType string) string {
		c := meta.FindStatusCondition(status.Conditions, conditionType)
		if c == nil {
			return ""
		}
		if c.ObservedGeneration != 3 || c.Message == "" || c.LastTransitionTime.IsZero() {
			t.Errorf("the condition %s is incomplete: %+v", conditionType, c)
		}
		return string(c.Status) + " " + c.Reason
	}
	onlyTrue := func(conditionType string) string {
		text := short(conditionType)
		reason, ok := strings.CutPrefix(text, "True ")
		if text != "" && !ok {
			t.Errorf("the condition %s exists and is %s", conditionType, text)
		}
		return reason
	}
	if len(status.Conditions) > 5 {
		t.Errorf("the conditions are %v", status.Conditions)
	}
	return conditions{
		ready: short(v1alpha1.ConditionReady), credentials: short(v1alpha1.ConditionCredentialsAvailable), joined: short(v1alpha1.ConditionJoined),
		stalled: onlyTrue(v1alpha1.ConditionStalled), reconciling: onlyTrue(v1alpha1.ConditionReconciling),
	}
}

// published is the outcome without errors for the nth token.
func published(n int, age time.Duration) status.Outcome {
	t := nodetest.Token(n, age)
	return status.Outcome{Token: &t, Published: true, Acceptance: status.Accepted}
}

func unpublished(o status.Outcome) status.Outcome {
	o.Published = false
	return o
}

func acceptance(a status.Acceptance, o status.Outcome) status.Outcome {
	o.Acceptance = a
	return o
}

func failing(o status.Outcome) status.Outcome {
	o.Err = nodetest.ErrWrite
	return o
}

func problematic(o status.Outcome) status.Outcome {
	o.Problem = &problem.Problem{Reason: v1alpha1.ReasonObjectNotOurs, Message: "a Secret is in the way"}
	return o
}

func TestReportConditions(t *testing.T) {
	pendingBindings := func(f *lifecycle.Facts) {
		f.BindingsProblem = &problem.Problem{Reason: v1alpha1.ReasonBindingsPending, Message: "being made"}
	}
	unverified := func(f *lifecycle.Facts) { f.NodeBootstrap.Status.Conditions = nil }
	manual := func(f *lifecycle.Facts) {
		nodetest.Approval(v1alpha1.ApprovalManual)(f)
		nodetest.With(nodetest.Request("csr-a", 1, 0))(f)
	}
	late := func(age time.Duration) func(*lifecycle.Facts) {
		return nodetest.With(nodetest.Request("csr-a", 1, nodetest.Minutes(2), nodetest.Approved(age)))
	}
	const waits, available = "False AwaitingNode", "True Published"
	good := conditions{ready: "True AwaitingNode", credentials: available, joined: waits}
	joined := conditions{ready: "True Joined", credentials: "False Joined", joined: "True NodeHasCertificate"}
	reconciling := func(reason string) conditions {
		return conditions{ready: "False " + reason, credentials: "False " + reason, joined: waits, reconciling: reason}
	}
	stalledBy := func(reason string) conditions {
		return conditions{ready: "False " + reason, credentials: "False " + reason, joined: waits, stalled: reason}
	}
	tests := map[string]struct {
		facts   *lifecycle.Facts
		edit    func(*lifecycle.Facts)
		outcome status.Outcome
		want    conditions
	}{
		"waits with a new token":      {nodetest.Fresh(), nil, published(1, 0), good},
		"waits with a token":          {nodetest.Awaited(1, nodetest.Young), nil, published(1, nodetest.Young), good},
		"verified before":             {nodetest.Awaited(1, nodetest.Young), nil, acceptance(status.AcceptanceUnknown, published(1, nodetest.Young)), good},
		"a write failed":              {nodetest.Awaited(1, nodetest.Young), nil, failing(acceptance(status.AcceptanceUnknown, published(1, nodetest.Young))), good},
		"not verified yet":            {nodetest.Awaited(1, nodetest.Young), unverified, acceptance(status.AcceptanceUnknown, published(1, nodetest.Young)), reconciling("Verifying")},
		"verified the one before":     {nodetest.Awaited(1, nodetest.Due), nil, acceptance(status.AcceptanceUnknown, published(2, 0)), good},
		"not accepted":                {nodetest.Awaited(1, nodetest.Young), nil, acceptance(status.Rejected, published(1, nodetest.Young)), stalledBy("TokensNotAccepted")},
		"the token was not created":   {nodetest.Fresh(), nil, status.Outcome{Err: nodetest.ErrWrite}, reconciling("WriteFailed")},
		"the Secret was not created":  {nodetest.Fresh(), nil, failing(unpublished(published(1, 0))), reconciling("WriteFailed")},
		"a Secret is in the way":      {nodetest.Fresh(), nil, problematic(unpublished(published(1, 0))), stalledBy("ObjectNotOurs")},
		"in the way, and it failed":   {nodetest.Fresh(), nil, failing(problematic(unpublished(published(1, 0)))), stalledBy("ObjectNotOurs")},
		"no cluster":                  {nodetest.Fresh(), nodetest.NoCluster, status.Outcome{}, stalledBy("ServerUnknown")},
		"no cluster, a token is live": {nodetest.Awaited(1, nodetest.Young), nodetest.NoCluster, published(1, nodetest.Young), conditions{ready: "False ServerUnknown", credentials: available, joined: waits, stalled: "ServerUnknown"}},
		"bindings are being created":  {nodetest.Fresh(), pendingBindings, published(1, 0), conditions{ready: "False BindingsPending", credentials: available, joined: waits, reconciling: "BindingsPending"}},
		"the operator approves":       {nodetest.Awaited(1, nodetest.Young), nodetest.With(nodetest.Request("csr-a", 1, 0)), published(1, nodetest.Young), good},
		"a person must approve":       {nodetest.Awaited(1, nodetest.Young), manual, published(1, nodetest.Young), conditions{ready: "True AwaitingApproval", credentials: available, joined: waits}},
		"approved a minute ago":       {nodetest.Awaited(1, nodetest.Young), late(time.Minute), published(1, nodetest.Young), conditions{ready: "False CertificateNotIssued", credentials: available, joined: waits, stalled: "CertificateNotIssued"}},
		"approved less ago":           {nodetest.Awaited(1, nodetest.Young), late(time.Minute - 2*time.Second), published(1, nodetest.Young), good},
		"reissued":                    {nodetest.Reissued(), func(f *lifecycle.Facts) { f.LeaseRenewed = time.Time{} }, published(2, nodetest.Young), conditions{ready: "True AwaitingNode", credentials: available, joined: "False Reissued"}},
		"after the deadline": {nodetest.Fresh(), nodetest.DeadlineAfter(time.Minute), status.Outcome{}, conditions{ready: "False JoinDeadlineExceeded", credentials: "False JoinDeadlineExceeded",
			joined: waits, stalled: "JoinDeadlineExceeded"}},
		"joined":                      {nodetest.JoinedBefore(), nil, status.Outcome{}, joined},
		"joined, and a delete failed": {nodetest.JoinedBefore(), nil, status.Outcome{Err: nodetest.ErrWrite}, joined},
		"just joined, a delete failed": {nodetest.Asked(), func(f *lifecycle.Facts) { nodetest.WorksSince(nodetest.Minutes(18))(f) }, status.Outcome{Err: nodetest.ErrWrite},
			conditions{ready: "False WriteFailed", credentials: "False WriteFailed", joined: "True NodeHasCertificate", reconciling: "WriteFailed"}},
		"joined, no cluster": {nodetest.JoinedBefore(), nodetest.NoCluster, status.Outcome{}, joined},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.edit != nil {
				tt.edit(tt.facts)
			}
			p := nodetest.Decide(tt.facts, nodetest.Now)
			before := tt.facts.NodeBootstrap.DeepCopy()
			s := status.Report(tt.facts, &p, &tt.outcome, nodetest.Now)
			if got := shortConditions(t, s); got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
			if s.ObservedGeneration != 3 {
				t.Errorf("observedGeneration is %d", s.ObservedGeneration)
			}
			if !reflect.DeepEqual(before, tt.facts.NodeBootstrap) {
				t.Error("the NodeBootstrap in the facts is changed, which may be in a cache")
			}
			nodetest.Leaks(t, "the status", nodetest.AsJSON(s))
			tt.facts.NodeBootstrap.Status = *s
			if again := status.Report(tt.facts, &p, &tt.outcome, nodetest.Now.Add(time.Second)); !reflect.DeepEqual(again, s) {
				t.Errorf("it flaps from\n%s to\n%s", nodetest.AsJSON(s), nodetest.AsJSON(again))
			}
		})
	}
}

func revoked(o status.Outcome) status.Outcome {
	o.Revoked = true
	return o
}

func TestReportFields(t *testing.T) {
	secret := &v1alpha1.SecretReference{Namespace: nodetest.Namespace, Name: "bootstrap-kubeconfig-worker-1"}
	tokenStatus := func(n int, age time.Duration) *v1alpha1.TokenStatus {
		return &v1alpha1.TokenStatus{ID: nodetest.NthID(n), ExpirationTime: metav1.NewTime(nodetest.Token(n, age).Expires)}
	}
	type fields struct {
		Token   *v1alpha1.TokenStatus
		Last    string
		Secret  *v1alpha1.SecretReference
		Server  string
		Since   *metav1.Time
		Handled string
	}
	hourAgo, justNow := new(nodetest.Ago(time.Hour)), new(nodetest.Ago(0))
	tests := map[string]struct {
		facts   *lifecycle.Facts
		edit    func(*lifecycle.Facts)
		outcome status.Outcome
		want    fields
	}{
		"a new token":             {nodetest.Fresh(), nil, published(1, 0), fields{tokenStatus(1, 0), nodetest.NthID(1), secret, nodetest.Server, hourAgo, ""}},
		"not published":           {nodetest.Fresh(), nil, unpublished(published(1, 0)), fields{tokenStatus(1, 0), nodetest.NthID(1), nil, "", hourAgo, ""}},
		"renewed":                 {nodetest.Awaited(1, nodetest.Due), nil, published(2, 0), fields{tokenStatus(2, 0), nodetest.NthID(2), secret, nodetest.Server, hourAgo, ""}},
		"not created":             {nodetest.Fresh(), nil, status.Outcome{Err: nodetest.ErrWrite}, fields{nil, "", nil, "", hourAgo, ""}},
		"the old one expired":     {nodetest.Awaited(1, nodetest.Old), nil, status.Outcome{Revoked: true, Err: nodetest.ErrWrite}, fields{nil, nodetest.NthID(1), nil, "", hourAgo, ""}},
		"another server":          {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) { f.Cluster.Server = "https://new" }, published(1, nodetest.Young), fields{tokenStatus(1, nodetest.Young), nodetest.NthID(1), secret, "https://new", hourAgo, ""}},
		"the server is unknown":   {nodetest.Awaited(1, nodetest.Young), nodetest.NoCluster, published(1, nodetest.Young), fields{tokenStatus(1, nodetest.Young), nodetest.NthID(1), secret, nodetest.Server, hourAgo, ""}},
		"reissued":                {nodetest.Awaited(1, nodetest.Young), nodetest.AskReissue, published(2, 0), fields{tokenStatus(2, 0), nodetest.NthID(2), secret, nodetest.Server, justNow, nodetest.ReissueAt}},
		"reissue failed":          {nodetest.Awaited(1, nodetest.Young), nodetest.AskReissue, status.Outcome{Revoked: true, Err: nodetest.ErrWrite}, fields{nil, nodetest.NthID(1), nil, "", hourAgo, ""}},
		"not revoked":             {nodetest.Awaited(1, nodetest.Young), nodetest.AskReissue, status.Outcome{Err: nodetest.ErrWrite}, fields{tokenStatus(1, nodetest.Young), nodetest.NthID(1), secret, nodetest.Server, hourAgo, ""}},
		"reissued, no cluster":    {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) { nodetest.AskReissue(f); nodetest.NoCluster(f) }, status.Outcome{}, fields{nil, nodetest.NthID(1), nil, "", hourAgo, ""}},
		"reissued, not visible":   {nodetest.Awaited(1, nodetest.Young), nodetest.AskReissue, failing(revoked(unpublished(published(2, 0)))), fields{tokenStatus(2, 0), nodetest.NthID(2), nil, "", justNow, nodetest.ReissueAt}},
		"a joined one reissued":   {nodetest.JoinedBefore(), nodetest.AskReissue, published(2, 0), fields{tokenStatus(2, 0), nodetest.NthID(2), secret, nodetest.Server, justNow, nodetest.ReissueAt}},
		"joined":                  {nodetest.Asked(), func(f *lifecycle.Facts) { nodetest.WorksSince(nodetest.Minutes(18))(f) }, status.Outcome{}, fields{nil, nodetest.NthID(1), nil, "", nil, ""}},
		"deleted after it joined": {nodetest.JoinedBefore(), func(f *lifecycle.Facts) { f.Node = nil }, published(2, 0), fields{tokenStatus(2, 0), nodetest.NthID(2), secret, nodetest.Server, justNow, ""}},
		"after the deadline":      {nodetest.Awaited(1, nodetest.Old), nodetest.DeadlineAfter(time.Minute), status.Outcome{}, fields{nil, nodetest.NthID(1), nil, "", hourAgo, ""}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.edit != nil {
				tt.edit(tt.facts)
			}
			p := nodetest.Decide(tt.facts, nodetest.Now)
			s := status.Report(tt.facts, &p, &tt.outcome, nodetest.Now)
			got := fields{s.Token, s.LastTokenID, s.KubeconfigSecretRef, s.Server, s.AwaitingSince, s.LastHandledReissueAt}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %s\nwant %s", nodetest.AsJSON(got), nodetest.AsJSON(tt.want))
			}
		})
	}
}

// A status has whole seconds: a fraction would differ from the stored value, and be written repeatedly.
func TestReportAwaitsSinceAWholeSecond(t *testing.T) {
	f := nodetest.JoinedBefore()
	f.Node = nil
	later := nodetest.Now.Add(700 * time.Millisecond)
	p, o := nodetest.Decide(f, later), published(2, 0)
	if got := status.Report(f, &p, &o, later).AwaitingSince; !got.Time.Equal(nodetest.Now) {
		t.Errorf("got %s", got)
	}
}

func TestReportMessagesNameWhatToDo(t *testing.T) {
	tests := map[string]struct {
		facts   *lifecycle.Facts
		edit    func(*lifecycle.Facts)
		outcome status.Outcome
		named   []string
	}{
		"waits":              {nodetest.Fresh(), nil, published(1, 0), []string{nodetest.Namespace + "/bootstrap-kubeconfig-worker-1"}},
		"not accepted":       {nodetest.Fresh(), nil, acceptance(status.Rejected, published(1, 0)), []string{"--enable-bootstrap-token-auth", nodetest.NthID(1)}},
		"a write failed":     {nodetest.Fresh(), nil, status.Outcome{Err: nodetest.ErrWrite}, []string{nodetest.ErrWrite.Error(), "tried again"}},
		"not issued":         {nodetest.Awaited(1, nodetest.Young), nodetest.With(nodetest.Request("csr-a", 1, nodetest.Minutes(2), nodetest.Approved(nodetest.Minutes(2)))), published(1, nodetest.Young), []string{"csr-a", "--cluster-signing-cert-file"}},
		"after the deadline": {nodetest.Fresh(), nodetest.DeadlineAfter(time.Minute), status.Outcome{}, []string{"spec.token.joinDeadline", "1m0s", v1alpha1.ReissueRequestedAtAnnotation}},
		"another's Secret":   {nodetest.Fresh(), func(f *lifecycle.Facts) { f.Kubeconfig = nodetest.ForeignKubeconfig() }, status.Outcome{}, []string{nodetest.Namespace + "/bootstrap-kubeconfig-worker-1", "delete it"}},
		"Manual": {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) {
			nodetest.Approval(v1alpha1.ApprovalManual)(f)
			nodetest.With(nodetest.Request("csr-a", 1, 0))(f)
		}, published(1, nodetest.Young),
			[]string{"kubectl certificate approve"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.edit != nil {
				tt.edit(tt.facts)
			}
			p := nodetest.Decide(tt.facts, nodetest.Now)
			ready := meta.FindStatusCondition(status.Report(tt.facts, &p, &tt.outcome, nodetest.Now).Conditions, v1alpha1.ConditionReady)
			for _, want := range tt.named {
				if !strings.Contains(ready.Message, want) {
					t.Errorf("%q is not in the message: %s", want, ready.Message)
				}
			}
		})
	}
}

func TestReportKeepsAShortHistory(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	f.NodeBootstrap.Status.Certificates = nodetest.History("ssssoddddddddddd")
	for i := range 5 {
		f.Requests = append(f.Requests, nodetest.Request(fmt.Sprintf("csr-%d", i), 1, nodetest.Minutes(2), nodetest.Approved(nodetest.Minutes(1)), nodetest.WithCertificate))
	}
	p, o := nodetest.Decide(f, nodetest.Now), published(1, nodetest.Young)
	got := status.Report(f, &p, &o, nodetest.Now).Certificates
	if len(got) != 16 || got[0].Name != "0" || got[4].Name != "4" || got[15].Name != "csr-4" {
		t.Errorf("got %s", nodetest.AsJSON(got))
	}
}

func TestVerified(t *testing.T) {
	tests := map[string]struct {
		edit func(*v1alpha1.NodeBootstrapStatus)
		want bool
	}{
		"as it is":         {func(*v1alpha1.NodeBootstrapStatus) {}, true},
		"no token":         {func(s *v1alpha1.NodeBootstrapStatus) { s.Token = nil }, false},
		"another token":    {func(s *v1alpha1.NodeBootstrapStatus) { s.Token.ID = nodetest.NthID(2) }, false},
		"not available":    {func(s *v1alpha1.NodeBootstrapStatus) { s.Conditions[0].Status = metav1.ConditionFalse }, false},
		"never looked for": {func(s *v1alpha1.NodeBootstrapStatus) { s.Conditions = nil }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, made := nodetest.StatusOf(1, nodetest.Young), nodetest.Token(1, nodetest.Young)
			tt.edit(&s)
			if got := status.Verified(&s, &made); got != tt.want {
				t.Errorf("got %v", got)
			}
			if status.Verified(&s, nil) {
				t.Error("no token is verified")
			}
		})
	}
}

// The Node that existed at a reissue is not the new machine's, and the one that joined is recognized.
func TestReportRecordsTheNode(t *testing.T) {
	before := func(f *lifecycle.Facts) { f.NodeBootstrap.Status.NodeUID = "before" }
	node := func(f *lifecycle.Facts) { f.Node = nodetest.NodeMade(nodetest.Minutes(18)) }
	tests := map[string]struct {
		facts   *lifecycle.Facts
		edits   []func(*lifecycle.Facts)
		outcome status.Outcome
		want    string
	}{
		"joined":                    {nodetest.Asked(), []func(*lifecycle.Facts){before, node, nodetest.WorksSince(nodetest.Minutes(18))}, status.Outcome{}, "made 18m0s ago"},
		"reissued":                  {nodetest.Awaited(1, nodetest.Young), []func(*lifecycle.Facts){before, node, nodetest.AskReissue}, published(2, 0), "made 18m0s ago"},
		"reissued, no Node":         {nodetest.Awaited(1, nodetest.Young), []func(*lifecycle.Facts){before, nodetest.AskReissue}, published(2, 0), "before"},
		"the reissue failed":        {nodetest.Awaited(1, nodetest.Young), []func(*lifecycle.Facts){before, node, nodetest.AskReissue}, status.Outcome{Err: nodetest.ErrWrite}, "before"},
		"a Node created in advance": {nodetest.Awaited(1, nodetest.Young), []func(*lifecycle.Facts){before, node}, published(1, nodetest.Young), "before"},
		"deleted after it joined":   {nodetest.JoinedBefore(), []func(*lifecycle.Facts){before, func(f *lifecycle.Facts) { f.Node = nil }}, published(2, 0), "before"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, edit := range tt.edits {
				edit(tt.facts)
			}
			p := nodetest.Decide(tt.facts, nodetest.Now)
			if got := status.Report(tt.facts, &p, &tt.outcome, nodetest.Now).NodeUID; string(got) != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// Without the manager's flag a NodeBootstrap with approval ClusterWide has no credential, whatever existed before.
func TestDecideWithoutClusterWide(t *testing.T) {
	forbidden := nodetest.Edits(nodetest.Approval(v1alpha1.ApprovalClusterWide), func(f *lifecycle.Facts) { f.ClusterWideForbidden = true })
	gone := nodetest.Outline{Phase: lifecycle.Awaited, DeleteToken: "#1", DropConfig: true, Problem: v1alpha1.ReasonClusterWideNotAllowed}
	asked := nodetest.Request("csr-a", 1, nodetest.Minutes(1))
	nodetest.Plans(t, map[string]nodetest.Planned{
		"no credential":          {Facts: nodetest.Fresh(), Edit: forbidden, Want: nodetest.Outline{Phase: lifecycle.Awaited, Problem: v1alpha1.ReasonClusterWideNotAllowed}},
		"a live token":           {Facts: nodetest.Awaited(1, nodetest.Young), Edit: forbidden, Want: gone},
		"no cluster either":      {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(forbidden, nodetest.NoCluster), Want: gone},
		"a request that waits":   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(forbidden, nodetest.Further(asked)), Want: gone.Deleting("csr-a")},
		"a reissue is requested": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(forbidden, nodetest.AskReissue), Want: func() nodetest.Outline { o := gone; o.Reissue = true; return o }()},
		"a member":               {Facts: nodetest.Fresh(), Edit: nodetest.Edits(forbidden, nodetest.WorksSince(nodetest.Old)), Want: nodetest.Outline{Phase: lifecycle.Joined}},
		"approval Node":          {Facts: nodetest.Awaited(1, nodetest.Young), Edit: func(f *lifecycle.Facts) { f.ClusterWideForbidden = true }, Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1"}},
	})
	f := nodetest.Awaited(1, nodetest.Young)
	forbidden(f)
	p := nodetest.Decide(f, nodetest.Now)
	s := status.Report(f, &p, &status.Outcome{Revoked: true}, nodetest.Now)
	for _, c := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionCredentialsAvailable} {
		if got := nodetest.Short(s, c); got != "False "+v1alpha1.ReasonClusterWideNotAllowed {
			t.Errorf("%s is %s", c, got)
		}
	}
	if got := nodetest.Short(s, v1alpha1.ConditionStalled); !strings.HasPrefix(got, "True") || s.Token != nil || s.Server != "" {
		t.Errorf("Stalled is %s, and the status %+v", got, s)
	}
}

// The API server stamps the Node's creation, and the operator, whose clock is half a second behind, stamps the condition. The node has
// joined; the next reconcile, before the kubelet has reported, must still know that.
func TestJoinedIsNotForgottenByAClockBehind(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	made := nodetest.Now.Add(time.Second).Truncate(time.Second) // by the API server's clock
	behind := made.Add(-500 * time.Millisecond)                 // by the operator's, at the same moment
	f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, time.Second, nodetest.Approved(0), nodetest.WithCertificate)}
	f.Node = nodetest.NodeMade(0)
	f.Node.CreationTimestamp.Time = made
	for n := range 3 {
		f.NodeReported, f.LeaseRenewed = n == 0, time.Time{} // read only until it is known
		if n == 0 {
			f.LeaseRenewed = made
		}
		p := nodetest.Decide(f, behind)
		if p.Phase != lifecycle.Joined {
			t.Fatalf("reconcile %d: %+v", n, nodetest.OutlineOf(&p))
		}
		f.NodeBootstrap.Status = *status.Report(f, &p, &status.Outcome{}, behind)
		for i := range f.NodeBootstrap.Status.Conditions { // stored times have whole seconds
			c := &f.NodeBootstrap.Status.Conditions[i]
			c.LastTransitionTime.Time = c.LastTransitionTime.Truncate(time.Second)
		}
		f.TokenSecrets, f.Kubeconfig = nil, nil
	}
}

// An edited server whose write failed is not in the published kubeconfig; Ready stays True and says why.
func TestStatusReportsAFailedWrite(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	f.NodeBootstrap.Status.Server = "https://before:6443"
	p, o := nodetest.Decide(f, nodetest.Now), published(1, nodetest.Young)
	o.Err = errors.New("a quota")
	s := status.Report(f, &p, &o, nodetest.Now)
	ready := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady)
	if s.Server != "https://before:6443" || ready.Status != metav1.ConditionTrue || !strings.Contains(ready.Message, "a quota") {
		t.Errorf("got the server %s and %+v", s.Server, ready)
	}
}

// The condition always names the same of several CSRs without a certificate, in whatever order a cache lists them.
func TestNotIssuedNamesOneRequest(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	nodetest.Edits(nodetest.Claimed("csr-a"), nodetest.With(nodetest.Request("csr-a", 1, nodetest.Minutes(5), nodetest.Approved(nodetest.Minutes(4))), nodetest.Request("csr-a/2", 1, nodetest.Minutes(3), nodetest.Approved(nodetest.Minutes(2)))))(f)
	p, o := nodetest.Decide(f, nodetest.Now), published(1, nodetest.Young)
	first := meta.FindStatusCondition(status.Report(f, &p, &o, nodetest.Now).Conditions, v1alpha1.ConditionReady)
	slices.Reverse(f.Requests)
	again := meta.FindStatusCondition(status.Report(f, &p, &o, nodetest.Now).Conditions, v1alpha1.ConditionReady)
	if first.Reason != v1alpha1.ReasonCertificateNotIssued || first.Message != again.Message {
		t.Errorf("the message flaps from %q to %q", first.Message, again.Message)
	}
}

// A CSR that another signer does not sign says nothing about the node's own certificate.
func TestNotIssuedIsAboutTheNodesCertificate(t *testing.T) {
	for name, edit := range map[string]func(*certificatesv1.CertificateSigningRequest){"another signer": nodetest.AnotherSigner, "another node": nodetest.ForNode("worker-2")} {
		f := nodetest.Awaited(1, nodetest.Young)
		nodetest.Edits(nodetest.Claimed("csr-a"), nodetest.With(nodetest.Request("csr-b", 1, nodetest.Minutes(5), edit, nodetest.Approved(nodetest.Minutes(4)))))(f)
		p, o := nodetest.Decide(f, nodetest.Now), published(1, nodetest.Young)
		if got := nodetest.Short(status.Report(f, &p, &o, nodetest.Now), v1alpha1.ConditionReady); got != waits {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

func BenchmarkReport(b *testing.B) {
	for name, f := range nodetest.Situations() {
		p := nodetest.Decide(f, nodetest.Now)
		o := &status.Outcome{Token: p.Token, Published: p.Token != nil, Acceptance: status.Accepted}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				status.Report(f, &p, o, nodetest.Now)
			}
		})
	}
}
