// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
)

// A withdrawn token has used its id: the next one must not get it, because CSRs are recorded under it.
func TestIDOfAWithdrawnTokenIsNotGivenAgain(t *testing.T) {
	theft := nodetest.Further(nodetest.Request("csr-b", 2, 0, nodetest.ForNode("worker-2")))
	predecessor := func() *lifecycle.Facts {
		f := nodetest.Awaited(2, nodetest.Young)
		nodetest.Edits(func(f *lifecycle.Facts) { nodetest.AddToken(f, 1, nodetest.Due) }, nodetest.Records(nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(50))), theft)(f)
		return f
	}
	unknown := func() *lifecycle.Facts { // the status does not name the token yet
		f := nodetest.Awaited(2, nodetest.Young)
		f.NodeBootstrap.Status = nodetest.StatusOf(1, nodetest.Young)
		theft(f)
		return f
	}
	for name, f := range map[string]*lifecycle.Facts{"its predecessor stays": predecessor(), "before the status named it": unknown()} {
		t.Run(name, func(t *testing.T) {
			for range 3 {
				reconcile(f)
			}
			if got := f.NodeBootstrap.Status.LastTokenID; got != nodetest.NthID(2) {
				t.Errorf("the last token is %s", nodetest.Ordinal(got))
			}
			nodetest.AskReissue(f)
			p := nodetest.Decide(f, nodetest.Now)
			if got := nodetest.OutlineOf(&p).Mint; got != "#3" {
				t.Errorf("the next token is %s", got)
			}
		})
	}
}

// The newest token was deleted by hand and its predecessor still exists: an id must not be used twice, since the claim on a key is stored
// with it.
func TestAnIDIsNotUsedTwice(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Due)
	f.NodeBootstrap.Status = nodetest.StatusOf(2, nodetest.Young)
	claim := nodetest.ApprovedDecision("csr-a", 2, nodetest.Minutes(5)) // the key of a machine that was wiped later
	claim.IssuedTime = nil
	f.NodeBootstrap.Status.Certificates = []v1alpha1.CertificateDecision{claim}
	p := nodetest.Decide(f, nodetest.Now)
	if got := nodetest.OutlineOf(&p).Mint; got != "#3" {
		t.Errorf("the next token would be %s, but #2 was used before", got)
	}
	carryOut(f, &p)
	f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-b", 2, 0)}
	if p := nodetest.Decide(f, nodetest.Now); len(p.Decisions) > 0 && p.Decisions[0].Record.Verdict == v1alpha1.VerdictDenied {
		t.Errorf("a machine with the published kubeconfig is denied: %s", p.Decisions[0].Result.Message)
	}
}

// After a crash the status does not name a published token; the token is revoked, and another crash follows. Its id must not be used
// again, since the API server accepts the old token for ten seconds more, as the same user as the new one.
func TestIDOfATokenThatTheStatusDoesNotTellOfIsNotGivenAgain(t *testing.T) {
	f := nodetest.Fresh()
	nodetest.AddToken(f, 1, nodetest.Young)
	nodetest.AskReissue(f)
	p := nodetest.Decide(f, nodetest.Now)
	if got := nodetest.OutlineOf(&p); got.DeleteToken != "#1" || got.Mint != "#2" {
		t.Fatalf("the plan is %+v", got)
	}
	nodetest.Claim(f, &p)
	revoke(f, &p)
	if p = nodetest.Decide(f, nodetest.Now); nodetest.OutlineOf(&p).Mint != "#2" {
		t.Errorf("after a crash the plan is %+v", nodetest.OutlineOf(&p))
	}
}
