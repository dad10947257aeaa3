// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
)

// approvals are the names of the CSRs that a plan approves.
func approvals(p *lifecycle.Plan) string {
	var out []string
	for _, d := range ofTokens(p) {
		if d.Result.Verdict == csr.Approve {
			out = append(out, d.Request.Name)
		}
	}
	return strings.Join(out, " ")
}

func TestReplacementKeys(t *testing.T) {
	b, c := nodetest.Request("csr-b", 1, -time.Second), nodetest.Request("csr-c", 1, -2*time.Second)
	second := func(f *lifecycle.Facts) {
		d := nodetest.ApprovedDecision("csr-b", 1, 0)
		d.KeyFingerprint, d.IssuedTime = nodetest.Must(csr.Fingerprint(b)), nil
		f.NodeBootstrap.Status.Certificates = append(f.NodeBootstrap.Status.Certificates, d)
	}
	predecessor := func(f *lifecycle.Facts) {
		nodetest.AddToken(f, 2, 0)
		f.NodeBootstrap.Status.Token.ID = nodetest.NthID(2)
	}
	delayed := func(f *lifecycle.Facts) {
		f.NodeBootstrap.Spec.ClientCertificate.ApprovalDelay = &metav1.Duration{Duration: time.Second}
	}
	for name, tt := range map[string]struct {
		allowed  int32
		edit     func(*lifecycle.Facts)
		approves string
		verdicts string // everything recorded, if it differs
	}{
		"none":                   {0, nodetest.With(b), "", "csr-b: Denied"},
		"one":                    {1, nodetest.With(b), "csr-b", ""},
		"two at once":            {1, nodetest.With(b, c), "csr-c", "csr-c: Approved, csr-b: Denied"},
		"two at once, of two":    {2, nodetest.With(b, c), "csr-c", "csr-c: Approved, csr-b: Denied"},
		"the next, of one":       {1, nodetest.Edits(second, nodetest.With(c)), "", "csr-c: Denied"},
		"the next, of two":       {2, nodetest.Edits(second, nodetest.With(c)), "csr-c", ""},
		"the first one again":    {1, nodetest.Edits(second, nodetest.With(nodetest.Request("csr-a/2", 1, -time.Second))), "csr-a/2", ""},
		"the second one again":   {1, nodetest.Edits(second, nodetest.With(nodetest.Request("csr-b/2", 1, -time.Second))), "csr-b/2", ""},
		"a claim, and a crash":   {1, nodetest.Edits(second, nodetest.With(b)), "csr-b", ""},
		"less is allowed since":  {0, nodetest.Edits(second, nodetest.With(nodetest.Request("csr-b/2", 1, -time.Second))), "", "csr-b/2: Denied"},
		"the first is used":      {1, nodetest.Edits(nodetest.Registered(0), nodetest.With(b)), "", "csr-b: Denied"},
		"an alarm is raised":     {1, nodetest.Edits(nodetest.Raised(csr.ReasonWrongSubject), nodetest.With(b)), "", "csr-b: Denied"},
		"evidence at once":       {1, nodetest.With(b, nodetest.Request("csr-w", 1, 0, nodetest.ForNode("worker-2"))), "", "csr-w: Denied"},
		"a token with successor": {1, nodetest.Edits(predecessor, nodetest.With(b)), "", "csr-b: Denied"},
		"a delay":                {1, nodetest.Edits(delayed, nodetest.With(b)), "", ""},
		"Manual":                 {1, nodetest.Edits(nodetest.Approval(v1alpha1.ApprovalManual), nodetest.With(b)), "", ""},
		"Manual, none":           {0, nodetest.Edits(nodetest.Approval(v1alpha1.ApprovalManual), nodetest.With(b)), "", "csr-b: Denied"},
	} {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Awaited(1, nodetest.Young)
			nodetest.Edits(nodetest.Replacements(tt.allowed), nodetest.Claimed("csr-a"), tt.edit)(f)
			for i, r := range f.Requests {
				f.Requests[i] = r.DeepCopy()
			}
			p := nodetest.Decide(f, nodetest.Now)
			if got := approvals(&p); got != tt.approves {
				t.Errorf("it approves %q, want %q", got, tt.approves)
			}
			if got := nodetest.OutlineOf(&p).Verdicts; tt.verdicts != "" && got != tt.verdicts {
				t.Errorf("the verdicts are %s, want %s", got, tt.verdicts)
			}
		})
	}
}

// The first key that was approved with a token is the claim, in whatever order a cache lists the CSRs.
func TestSecondKeyIsTheSameInAnyOrder(t *testing.T) {
	first := nodetest.Request("csr-a", 1, nodetest.Minutes(20), nodetest.Approved(nodetest.Minutes(19)), nodetest.WithCertificate)
	second := nodetest.Request("csr-b", 1, nodetest.Minutes(10), nodetest.Approved(nodetest.Minutes(9)), nodetest.WithCertificate)
	for _, mode := range []v1alpha1.Approval{v1alpha1.ApprovalManual, v1alpha1.ApprovalNode} {
		for _, requests := range [][]*certificatesv1.CertificateSigningRequest{{first, second}, {second, first}} {
			f := nodetest.Awaited(1, nodetest.Young)
			nodetest.Edits(nodetest.Approval(mode), nodetest.With(requests...))(f)
			p := nodetest.Decide(f, nodetest.Now)
			if got, want := nodetest.OutlineOf(&p), nodetest.Alarmed("csr-b: Approved", ""); got != want || p.Decisions[0].Record.Reason != csr.ReasonKeyReplaced {
				t.Errorf("%s first: got  %+v\nwant %+v", requests[0].Name, got, want)
			}
			nodetest.Registered(nodetest.Minutes(1))(f)
			p = nodetest.Decide(f, nodetest.Now)
			if got, want := nodetest.OutlineOf(&p), nodetest.Alarmed("csr-b: Approved", "SecondKey"); got != want {
				t.Errorf("%s first, and the first key is used: got  %+v\nwant %+v", requests[0].Name, got, want)
			}
		}
	}
}

func TestClaimIsTheSameInAnyOrder(t *testing.T) {
	first, second := nodetest.Request("csr-a", 1, nodetest.Minutes(20)), nodetest.Request("csr-b", 1, nodetest.Minutes(10))
	for name, tt := range map[string]struct {
		a, b time.Duration // when they were approved
		want *certificatesv1.CertificateSigningRequest
	}{
		"one by one":           {nodetest.Minutes(9), nodetest.Minutes(8), first},
		"the later one first":  {nodetest.Minutes(8), nodetest.Minutes(9), second},
		"in one second":        {nodetest.Minutes(9), nodetest.Minutes(9), first},
		"the other one is not": {nodetest.Minutes(9), -1, first},
	} {
		requests := []*certificatesv1.CertificateSigningRequest{first.DeepCopy(), second.DeepCopy(), nodetest.Request("csr-c", 7, nodetest.Old, nodetest.Approved(nodetest.Old)), nodetest.Request("csr-d", 1, nodetest.Old, nodetest.AnotherSigner, nodetest.Approved(nodetest.Old))}
		nodetest.Approved(tt.a)(requests[0])
		if tt.b >= 0 {
			nodetest.Approved(tt.b)(requests[1])
		}
		for range 2 {
			slices.Reverse(requests)
			f := nodetest.Awaited(1, nodetest.Young)
			nodetest.With(requests...)(f)
			if key, _ := claimOf(f, nodetest.NthID(1)); key != nodetest.Must(csr.Fingerprint(tt.want)) {
				t.Errorf("%s: the claim is not that of %s", name, tt.want.Name)
			}
		}
	}
}

// The CSR with the first key is deleted an hour after its approval; the log entry stays.
func TestSecondKeyIsOneWithoutTheFirstRequest(t *testing.T) {
	f := nodetest.Awaited(1, 2*nodetest.Young)
	f.NodeBootstrap.Status.AwaitingSince = new(nodetest.Ago(2 * time.Hour))
	nodetest.Edits(nodetest.Approval(v1alpha1.ApprovalManual), nodetest.Records(nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(70))),
		nodetest.With(nodetest.Request("csr-b", 1, nodetest.Minutes(10), nodetest.Approved(nodetest.Minutes(9)), nodetest.WithCertificate)), nodetest.Registered(nodetest.Minutes(20)))(f)
	p := nodetest.Decide(f, nodetest.Now)
	if got, want := nodetest.OutlineOf(&p), nodetest.Alarmed("csr-b: Approved", "SecondKey"); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestKeyIsClaimed(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*v1alpha1.CertificateDecision)
		want bool
	}{
		"approved":              {func(*v1alpha1.CertificateDecision) {}, true},
		"approved by others":    {func(d *v1alpha1.CertificateDecision) { d.Reason = decisions.ReasonApprovedElsewhere }, true},
		"a theft, approved":     {func(d *v1alpha1.CertificateDecision) { d.Reason = csr.ReasonSecondKey }, true},
		"denied":                {func(d *v1alpha1.CertificateDecision) { d.Verdict = v1alpha1.VerdictDenied }, false},
		"serving":               {func(d *v1alpha1.CertificateDecision) { d.SignerName = certificatesv1.KubeletServingSignerName }, false},
		"another key":           {func(d *v1alpha1.CertificateDecision) { d.KeyFingerprint = "SHA256:11" }, false},
		"long ago":              {func(d *v1alpha1.CertificateDecision) { d.Time = nodetest.Ago(10 * csr.MaxLife) }, true},
		"the key was not known": {func(d *v1alpha1.CertificateDecision) { d.KeyFingerprint = "" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			nb := nodetest.NodeBootstrap()
			d := nodetest.ApprovedDecision("csr-a", 1, time.Minute)
			c.edit(&d)
			nb.Status.Certificates = []v1alpha1.CertificateDecision{d}
			if got := lifecycle.Claims(nb, "SHA256:00"); got != c.want {
				t.Errorf("it claims the key: %v, want %v", got, c.want)
			}
		})
	}
}

// The key of another node is denied, even if the claim was stored before and the approval was not sent.
func TestKeyOfAnotherNodeIsDenied(t *testing.T) {
	for name, edit := range map[string]func(*lifecycle.Facts){
		"new":     func(*lifecycle.Facts) {},
		"claimed": nodetest.Claimed("csr-a"),
	} {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Awaited(1, nodetest.Young)
			r := nodetest.Request("csr-a", 1, time.Minute)
			f.Requests = []*certificatesv1.CertificateSigningRequest{r}
			edit(f)
			f.KeysElsewhere = map[string]string{nodetest.Must(csr.Fingerprint(r)): "worker-2"}
			p := nodetest.Decide(f, nodetest.Now)
			if len(p.Decisions) != 1 || p.Decisions[0].Result.Verdict != csr.Deny || p.Decisions[0].Result.Reason != csr.ReasonKeyOfAnotherNode {
				t.Fatalf("the decisions are %+v", p.Decisions)
			}
			if message := p.Decisions[0].Result.Message; !strings.Contains(message, "worker-2") || !strings.Contains(message, nodetest.NodeName) {
				t.Errorf("the message does not name both nodes: %s", message)
			}
			if p.Misuse != nil || len(p.KeysToClaim()) > 0 {
				t.Errorf("misuse %+v, keys to claim %q", p.Misuse, p.KeysToClaim())
			}
		})
	}
}

// A claimed key is approved, whatever came after it: the crash came before the approval.
func TestApprovalDelayDoesNotHoldAClaim(t *testing.T) {
	f := nodetest.Conflicting(v1alpha1.ApprovalNode, nodetest.Request("csr-a", 1, time.Minute), nodetest.Request("csr-b", 1, 0))
	f.NodeBootstrap.Spec.ClientCertificate.ApprovalDelay = &metav1.Duration{Duration: time.Hour}
	nodetest.Claimed("csr-a")(f)
	p := nodetest.Decide(f, nodetest.Now)
	if keys := p.KeysToClaim(); len(keys) != 1 || keys[0] != nodetest.Must(csr.Fingerprint(f.Requests[0])) {
		t.Errorf("the keys to claim are %q", keys)
	}
}
