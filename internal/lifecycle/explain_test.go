// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"slices"
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

// outcomeOf is what a plan does with a CSR, as far as it does anything.
func outcomeOf(p *lifecycle.Plan, r *certificatesv1.CertificateSigningRequest) (lifecycle.Outcome, string) {
	for _, d := range p.DeleteRequests {
		if d.Request.UID == r.UID {
			return lifecycle.Deletes, d.Reason
		}
	}
	for _, d := range p.Decisions {
		switch {
		case d.Request.UID != r.UID:
		case d.Result.Verdict == csr.Approve:
			return lifecycle.Approves, d.Result.Reason
		case d.Result.Verdict == csr.Deny:
			return lifecycle.Denies, d.Result.Reason
		}
	}
	return "", ""
}

// Whatever the facts, Explain says what Decide does with each CSR, and gives a reason also where Decide does nothing.
func TestExplainAgreesWithDecide(t *testing.T) {
	seen := map[string]bool{}
	nodetest.States(nodetest.ManyStates/5, func(seed int, f *lifecycle.Facts) {
		if f.NodeBootstrap != nil {
			f.UpgradeStatus()
		}
		p := lifecycle.Decide(f, nodetest.Now)
		for _, r := range slices.Concat(f.Requests, f.ServingRequests) {
			j := lifecycle.Explain(f, r, nodetest.Now)
			seen[j.Rule] = true
			want, reason := outcomeOf(&p, r)
			acts := j.Outcome == lifecycle.Approves || j.Outcome == lifecycle.Denies || j.Outcome == lifecycle.Deletes
			switch {
			case want != "" && (j.Outcome != want || j.Reason != reason):
				t.Errorf("seed %d, %s: got %+v, want %s %s", seed, r.Name, j, want, reason)
			case want == "" && acts && j.Message != lifecycle.MisusedWithOthers:
				t.Errorf("seed %d, %s: got %+v, and the plan does nothing with it", seed, r.Name, j)
			case j.Outcome == "" || j.Message == "" || (j.Reason == "") != (j.Outcome == lifecycle.Settled):
				t.Errorf("seed %d, %s: got %+v", seed, r.Name, j)
			case j.Outcome == lifecycle.Settled && csr.Undecided(r):
				t.Errorf("seed %d, %s has no verdict: got %+v", seed, r.Name, j)
			}
		}
	})
	for name, tt := range explained() {
		for _, r := range tt.facts.Requests {
			if j := lifecycle.Explain(tt.facts, r, nodetest.Now); r.Name == "csr-x" {
				seen[j.Rule] = true
				if j.Outcome != tt.outcome || j.Reason != tt.reason {
					t.Errorf("%s: got %+v, want %s %s", name, j, tt.outcome, tt.reason)
				}
			}
		}
	}
	names, functions := lifecycle.TokenRules()
	if !slices.Equal(names, functions) {
		t.Errorf("the rules %v are the functions %v", names, functions)
	}
	for _, name := range append(names, "hasLiveToken", "servingVerdict") {
		if !seen[name] && name != "isEvaluated" { // which settles nothing
			t.Errorf("no state shows the rule %s", name)
		}
	}
}

type explainedCase struct {
	facts   *lifecycle.Facts
	outcome lifecycle.Outcome
	reason  string
}

// explained are states that are rare among the random ones, with the outcome for the CSR csr-x.
func explained() map[string]explainedCase {
	awaited := func(edits ...func(*lifecycle.Facts)) *lifecycle.Facts {
		f := nodetest.Awaited(1, nodetest.Young)
		for _, edit := range edits {
			edit(f)
		}
		f.UpgradeStatus()
		return f
	}
	x := func(edits ...func(*certificatesv1.CertificateSigningRequest)) func(*lifecycle.Facts) {
		return nodetest.Further(nodetest.Request("csr-x", 1, 0, edits...))
	}
	delayed := func(f *lifecycle.Facts) {
		f.NodeBootstrap.Spec.ClientCertificate.ApprovalDelay = &metav1.Duration{Duration: time.Minute}
	}
	old := func(r *certificatesv1.CertificateSigningRequest) {
		r.CreationTimestamp = nodetest.Ago(1000 * time.Hour)
	}
	return map[string]explainedCase{
		"approved":              {awaited(x()), lifecycle.Approves, csr.ReasonKubeletClient},
		"by a person":           {awaited(x(), nodetest.Approval(v1alpha1.ApprovalManual)), lifecycle.Waits, v1alpha1.ReasonAwaitingApproval},
		"cluster-wide":          {awaited(x(), nodetest.Approval(v1alpha1.ApprovalClusterWide)), lifecycle.Leaves, v1alpha1.ReasonApprovalClusterWide},
		"delayed":               {awaited(x(), delayed), lifecycle.Waits, lifecycle.ReasonApprovalDelayed},
		"one of several keys":   {awaited(x(), delayed, nodetest.Further(nodetest.Request("csr-y", 1, 0))), lifecycle.Waits, v1alpha1.ReasonSeveralKeys},
		"pinned twice":          {awaited(x(), nodetest.PinnedTwice("csr-x")), lifecycle.Waits, v1alpha1.ReasonKeyPinnedTwice},
		"older than the token":  {awaited(x(old)), lifecycle.Deletes, decisions.ReasonTokenRevoked},
		"approved as decided":   {awaited(x(nodetest.Approved(0)), nodetest.Claimed("csr-x")), lifecycle.Settled, ""},
		"denied by others":      {awaited(x(nodetest.KubectlDeny(0))), lifecycle.Settled, ""},
		"denied by us":          {awaited(x(nodetest.Judged(certificatesv1.CertificateDenied, csr.ReasonWrongUsages, "", 0))), lifecycle.Settled, ""},
		"with one that misuses": {awaited(x(), nodetest.Further(nodetest.Request("csr-y", 1, 0, nodetest.ForNode("worker-2")))), lifecycle.Deletes, decisions.ReasonTokenRevoked},
		"another signer":        {awaited(x(nodetest.AnotherSigner)), lifecycle.Deletes, csr.ReasonWrongSigner},
		"after the join":        {edited(nodetest.JoinedBefore(), x()), lifecycle.Deletes, decisions.ReasonTokenRevoked},
		"too many requests":     {awaited(nodetest.Claimed("csr-c"), nodetest.Further(nodetest.Request("csr-x", 1, nodetest.Minutes(20))), nodetest.Further(nodetest.BadRequests(1, 8)...)), lifecycle.Leaves, decisions.ReasonTooManyRequests},
	}
}

func edited(f *lifecycle.Facts, edit func(*lifecycle.Facts)) *lifecycle.Facts {
	edit(f)
	return f
}

// Once a decision is stored, the same check still fails.
func TestReevaluateFindsTheDecidingCheck(t *testing.T) {
	found := map[string]int{}
	nodetest.States(nodetest.ManyStates, func(seed int, f *lifecycle.Facts) {
		if f.NodeBootstrap == nil {
			return
		}
		f.UpgradeStatus()
		p := lifecycle.Decide(f, nodetest.Now)
		nodetest.Claim(f, &p)
		for _, d := range ofTokens(&p) {
			for i, r := range f.Requests {
				if r.UID == d.Request.UID && csr.Undecided(r) && d.Result.Verdict != csr.Leave {
					f.Requests[i] = judged(r, d)
				}
			}
		}
		for _, d := range ofTokens(&p) {
			dropped := p.Misuse != nil || f.Misused() // with an alarm, the plan drops approvals that other decisions rest on
			if d.Result.Verdict == csr.Leave || dropped && (d.Result.Check == "hasClaimedKey" || d.Result.Check == "hasKeyOfNoOtherNode") {
				continue
			}
			got, ok := lifecycle.Reevaluate(f, d.Request, nodetest.Now)
			found[d.Result.Reason]++
			if !ok || got.Check != d.Result.Check || got.Reason != d.Result.Reason && got.Check != "hasClaimedKey" { // a Node may be newer
				t.Errorf("seed %d, %s: got %+v, the decision was %+v", seed, d.Request.Name, got, d.Result)
			}
		}
	})
	for _, reason := range []string{csr.ReasonKubeletClient, csr.ReasonWrongSubject, csr.ReasonSuperseded, csr.ReasonKeyReplaced, csr.ReasonKeyNotPinned, csr.ReasonKeyOfAnotherNode} {
		if found[reason] == 0 {
			t.Errorf("no state has a decision with the reason %s: %v", reason, found)
		}
	}
}

func judged(r *certificatesv1.CertificateSigningRequest, d lifecycle.Decision) *certificatesv1.CertificateSigningRequest {
	kind := certificatesv1.CertificateDenied
	if d.Result.Verdict == csr.Approve {
		kind = certificatesv1.CertificateApproved
	}
	r = r.DeepCopy()
	nodetest.Judged(kind, d.Result.Reason, d.Result.Message, 0)(r)
	return r
}
