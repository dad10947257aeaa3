// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

var errWrite = errors.New("storing it: the server is busy")

// told is the conditions of a status in short: "True AwaitingNode". Stalled and Reconciling are their reason, or empty
// when they are absent, as kstatus wants them while they do not hold.
type told struct{ ready, credentials, joined, stalled, reconciling string }

func toldBy(t *testing.T, status *v1alpha1.NodeBootstrapStatus) told {
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
			t.Errorf("the condition %s is there and is %s", conditionType, text)
		}
		return reason
	}
	if len(status.Conditions) > 5 {
		t.Errorf("there are the conditions %v", status.Conditions)
	}
	return told{
		ready: short(v1alpha1.ConditionReady), credentials: short(v1alpha1.ConditionCredentialsAvailable), joined: short(v1alpha1.ConditionJoined),
		stalled: onlyTrue(v1alpha1.ConditionStalled), reconciling: onlyTrue(v1alpha1.ConditionReconciling),
	}
}

// published is the outcome where all went well with the nth token.
func published(n int, age time.Duration) Outcome {
	t := token(n, age)
	return Outcome{Token: &t, Published: true, Acceptance: Accepted}
}

func unpublished(o Outcome) Outcome {
	o.Published = false
	return o
}

func acceptance(a Acceptance, o Outcome) Outcome {
	o.Acceptance = a
	return o
}

func failing(o Outcome) Outcome {
	o.Err = errWrite
	return o
}

func problematic(o Outcome) Outcome {
	o.Problem = &Problem{v1alpha1.ReasonObjectNotOurs, "a Secret is in the way"}
	return o
}

func TestReportConditions(t *testing.T) {
	pendingBindings := func(f *Facts) {
		f.BindingsProblem = &Problem{v1alpha1.ReasonBindingsPending, "being made"}
	}
	unverified := func(f *Facts) { f.NodeBootstrap.Status.Conditions = nil }
	manual := func(f *Facts) { approval(v1alpha1.ApprovalManual)(f); with(request("csr-a", 1, 0))(f) }
	late := func(age time.Duration) func(*Facts) {
		return with(request("csr-a", 1, minutes(2), approved(age)))
	}
	const waits, available = "False AwaitingNode", "True Published"
	good := told{ready: "True AwaitingNode", credentials: available, joined: waits}
	joined := told{ready: "True Joined", credentials: "False Joined", joined: "True NodeHasCertificate"}
	reconciling := func(reason string) told {
		return told{ready: "False " + reason, credentials: "False " + reason, joined: waits, reconciling: reason}
	}
	stalledBy := func(reason string) told {
		return told{ready: "False " + reason, credentials: "False " + reason, joined: waits, stalled: reason}
	}
	tests := map[string]struct {
		facts   *Facts
		edit    func(*Facts)
		outcome Outcome
		want    told
	}{
		"waits with a new token":      {fresh(), nil, published(1, 0), good},
		"waits with a token":          {awaited(1, young), nil, published(1, young), good},
		"verified before":             {awaited(1, young), nil, acceptance(AcceptanceUnknown, published(1, young)), good},
		"a write failed":              {awaited(1, young), nil, failing(acceptance(AcceptanceUnknown, published(1, young))), good},
		"not verified yet":            {awaited(1, young), unverified, acceptance(AcceptanceUnknown, published(1, young)), reconciling("Verifying")},
		"verified the one before":     {awaited(1, due), nil, acceptance(AcceptanceUnknown, published(2, 0)), good},
		"not accepted":                {awaited(1, young), nil, acceptance(Rejected, published(1, young)), stalledBy("TokensNotAccepted")},
		"the token was not made":      {fresh(), nil, Outcome{Err: errWrite}, reconciling("WriteFailed")},
		"the Secret was not made":     {fresh(), nil, failing(unpublished(published(1, 0))), reconciling("WriteFailed")},
		"a Secret is in the way":      {fresh(), nil, problematic(unpublished(published(1, 0))), stalledBy("ObjectNotOurs")},
		"in the way, and it failed":   {fresh(), nil, failing(problematic(unpublished(published(1, 0)))), stalledBy("ObjectNotOurs")},
		"no cluster":                  {fresh(), noCluster, Outcome{}, stalledBy("ServerUnknown")},
		"no cluster, a token is live": {awaited(1, young), noCluster, published(1, young), told{ready: "False ServerUnknown", credentials: available, joined: waits, stalled: "ServerUnknown"}},
		"bindings are being made":     {fresh(), pendingBindings, published(1, 0), told{ready: "False BindingsPending", credentials: available, joined: waits, reconciling: "BindingsPending"}},
		"the operator approves":       {awaited(1, young), with(request("csr-a", 1, 0)), published(1, young), good},
		"a person has to approve":     {awaited(1, young), manual, published(1, young), told{ready: "True AwaitingApproval", credentials: available, joined: waits}},
		"approved a minute ago":       {awaited(1, young), late(time.Minute), published(1, young), told{ready: "False CertificateNotIssued", credentials: available, joined: waits, stalled: "CertificateNotIssued"}},
		"approved less ago":           {awaited(1, young), late(time.Minute - 2*time.Second), published(1, young), good},
		"reissued":                    {reissued(), func(f *Facts) { f.LeaseRenewed = time.Time{} }, published(2, young), told{ready: "True AwaitingNode", credentials: available, joined: "False Reissued"}},
		"after the deadline": {fresh(), deadlineAfter(time.Minute), Outcome{}, told{ready: "False JoinDeadlineExceeded", credentials: "False JoinDeadlineExceeded",
			joined: waits, stalled: "JoinDeadlineExceeded"}},
		"joined":                      {joinedBefore(), nil, Outcome{}, joined},
		"joined, and a delete failed": {joinedBefore(), nil, Outcome{Err: errWrite}, joined},
		"just joined, a delete failed": {asked(), func(f *Facts) { worksSince(minutes(18))(f) }, Outcome{Err: errWrite},
			told{ready: "False WriteFailed", credentials: "False WriteFailed", joined: "True NodeHasCertificate", reconciling: "WriteFailed"}},
		"joined, no cluster": {joinedBefore(), noCluster, Outcome{}, joined},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.edit != nil {
				tt.edit(tt.facts)
			}
			p := decide(tt.facts, now)
			before := tt.facts.NodeBootstrap.DeepCopy()
			status := Report(tt.facts, &p, &tt.outcome, now)
			if got := toldBy(t, status); got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
			if status.ObservedGeneration != 3 {
				t.Errorf("observedGeneration is %d", status.ObservedGeneration)
			}
			if !reflect.DeepEqual(before, tt.facts.NodeBootstrap) {
				t.Error("the NodeBootstrap that was read is changed: it may be in a cache")
			}
			leaks(t, "the status", asJSON(status))
			tt.facts.NodeBootstrap.Status = *status
			if again := Report(tt.facts, &p, &tt.outcome, now.Add(time.Second)); !reflect.DeepEqual(again, status) {
				t.Errorf("it flaps from\n%s to\n%s", asJSON(status), asJSON(again))
			}
		})
	}
}

func revoked(o Outcome) Outcome {
	o.Revoked = true
	return o
}

func TestReportFields(t *testing.T) {
	secret := &v1alpha1.SecretReference{Namespace: testNamespace, Name: "bootstrap-kubeconfig-worker-1"}
	tokenStatus := func(n int, age time.Duration) *v1alpha1.TokenStatus {
		return &v1alpha1.TokenStatus{ID: nthID(n), ExpirationTime: metav1.NewTime(token(n, age).Expires)}
	}
	type fields struct {
		Token   *v1alpha1.TokenStatus
		Last    string
		Secret  *v1alpha1.SecretReference
		Server  string
		Since   *metav1.Time
		Handled string
	}
	hourAgo, justNow := new(ago(time.Hour)), new(ago(0))
	tests := map[string]struct {
		facts   *Facts
		edit    func(*Facts)
		outcome Outcome
		want    fields
	}{
		"a new token":           {fresh(), nil, published(1, 0), fields{tokenStatus(1, 0), nthID(1), secret, testServer, hourAgo, ""}},
		"not published":         {fresh(), nil, unpublished(published(1, 0)), fields{tokenStatus(1, 0), nthID(1), nil, "", hourAgo, ""}},
		"renewed":               {awaited(1, due), nil, published(2, 0), fields{tokenStatus(2, 0), nthID(2), secret, testServer, hourAgo, ""}},
		"not made":              {fresh(), nil, Outcome{Err: errWrite}, fields{nil, "", nil, "", hourAgo, ""}},
		"the old one expired":   {awaited(1, old), nil, Outcome{Revoked: true, Err: errWrite}, fields{nil, nthID(1), nil, "", hourAgo, ""}},
		"another server":        {awaited(1, young), func(f *Facts) { f.Cluster.Server = "https://new" }, published(1, young), fields{tokenStatus(1, young), nthID(1), secret, "https://new", hourAgo, ""}},
		"the server is unknown": {awaited(1, young), noCluster, published(1, young), fields{tokenStatus(1, young), nthID(1), secret, testServer, hourAgo, ""}},
		"reissued":              {awaited(1, young), askReissue, published(2, 0), fields{tokenStatus(2, 0), nthID(2), secret, testServer, justNow, reissueAt}},
		"reissue failed":        {awaited(1, young), askReissue, Outcome{Revoked: true, Err: errWrite}, fields{nil, nthID(1), nil, "", hourAgo, ""}},
		"not revoked":           {awaited(1, young), askReissue, Outcome{Err: errWrite}, fields{tokenStatus(1, young), nthID(1), secret, testServer, hourAgo, ""}},
		"reissued, no cluster":  {awaited(1, young), func(f *Facts) { askReissue(f); noCluster(f) }, Outcome{}, fields{nil, nthID(1), nil, "", hourAgo, ""}},
		"reissued, not visible": {awaited(1, young), askReissue, failing(revoked(unpublished(published(2, 0)))), fields{tokenStatus(2, 0), nthID(2), nil, "", justNow, reissueAt}},
		"a joined one reissued": {joinedBefore(), askReissue, published(2, 0), fields{tokenStatus(2, 0), nthID(2), secret, testServer, justNow, reissueAt}},
		"joined":                {asked(), func(f *Facts) { worksSince(minutes(18))(f) }, Outcome{}, fields{nil, nthID(1), nil, "", nil, ""}},
		"gone after it joined":  {joinedBefore(), func(f *Facts) { f.Node = nil }, published(2, 0), fields{tokenStatus(2, 0), nthID(2), secret, testServer, justNow, ""}},
		"after the deadline":    {awaited(1, old), deadlineAfter(time.Minute), Outcome{}, fields{nil, nthID(1), nil, "", hourAgo, ""}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.edit != nil {
				tt.edit(tt.facts)
			}
			p := decide(tt.facts, now)
			s := Report(tt.facts, &p, &tt.outcome, now)
			got := fields{s.Token, s.LastTokenID, s.KubeconfigSecretRef, s.Server, s.AwaitingSince, s.LastHandledReissueAt}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %s\nwant %s", asJSON(got), asJSON(tt.want))
			}
		})
	}
}

// A status holds whole seconds: a part of one would differ from what is read back, and be written again and again.
func TestReportAwaitsSinceAWholeSecond(t *testing.T) {
	f := joinedBefore()
	f.Node = nil
	later := now.Add(700 * time.Millisecond)
	p, o := decide(f, later), published(2, 0)
	if got := Report(f, &p, &o, later).AwaitingSince; !got.Time.Equal(now) {
		t.Errorf("got %s", got)
	}
}

func TestReportMessagesNameWhatToDo(t *testing.T) {
	tests := map[string]struct {
		facts   *Facts
		edit    func(*Facts)
		outcome Outcome
		named   []string
	}{
		"waits":              {fresh(), nil, published(1, 0), []string{testNamespace + "/bootstrap-kubeconfig-worker-1"}},
		"not accepted":       {fresh(), nil, acceptance(Rejected, published(1, 0)), []string{"--enable-bootstrap-token-auth", nthID(1)}},
		"a write failed":     {fresh(), nil, Outcome{Err: errWrite}, []string{errWrite.Error(), "tried again"}},
		"not issued":         {awaited(1, young), with(request("csr-a", 1, minutes(2), approved(minutes(2)))), published(1, young), []string{"csr-a", "--cluster-signing-cert-file"}},
		"after the deadline": {fresh(), deadlineAfter(time.Minute), Outcome{}, []string{"spec.token.joinDeadline", "1m0s", v1alpha1.ReissueRequestedAtAnnotation}},
		"another's Secret":   {fresh(), func(f *Facts) { f.Kubeconfig = foreignKubeconfig() }, Outcome{}, []string{testNamespace + "/bootstrap-kubeconfig-worker-1", "delete it"}},
		"Manual": {awaited(1, young), func(f *Facts) { approval(v1alpha1.ApprovalManual)(f); with(request("csr-a", 1, 0))(f) }, published(1, young),
			[]string{"kubectl certificate approve"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.edit != nil {
				tt.edit(tt.facts)
			}
			p := decide(tt.facts, now)
			ready := meta.FindStatusCondition(Report(tt.facts, &p, &tt.outcome, now).Conditions, v1alpha1.ConditionReady)
			for _, want := range tt.named {
				if !strings.Contains(ready.Message, want) {
					t.Errorf("%q is not in the message: %s", want, ready.Message)
				}
			}
		})
	}
}

func TestReportKeepsAShortHistory(t *testing.T) {
	f := awaited(1, young)
	f.NodeBootstrap.Status.Certificates = history("ssssoddddddddddd")
	for i := range 5 {
		f.Requests = append(f.Requests, request(fmt.Sprintf("csr-%d", i), 1, minutes(2), approved(minutes(1)), withCertificate))
	}
	p, o := decide(f, now), published(1, young)
	got := Report(f, &p, &o, now).Certificates
	if len(got) != 16 || got[0].Name != "0" || got[4].Name != "4" || got[15].Name != "csr-4" {
		t.Errorf("got %s", asJSON(got))
	}
}

func TestVerified(t *testing.T) {
	tests := map[string]struct {
		edit func(*v1alpha1.NodeBootstrapStatus)
		want bool
	}{
		"as it is":         {func(*v1alpha1.NodeBootstrapStatus) {}, true},
		"no token":         {func(s *v1alpha1.NodeBootstrapStatus) { s.Token = nil }, false},
		"another token":    {func(s *v1alpha1.NodeBootstrapStatus) { s.Token.ID = nthID(2) }, false},
		"not available":    {func(s *v1alpha1.NodeBootstrapStatus) { s.Conditions[0].Status = metav1.ConditionFalse }, false},
		"never looked for": {func(s *v1alpha1.NodeBootstrapStatus) { s.Conditions = nil }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			status, made := statusOf(1, young), token(1, young)
			tt.edit(&status)
			if got := Verified(&status, &made); got != tt.want {
				t.Errorf("got %v", got)
			}
			if Verified(&status, nil) {
				t.Error("no token is verified")
			}
		})
	}
}

func TestRedact(t *testing.T) {
	made := token(1, 0)
	refused := fmt.Errorf("creating it: %w", errors.New("webhook: no "+canary+" and no "+made.bearer()))
	got := RedactError(refused, &made)
	leaks(t, "the error", got.Error())
	if !errors.Is(got, refused) || !strings.Contains(got.Error(), "webhook: no (secret) and no "+nthID(1)) {
		t.Errorf("got %v", got)
	}
	if got := RedactError(errWrite, &made); got != errWrite { //nolint:errorlint // the very same
		t.Errorf("got %v", got)
	}
	for _, t2 := range []*Token{nil, {}} {
		if got := redact("text", t2); got != "text" {
			t.Errorf("got %q", got)
		}
	}
}

// The Node that was there at a reissue is not the one of the new machine, and the one that joined is known again.
func TestReportNotesTheNode(t *testing.T) {
	before := func(f *Facts) { f.NodeBootstrap.Status.NodeUID = "before" }
	node := func(f *Facts) { f.Node = nodeMade(minutes(18)) }
	tests := map[string]struct {
		facts   *Facts
		edits   []func(*Facts)
		outcome Outcome
		want    string
	}{
		"joined":                     {asked(), []func(*Facts){before, node, worksSince(minutes(18))}, Outcome{}, "made 18m0s ago"},
		"reissued":                   {awaited(1, young), []func(*Facts){before, node, askReissue}, published(2, 0), "made 18m0s ago"},
		"reissued, there is no Node": {awaited(1, young), []func(*Facts){before, askReissue}, published(2, 0), "before"},
		"the reissue failed":         {awaited(1, young), []func(*Facts){before, node, askReissue}, Outcome{Err: errWrite}, "before"},
		"a Node made ahead":          {awaited(1, young), []func(*Facts){before, node}, published(1, young), "before"},
		"gone after it joined":       {joinedBefore(), []func(*Facts){before, func(f *Facts) { f.Node = nil }}, published(2, 0), "before"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, edit := range tt.edits {
				edit(tt.facts)
			}
			p := decide(tt.facts, now)
			if got := Report(tt.facts, &p, &tt.outcome, now).NodeUID; string(got) != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
