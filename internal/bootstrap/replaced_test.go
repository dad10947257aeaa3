// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// replacements is how many keys may be approved after the first one.
func replacements(n int32) func(*Facts) {
	return func(f *Facts) { f.NodeBootstrap.Spec.ClientCertificate.ReplacementKeys = n }
}

// registered has a kubelet report as a Node that was created a while ago, before its first Lease.
func registered(age time.Duration) func(*Facts) {
	return func(f *Facts) { f.Node, f.NodeReported, f.LeaseRenewed = nodeMade(age), true, time.Time{} }
}

const isReplaced = "False KeyReplaced"

// The kubelet exits after it has asked, and asks with another key when it is started again: no alarm, and Ready says what to do. The
// machine joins after a reissue.
func TestCrashLoopingKubeletIsNoTheft(t *testing.T) {
	tell(t, awaited(1, young),
		moment{further(request("csr-a", 1, minutes(1))), Awaited, "#1", waits, "", ""},
		moment{further(request("csr-b", 1, -time.Second)), Awaited, "#1", isReplaced, "", "CertificateDenied" + conflict + " KeyReplaced"},
		moment{further(request("csr-c", 1, -2*time.Second)), Awaited, "#1", isReplaced, "", "CertificateDenied"},
		moment{askReissue, Awaited, "#2", waits, "", ""},
		moment{further(request("csr-d", 2, -3*time.Second)), Awaited, "#2", waits, "", ""},
		moment{func(f *Facts) { withCertificate(f.find("csr-d")); worksSince(-4 * time.Second)(f) }, Joined, "", hasJoined, "", ""},
	)
}

// The message of Ready names the request, the keys' condition, and both commands.
func TestKeyReplacedMessageHelps(t *testing.T) {
	f := awaited(1, young)
	edits(claimed("csr-a"), further(request("csr-b", 1, -time.Second)))(f)
	for range 2 {
		pass(f)
	}
	s := f.NodeBootstrap.Status
	ready, stalled := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady), meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionStalled)
	if stalled == nil || stalled.Status != metav1.ConditionTrue || stalled.Reason != v1alpha1.ReasonKeyReplaced {
		t.Fatalf("Stalled is %+v", stalled)
	}
	for _, want := range []string{"csr-b", nthID(1), "the kubelet's log", v1alpha1.ConditionKeyConflict, "kubectl nodebootstrap reissue " + testNode,
		"kubectl annotate nodebootstrap " + testNode, "new kubeconfig"} {
		if !strings.Contains(ready.Message, want) {
			t.Errorf("the message does not say %q: %s", want, ready.Message)
		}
	}
	for _, word := range []string{"theft", "thief", "stolen", "misuse"} {
		if strings.Contains(strings.ToLower(ready.Message), word) {
			t.Errorf("the message talks of %q: %s", word, ready.Message)
		}
	}
}

// A thief asks first and is approved. The machine is denied. When the thief joins, two machines are known to have the kubeconfig.
func TestThiefWhoAskedFirstAndJoinsRaisesTheAlarm(t *testing.T) {
	joins := func(f *Facts) { withCertificate(f.find("csr-thief")); worksSince(-2 * time.Second)(f) }
	tell(t, awaited(1, young),
		moment{further(request("csr-thief", 1, minutes(1))), Awaited, "#1", waits, "", ""},
		moment{further(request("csr-b", 1, -time.Second)), Awaited, "#1", isReplaced, "", "CertificateDenied" + conflict + " KeyReplaced"},
		moment{joins, Joined, "", hasJoined, csr.ReasonSecondKey, "TokenMisused"},
		moment{func(f *Facts) { f.Requests = nil }, Joined, "", hasJoined, csr.ReasonSecondKey, ""},
		moment{func(f *Facts) { f.Node, f.NodeReported, f.LeaseRenewed = nil, false, time.Time{} }, Withdrawn, "", isWithdrawn, csr.ReasonSecondKey, ""},
	)
	// All within the second of the approval: the Lease alone does not prove then that the certificate is used.
	atOnce := func(f *Facts) { withCertificate(f.find("csr-thief")); worksSince(0)(f) }
	tell(t, awaited(1, young),
		moment{further(request("csr-thief", 1, minutes(1))), Awaited, "#1", waits, "", ""},
		moment{further(request("csr-b", 1, 0)), Awaited, "#1", isReplaced, "", "CertificateDenied" + conflict + " KeyReplaced"},
		moment{atOnce, Joined, "", hasJoined, csr.ReasonSecondKey, "TokenMisused"},
	)
	// The request of the machine and the Lease are seen at once.
	tell(t, awaited(1, young),
		moment{further(request("csr-thief", 1, minutes(1))), Awaited, "#1", waits, "", ""},
		moment{edits(further(request("csr-b", 1, -time.Second)), joins), Joined, "", hasJoined, csr.ReasonSecondKey, "TokenMisused" + conflict},
	)
	// The machine asks when the thief has registered and has no Lease yet.
	tell(t, awaited(1, young),
		moment{further(request("csr-thief", 1, minutes(1))), Awaited, "#1", waits, "", ""},
		moment{edits(registered(-time.Second), further(request("csr-b", 1, -2*time.Second))), Awaited, "#1", waits, csr.ReasonSecondKey, denies + conflict},
		moment{joins, Joined, "", hasJoined, csr.ReasonSecondKey, ""},
	)
}

// What a node that has joined says of keys: the alarm is raised when the newest key was denied, and for no other reason.
func TestUseOfAKeyIsEvidence(t *testing.T) {
	d := func(name string, verdict v1alpha1.Verdict, reason string, n int) v1alpha1.CertificateDecision {
		out := approvedDecision(name, n, minutes(5))
		out.Verdict, out.Reason, out.KeyFingerprint = verdict, reason, "SHA256:"+name
		if verdict != v1alpha1.VerdictApproved {
			out.IssuedTime = nil
		}
		return out
	}
	approve := func(name string) v1alpha1.CertificateDecision {
		return d(name, v1alpha1.VerdictApproved, csr.ReasonKubeletClient, 1)
	}
	deny := func(name, reason string) v1alpha1.CertificateDecision {
		return d(name, v1alpha1.VerdictDenied, reason, 1)
	}
	again := func(d v1alpha1.CertificateDecision, key string) v1alpha1.CertificateDecision {
		d.KeyFingerprint = "SHA256:" + key
		return d
	}
	for name, c := range map[string]struct {
		edit func(*Facts)
		want string
	}{
		"one key":                         {records(approve("a")), ""},
		"the newest was denied":           {records(approve("a"), deny("b", csr.ReasonKeyReplaced)), csr.ReasonSecondKey},
		"it was left alone":               {records(approve("a"), d("b", v1alpha1.VerdictIgnored, ReasonTooManyKeys, 1)), csr.ReasonSecondKey},
		"the newest was approved":         {records(approve("a"), deny("b", csr.ReasonKeyReplaced), approve("c")), ""},
		"the first one was sent again":    {records(approve("a"), deny("b", csr.ReasonKeyReplaced), again(approve("c"), "a")), csr.ReasonSecondKey},
		"a person approved it":            {records(approve("a"), d("b", v1alpha1.VerdictApproved, csr.ReasonKeyReplaced, 1)), ""},
		"it was superseded":               {records(approve("a"), deny("b", csr.ReasonSuperseded)), ""},
		"another defect came after":       {records(approve("a"), deny("b", csr.ReasonKeyReplaced), deny("c", csr.ReasonWrongUsages)), csr.ReasonSecondKey},
		"with the token before a renewal": {records(d("a", v1alpha1.VerdictApproved, csr.ReasonKubeletClient, 7), d("b", v1alpha1.VerdictDenied, csr.ReasonKeyReplaced, 7), approve("c")), ""},
		"an alarm stands":                 {edits(raised(csr.ReasonWrongSubject), records(approve("a"), deny("b", csr.ReasonKeyReplaced))), ""},
		"ClusterWide":                     {edits(approval(v1alpha1.ApprovalClusterWide), records(approve("a"), deny("b", csr.ReasonKeyReplaced))), ""},
		"of an earlier wait": {edits(records(approve("a"), deny("b", csr.ReasonKeyReplaced)), func(f *Facts) {
			f.NodeBootstrap.Status.AwaitingSince, f.NodeBootstrap.Status.Token.ID = new(ago(minutes(4))), nthID(3)
			further(request("csr-c", 3, minutes(3), approved(minutes(2)), withCertificate))(f)
		}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := awaited(1, young)
			edits(c.edit, worksSince(0))(f)
			p := decide(f, now)
			got := ""
			if p.Misuse != nil {
				got = p.Misuse.Reason
			}
			if p.Phase != Joined || got != c.want {
				t.Errorf("the phase is %d, the evidence %+v, want %q", p.Phase, p.Misuse, c.want)
			}
			if again := reported(f, Outcome{Revoked: true}); c.want != "" && !meta.IsStatusConditionTrue(again.Conditions, v1alpha1.ConditionTokenMisused) {
				t.Errorf("the status is %+v", again)
			}
		})
	}
}

// Whatever a kubelet that restarts over and over sends, there is no alarm, and a bounded number of decisions.
func TestRestartsOverAndOverAreNoFlood(t *testing.T) {
	keys := func(count int) (out []*certificatesv1.CertificateSigningRequest) {
		for i := range count {
			out = append(out, request(fmt.Sprintf("csr-%02d", i), 1, -time.Duration(i)*time.Second))
		}
		return out
	}
	for name, c := range map[string]struct {
		edit     func(*Facts)
		recorded string
		alarm    string
	}{
		"one by one":       {as, "1 Approved, 7 Denied, 1 Ignored", ""},
		"replacement keys": {replacements(7), "8 Approved, 1 Ignored", ""},
		"with a defect":    {records(because(csr.ReasonWrongDuration, deniedDecision("bad", 1, minutes(1)))), "1 Approved, 7 Denied, 1 Ignored", ReasonTooManyRequests},
	} {
		t.Run(name, func(t *testing.T) {
			f := awaited(1, young)
			c.edit(f)
			for _, r := range keys(12) {
				f.Requests = append(f.Requests, r)
				pass(f)
				pass(f)
			}
			if got := verdictsOf(f.NodeBootstrap.Status.Certificates); got != c.recorded {
				t.Errorf("recorded are %s, want %s", got, c.recorded)
			}
			alarm := ""
			if a := alarmOf(&f.NodeBootstrap.Status); a != nil {
				alarm = a.Reason
			}
			if alarm != c.alarm {
				t.Errorf("the alarm is %q, want %q", alarm, c.alarm)
			}
			if got := short(&f.NodeBootstrap.Status, v1alpha1.ConditionReady); c.alarm == "" && got != isReplaced {
				t.Errorf("Ready is %s", got)
			}
		})
	}
	t.Run("all at once, after the operator was stopped", func(t *testing.T) {
		f := awaited(1, young)
		f.Requests = keys(12)
		for range 3 {
			pass(f)
		}
		if got, want := verdictsOf(f.NodeBootstrap.Status.Certificates), "1 Approved, 7 Denied, 1 Ignored"; got != want || alarmOf(&f.NodeBootstrap.Status) != nil {
			t.Errorf("recorded are %s, the alarm is %+v", got, alarmOf(&f.NodeBootstrap.Status))
		}
	})
}

// approvals are the names of the requests that a plan approves.
func approvals(p *Plan) string {
	var out []string
	for _, d := range ofTokens(p) {
		if d.Result.Verdict == csr.Approve {
			out = append(out, d.Request.Name)
		}
	}
	return strings.Join(out, " ")
}

func TestReplacementKeys(t *testing.T) {
	b, c := request("csr-b", 1, -time.Second), request("csr-c", 1, -2*time.Second)
	second := func(f *Facts) {
		d := approvedDecision("csr-b", 1, 0)
		d.KeyFingerprint, d.IssuedTime = must(csr.Fingerprint(b)), nil
		f.NodeBootstrap.Status.Certificates = append(f.NodeBootstrap.Status.Certificates, d)
	}
	predecessor := func(f *Facts) { f.addToken(2, 0); f.NodeBootstrap.Status.Token.ID = nthID(2) }
	delayed := func(f *Facts) {
		f.NodeBootstrap.Spec.ClientCertificate.ApprovalDelay = &metav1.Duration{Duration: time.Second}
	}
	for name, tt := range map[string]struct {
		allowed  int32
		edit     func(*Facts)
		approves string
		verdicts string // all that is recorded, if other than that
	}{
		"none":                   {0, with(b), "", "csr-b: Denied"},
		"one":                    {1, with(b), "csr-b", ""},
		"two at once":            {1, with(b, c), "csr-c", "csr-c: Approved, csr-b: Denied"},
		"two at once, of two":    {2, with(b, c), "csr-c", "csr-c: Approved, csr-b: Denied"},
		"the next, of one":       {1, edits(second, with(c)), "", "csr-c: Denied"},
		"the next, of two":       {2, edits(second, with(c)), "csr-c", ""},
		"the first one again":    {1, edits(second, with(request("csr-a/2", 1, -time.Second))), "csr-a/2", ""},
		"the second one again":   {1, edits(second, with(request("csr-b/2", 1, -time.Second))), "csr-b/2", ""},
		"a claim, and a crash":   {1, edits(second, with(b)), "csr-b", ""},
		"less is allowed since":  {0, edits(second, with(request("csr-b/2", 1, -time.Second))), "", "csr-b/2: Denied"},
		"the first is used":      {1, edits(registered(0), with(b)), "", "csr-b: Denied"},
		"an alarm stands":        {1, edits(raised(csr.ReasonWrongSubject), with(b)), "", "csr-b: Denied"},
		"evidence at once":       {1, with(b, request("csr-w", 1, 0, forNode("worker-2"))), "", "csr-w: Denied"},
		"a token with successor": {1, edits(predecessor, with(b)), "", "csr-b: Denied"},
		"a delay":                {1, edits(delayed, with(b)), "", ""},
		"Manual":                 {1, edits(approval(v1alpha1.ApprovalManual), with(b)), "", ""},
		"Manual, none":           {0, edits(approval(v1alpha1.ApprovalManual), with(b)), "", "csr-b: Denied"},
	} {
		t.Run(name, func(t *testing.T) {
			f := awaited(1, young)
			edits(replacements(tt.allowed), claimed("csr-a"), tt.edit)(f)
			for i, r := range f.Requests {
				f.Requests[i] = r.DeepCopy()
			}
			p := decide(f, now)
			if got := approvals(&p); got != tt.approves {
				t.Errorf("it approves %q, want %q", got, tt.approves)
			}
			if got := outlineOf(&p).verdicts; tt.verdicts != "" && got != tt.verdicts {
				t.Errorf("the verdicts are %s, want %s", got, tt.verdicts)
			}
		})
	}
}

// A restarted kubelet joins with its second key. That several keys were sent stays reported, and so does the first one's certificate.
func TestReplacementKeyJoins(t *testing.T) {
	f := awaited(1, young)
	replacements(1)(f)
	issue := func(name string) func(*Facts) {
		return func(f *Facts) { f.find(name).Status.Certificate = certificate(now.Add(-time.Hour), expires) }
	}
	tell(t, f,
		moment{further(request("csr-a", 1, minutes(1))), Awaited, "#1", waits, "", ""},
		moment{issue("csr-a"), Awaited, "#1", waits, "", ""},
		moment{further(request("csr-b", 1, -time.Second)), Awaited, "#1", waits, "", "SeveralKeys IssuedBeforeReplacement"},
		moment{edits(issue("csr-b"), worksSince(-2*time.Second)), Joined, "", hasJoined, "", ""},
	)
	s := f.NodeBootstrap.Status
	c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionCertificateNotRevoked)
	if !meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionKeyConflict) || c == nil || !strings.Contains(c.Message, "csr-a") || strings.Contains(c.Message, "csr-b") {
		t.Errorf("the conditions are %+v", s.Conditions)
	}
}
