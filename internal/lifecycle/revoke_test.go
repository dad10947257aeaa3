// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
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

// Without a NodeBootstrap the plan lists the certificates that outlive it.
func TestCertificateOutlivesItsNodeBootstrap(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	f.NodeBootstrap = nil
	f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.IssuedFor("csr-a"), nodetest.Request("csr-b", 1, time.Minute, nodetest.Approved(0))}
	p := nodetest.Decide(f, nodetest.Now)
	if len(p.Outliving) != 1 || p.Outliving[0].Name != "csr-a" {
		t.Errorf("outliving are %v", p.Outliving)
	}
}

func TestDenyBeforeDeletion(t *testing.T) {
	for name, c := range map[string]struct {
		request *certificatesv1.CertificateSigningRequest
		want    string
	}{
		"pending":              {nodetest.Request("csr-a", 1, 0), decisions.ReasonTokenRevoked},
		"for a serving signer": {nodetest.Request("csr-a", 1, 0, nodetest.Asks(certificatesv1.KubeletServingSignerName)), decisions.ReasonTokenRevoked},
		"for another signer":   {nodetest.Request("csr-a", 1, 0, nodetest.AnotherSigner), ""},
		"approved":             {nodetest.Request("csr-a", 1, 0, nodetest.Approved(0)), ""},
		"denied":               {nodetest.Request("csr-a", 1, 0, nodetest.Decided(certificatesv1.CertificateDenied, 0)), ""},
		"evidence, the reason": {nodetest.Request("csr-a", 1, 0, nodetest.Asks(certificatesv1.KubeletServingSignerName)), csr.ReasonWrongSigner},
	} {
		t.Run(name, func(t *testing.T) {
			p, why := lifecycle.Plan{}, lifecycle.TokenRevoked
			if c.want == csr.ReasonWrongSigner {
				why = csr.Result{Verdict: csr.Leave, Reason: c.want}
			}
			p.DeleteRequest(c.request, why)
			got := p.DeleteRequests[0].Denial
			if p.DeleteRequests[0].Reason != why.Reason {
				t.Errorf("the reason for the log is %s, want %s", p.DeleteRequests[0].Reason, why.Reason)
			}
			if (got == nil) != (c.want == "") || got != nil && (got.Result.Verdict != csr.Deny || got.Result.Reason != c.want) {
				t.Errorf("got %+v, want %q", got, c.want)
			}
		})
	}
}

// The log has why each token was created and revoked.
func TestReasonsOfTokens(t *testing.T) {
	alarm := func(f *lifecycle.Facts) {
		f.NodeBootstrap.Status.Conditions = append(f.NodeBootstrap.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionTokenMisused, Status: metav1.ConditionTrue})
	}
	second := func(f *lifecycle.Facts) { nodetest.AddToken(f, 2, nodetest.Young-time.Minute) }
	for name, c := range map[string]struct {
		facts            *lifecycle.Facts
		edit             func(*lifecycle.Facts)
		revoked, created string
	}{
		"new":                     {nodetest.Fresh(), nodetest.Unchanged, "", v1alpha1.ReasonAwaitingNode},
		"renewed":                 {nodetest.Awaited(1, nodetest.Due), nodetest.Unchanged, "", lifecycle.ReasonRenewed},
		"reissued":                {nodetest.Awaited(1, nodetest.Young), nodetest.AskReissue, v1alpha1.ReasonReissued, v1alpha1.ReasonReissued},
		"joined":                  {nodetest.JoinedBefore(), second, v1alpha1.ReasonJoined, ""},
		"NodeBootstrap deleted":   {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) { f.NodeBootstrap = nil }, lifecycle.ReasonNodeBootstrapDeleted, ""},
		"of another one":          {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) { f.TokenSecrets[0].OwnerReferences[0].UID = "before" }, lifecycle.ReasonNodeBootstrapDeleted, v1alpha1.ReasonAwaitingNode},
		"without an owner":        {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) { f.TokenSecrets[0].OwnerReferences, f.TokenSecrets[0].Annotations = nil, nil }, lifecycle.ReasonOwnerRemoved, v1alpha1.ReasonAwaitingNode},
		"expired":                 {nodetest.Awaited(1, 48*time.Hour), nodetest.Unchanged, csr.ReasonTokenExpired, v1alpha1.ReasonAwaitingNode},
		"an alarm, and no claim":  {nodetest.Awaited(1, nodetest.Young), alarm, v1alpha1.ReasonTokenMisused, ""},
		"misuse in this plan":     {nodetest.Awaited(1, nodetest.Young), nodetest.With(nodetest.Request("csr-a", 1, 0, nodetest.ForNode("worker-2"))), v1alpha1.ReasonTokenMisused, ""},
		"ClusterWide not allowed": {nodetest.Awaited(1, nodetest.Young), nodetest.Edits(nodetest.Approval(v1alpha1.ApprovalClusterWide), func(f *lifecycle.Facts) { f.ClusterWideForbidden = true }), v1alpha1.ReasonClusterWideNotAllowed, ""},
		"spoiled":                 {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) { f.TokenSecrets[0].Data = nil }, lifecycle.ReasonReplaced, v1alpha1.ReasonAwaitingNode},
	} {
		t.Run(name, func(t *testing.T) {
			c.edit(c.facts)
			p := nodetest.Decide(c.facts, nodetest.Now)
			revoked := ""
			for _, d := range p.DeleteTokens {
				revoked += d.Reason
			}
			if revoked != c.revoked || p.MintReason != c.created {
				t.Errorf("revoked for %q, want %q; created for %q, want %q", revoked, c.revoked, p.MintReason, c.created)
			}
		})
	}
}
