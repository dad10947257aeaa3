// SPDX-License-Identifier: Apache-2.0

package status_test

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
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

const isReplaced = "False KeyReplaced"

// The kubelet exits after it has sent its CSR, and sends another key when it is started again: no alarm, and Ready says how to fix it.
// The machine joins after a reissue.
func TestCrashLoopingKubeletIsNoTheft(t *testing.T) {
	play(t, nodetest.Awaited(1, nodetest.Young),
		moment{nodetest.Further(nodetest.Request("csr-a", 1, nodetest.Minutes(1))), lifecycle.Awaited, "#1", waits, "", ""},
		moment{nodetest.Further(nodetest.Request("csr-b", 1, -time.Second)), lifecycle.Awaited, "#1", isReplaced, "", "CertificateDenied" + conflict + " KeyReplaced"},
		moment{nodetest.Further(nodetest.Request("csr-c", 1, -2*time.Second)), lifecycle.Awaited, "#1", isReplaced, "", "CertificateDenied"},
		moment{nodetest.AskReissue, lifecycle.Awaited, "#2", waits, "", ""},
		moment{nodetest.Further(nodetest.Request("csr-d", 2, -3*time.Second)), lifecycle.Awaited, "#2", waits, "", ""},
		moment{func(f *lifecycle.Facts) {
			nodetest.WithCertificate(find(f, "csr-d"))
			nodetest.WorksSince(-4 * time.Second)(f)
		}, lifecycle.Joined, "", hasJoined, "", ""},
	)
}

// The message of Ready names the CSR, the condition with the keys, and both commands.
func TestKeyReplacedMessageHelps(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	nodetest.Edits(nodetest.Claimed("csr-a"), nodetest.Further(nodetest.Request("csr-b", 1, -time.Second)))(f)
	for range 2 {
		reconcile(f)
	}
	s := f.NodeBootstrap.Status
	ready, stalled := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady), meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionStalled)
	if stalled == nil || stalled.Status != metav1.ConditionTrue || stalled.Reason != v1alpha1.ReasonKeyReplaced {
		t.Fatalf("Stalled is %+v", stalled)
	}
	for _, want := range []string{"csr-b", nodetest.NthID(1), "the kubelet's log", v1alpha1.ConditionKeyConflict, "kubectl nodebootstrap reissue " + nodetest.NodeName,
		"kubectl annotate nodebootstrap " + nodetest.NodeName, "new kubeconfig"} {
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

// A thief sends a CSR first and is approved. The machine is denied. When the thief joins, it is known that two machines have the
// kubeconfig.
func TestThiefWhoAskedFirstAndJoinsRaisesTheAlarm(t *testing.T) {
	joins := func(f *lifecycle.Facts) {
		nodetest.WithCertificate(find(f, "csr-thief"))
		nodetest.WorksSince(-2 * time.Second)(f)
	}
	play(t, nodetest.Awaited(1, nodetest.Young),
		moment{nodetest.Further(nodetest.Request("csr-thief", 1, nodetest.Minutes(1))), lifecycle.Awaited, "#1", waits, "", ""},
		moment{nodetest.Further(nodetest.Request("csr-b", 1, -time.Second)), lifecycle.Awaited, "#1", isReplaced, "", "CertificateDenied" + conflict + " KeyReplaced"},
		moment{joins, lifecycle.Joined, "", hasJoined, csr.ReasonSecondKey, "TokenMisused"},
		moment{func(f *lifecycle.Facts) { f.Requests = nil }, lifecycle.Joined, "", hasJoined, csr.ReasonSecondKey, ""},
		moment{func(f *lifecycle.Facts) { f.Node, f.NodeReported, f.LeaseRenewed = nil, false, time.Time{} }, lifecycle.Withdrawn, "", isWithdrawn, csr.ReasonSecondKey, ""},
	)
	// All within the second of the approval: then the Lease does not prove that the certificate is used.
	atOnce := func(f *lifecycle.Facts) { nodetest.WithCertificate(find(f, "csr-thief")); nodetest.WorksSince(0)(f) }
	play(t, nodetest.Awaited(1, nodetest.Young),
		moment{nodetest.Further(nodetest.Request("csr-thief", 1, nodetest.Minutes(1))), lifecycle.Awaited, "#1", waits, "", ""},
		moment{nodetest.Further(nodetest.Request("csr-b", 1, 0)), lifecycle.Awaited, "#1", isReplaced, "", "CertificateDenied" + conflict + " KeyReplaced"},
		moment{atOnce, lifecycle.Joined, "", hasJoined, csr.ReasonSecondKey, "TokenMisused"},
	)
	// The machine's CSR and the Lease are seen together.
	play(t, nodetest.Awaited(1, nodetest.Young),
		moment{nodetest.Further(nodetest.Request("csr-thief", 1, nodetest.Minutes(1))), lifecycle.Awaited, "#1", waits, "", ""},
		moment{nodetest.Edits(nodetest.Further(nodetest.Request("csr-b", 1, -time.Second)), joins), lifecycle.Joined, "", hasJoined, csr.ReasonSecondKey, "TokenMisused" + conflict},
	)
	// The machine sends its CSR when the thief has registered and has no Lease yet.
	play(t, nodetest.Awaited(1, nodetest.Young),
		moment{nodetest.Further(nodetest.Request("csr-thief", 1, nodetest.Minutes(1))), lifecycle.Awaited, "#1", waits, "", ""},
		moment{nodetest.Edits(nodetest.Registered(-time.Second), nodetest.Further(nodetest.Request("csr-b", 1, -2*time.Second))), lifecycle.Awaited, "#1", waits, csr.ReasonSecondKey, denies + conflict},
		moment{joins, lifecycle.Joined, "", hasJoined, csr.ReasonSecondKey, ""},
	)
}

// When a node has joined, the alarm is raised only if the newest key was denied.
func TestUseOfAKeyIsEvidence(t *testing.T) {
	d := func(name string, verdict v1alpha1.Verdict, reason string, n int) v1alpha1.CertificateDecision {
		out := nodetest.ApprovedDecision(name, n, nodetest.Minutes(5))
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
		edit func(*lifecycle.Facts)
		want string
	}{
		"one key":                         {nodetest.Records(approve("a")), ""},
		"the newest was denied":           {nodetest.Records(approve("a"), deny("b", csr.ReasonKeyReplaced)), csr.ReasonSecondKey},
		"it was left alone":               {nodetest.Records(approve("a"), d("b", v1alpha1.VerdictIgnored, decisions.ReasonTooManyKeys, 1)), csr.ReasonSecondKey},
		"the newest was approved":         {nodetest.Records(approve("a"), deny("b", csr.ReasonKeyReplaced), approve("c")), ""},
		"the first one was sent again":    {nodetest.Records(approve("a"), deny("b", csr.ReasonKeyReplaced), again(approve("c"), "a")), csr.ReasonSecondKey},
		"a person approved it":            {nodetest.Records(approve("a"), d("b", v1alpha1.VerdictApproved, csr.ReasonKeyReplaced, 1)), ""},
		"it was superseded":               {nodetest.Records(approve("a"), deny("b", csr.ReasonSuperseded)), ""},
		"another defect came after":       {nodetest.Records(approve("a"), deny("b", csr.ReasonKeyReplaced), deny("c", csr.ReasonWrongUsages)), csr.ReasonSecondKey},
		"with the token before a renewal": {nodetest.Records(d("a", v1alpha1.VerdictApproved, csr.ReasonKubeletClient, 7), d("b", v1alpha1.VerdictDenied, csr.ReasonKeyReplaced, 7), approve("c")), ""},
		"an alarm is raised":              {nodetest.Edits(nodetest.Raised(csr.ReasonWrongSubject), nodetest.Records(approve("a"), deny("b", csr.ReasonKeyReplaced))), ""},
		"ClusterWide":                     {nodetest.Edits(nodetest.Approval(v1alpha1.ApprovalClusterWide), nodetest.Records(approve("a"), deny("b", csr.ReasonKeyReplaced))), ""},
		"of an earlier wait": {nodetest.Edits(nodetest.Records(approve("a"), deny("b", csr.ReasonKeyReplaced)), func(f *lifecycle.Facts) {
			f.NodeBootstrap.Status.AwaitingSince, f.NodeBootstrap.Status.Token.ID = new(nodetest.Ago(nodetest.Minutes(4))), nodetest.NthID(3)
			nodetest.Further(nodetest.Request("csr-c", 3, nodetest.Minutes(3), nodetest.Approved(nodetest.Minutes(2)), nodetest.WithCertificate))(f)
		}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Awaited(1, nodetest.Young)
			nodetest.Edits(c.edit, nodetest.WorksSince(0))(f)
			p := nodetest.Decide(f, nodetest.Now)
			got := ""
			if p.Misuse != nil {
				got = p.Misuse.Reason
			}
			if p.Phase != lifecycle.Joined || got != c.want {
				t.Errorf("the phase is %d, the evidence %+v, want %q", p.Phase, p.Misuse, c.want)
			}
			if again := reported(f, status.Outcome{Revoked: true}); c.want != "" && !meta.IsStatusConditionTrue(again.Conditions, v1alpha1.ConditionTokenMisused) {
				t.Errorf("the status is %+v", again)
			}
		})
	}
}

// Whatever a kubelet sends that restarts over and over, the result is no alarm, and a bounded number of decisions.
func TestRestartsOverAndOverAreNoFlood(t *testing.T) {
	keys := func(count int) (out []*certificatesv1.CertificateSigningRequest) {
		for i := range count {
			out = append(out, nodetest.Request(fmt.Sprintf("csr-%02d", i), 1, -time.Duration(i)*time.Second))
		}
		return out
	}
	for name, c := range map[string]struct {
		edit     func(*lifecycle.Facts)
		recorded string
		alarm    string
	}{
		"one by one":       {nodetest.Unchanged, "1 Approved, 7 Denied, 1 Ignored", ""},
		"replacement keys": {nodetest.Replacements(7), "8 Approved, 1 Ignored", ""},
		"with a defect":    {nodetest.Records(nodetest.Because(csr.ReasonWrongDuration, nodetest.DeniedDecision("bad", 1, nodetest.Minutes(1)))), "1 Approved, 7 Denied, 1 Ignored", decisions.ReasonTooManyRequests},
	} {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Awaited(1, nodetest.Young)
			c.edit(f)
			for _, r := range keys(12) {
				f.Requests = append(f.Requests, r)
				reconcile(f)
				reconcile(f)
			}
			if got := nodetest.VerdictsOf(f.NodeBootstrap.Status.Certificates); got != c.recorded {
				t.Errorf("recorded are %s, want %s", got, c.recorded)
			}
			alarm := ""
			if a := nodetest.AlarmOf(&f.NodeBootstrap.Status); a != nil {
				alarm = a.Reason
			}
			if alarm != c.alarm {
				t.Errorf("the alarm is %q, want %q", alarm, c.alarm)
			}
			if got := nodetest.Short(&f.NodeBootstrap.Status, v1alpha1.ConditionReady); c.alarm == "" && got != isReplaced {
				t.Errorf("Ready is %s", got)
			}
		})
	}
	t.Run("all at once, after the operator was stopped", func(t *testing.T) {
		f := nodetest.Awaited(1, nodetest.Young)
		f.Requests = keys(12)
		for range 3 {
			reconcile(f)
		}
		if got, want := nodetest.VerdictsOf(f.NodeBootstrap.Status.Certificates), "1 Approved, 7 Denied, 1 Ignored"; got != want || nodetest.AlarmOf(&f.NodeBootstrap.Status) != nil {
			t.Errorf("recorded are %s, the alarm is %+v", got, nodetest.AlarmOf(&f.NodeBootstrap.Status))
		}
	})
}

// A restarted kubelet joins with its second key. The conflict of keys stays reported, and so does the first key's certificate.
func TestReplacementKeyJoins(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	nodetest.Replacements(1)(f)
	issue := func(name string) func(*lifecycle.Facts) {
		return func(f *lifecycle.Facts) {
			find(f, name).Status.Certificate = nodetest.Certificate(nodetest.Now.Add(-time.Hour), nodetest.Expires)
		}
	}
	play(t, f,
		moment{nodetest.Further(nodetest.Request("csr-a", 1, nodetest.Minutes(1))), lifecycle.Awaited, "#1", waits, "", ""},
		moment{issue("csr-a"), lifecycle.Awaited, "#1", waits, "", ""},
		moment{nodetest.Further(nodetest.Request("csr-b", 1, -time.Second)), lifecycle.Awaited, "#1", waits, "", "SeveralKeys IssuedBeforeReplacement"},
		moment{nodetest.Edits(issue("csr-b"), nodetest.WorksSince(-2*time.Second)), lifecycle.Joined, "", hasJoined, "", ""},
	)
	s := f.NodeBootstrap.Status
	c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionCertificateNotRevoked)
	if !meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionKeyConflict) || c == nil || !strings.Contains(c.Message, "csr-a") || strings.Contains(c.Message, "csr-b") {
		t.Errorf("the conditions are %+v", s.Conditions)
	}
}

// The decision on a denied key disappears with its token. That it was denied is evidence nevertheless when the node joins with the first key,
// unless a later key was approved.
func TestReplacedKeyIsEvidenceAfterItsToken(t *testing.T) {
	for name, tt := range map[string]struct {
		then []v1alpha1.CertificateDecision
		want bool
	}{
		"nothing since":       {nil, true},
		"the first key again": {[]v1alpha1.CertificateDecision{nodetest.ApprovedDecision("csr-c", 1, nodetest.Minutes(3))}, true},
		"a later key": {[]v1alpha1.CertificateDecision{withKey("SHA256:02", nodetest.ApprovedDecision("csr-c", 2, nodetest.Minutes(3)))},
			false},
	} {
		f := nodetest.Awaited(2, nodetest.Young)
		s := &f.NodeBootstrap.Status
		s.Tokens = []v1alpha1.LiveToken{{ID: nodetest.NthID(1)}, {ID: nodetest.NthID(2)}}
		decisions.Record(s, nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(5)))
		decisions.Record(s, withKey("SHA256:01", nodetest.Because(csr.ReasonKeyReplaced, nodetest.DeniedDecision("csr-b", 1, nodetest.Minutes(4)))))
		for _, d := range tt.then {
			decisions.Record(s, d)
		}
		decisions.SetTokens(s, []token.Token{nodetest.Token(2, nodetest.Young)})
		nodetest.WorksSince(nodetest.Minutes(2))(f)
		f.NodeBootstrap.Status.JoinProofTime = new(nodetest.Ago(nodetest.Minutes(4)))
		p, _, _ := reconcile(f)
		if got := p.Misuse != nil && p.Misuse.Reason == csr.ReasonSecondKey; got != tt.want || p.Phase != lifecycle.Joined {
			t.Errorf("%s: got %+v", name, nodetest.OutlineOf(&p))
		}
		if f.NodeBootstrap.Status.ReplacedKey != nil {
			t.Errorf("%s: the next wait begins with the key of this one", name)
		}
	}
}

func withKey(key string, d v1alpha1.CertificateDecision) v1alpha1.CertificateDecision {
	d.KeyFingerprint = key
	return d
}
