// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
)

// A CSR in another node's name that someone had denied before the operator saw it raised no alarm: the token stayed live, although it may
// have been stolen.
func TestEvidenceThatOthersHaveSettled(t *testing.T) {
	const failed = certificatesv1.CertificateFailed
	other, claim := nodetest.ForNode("worker-2"), nodetest.Claimed("csr-c") // a minute ago
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) func(*lifecycle.Facts) {
		return nodetest.Further(nodetest.Request("csr-a", 1, 0, edit...))
	}
	byUs := func(reason string) func(*certificatesv1.CertificateSigningRequest) {
		return nodetest.Judged(certificatesv1.CertificateDenied, reason, "x", 0)
	}
	first := nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1"}
	nodetest.Plans(t, map[string]nodetest.Planned{
		"another node":                          {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(other, nodetest.KubectlDeny(0)), Want: withdrawn("csr-a: Denied", "WrongSubject")},
		"another node, failed":                  {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(other, nodetest.Decided(failed, 0)), Want: withdrawn("csr-a: Denied", "WrongSubject")},
		"another node, issued":                  {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(other, nodetest.WithCertificate), Want: withdrawn("csr-a: Approved", "WrongSubject")},
		"another node, a key is approved":       {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(claim, a(other, nodetest.KubectlDeny(0))), Want: nodetest.Alarmed("csr-a: Denied", "WrongSubject")},
		"another node, and a sound one":         {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(a(other, nodetest.KubectlDeny(0)), nodetest.Further(nodetest.Request("csr-b", 1, 0))), Want: withdrawn("csr-a: Denied", "WrongSubject")},
		"another signer":                        {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.AnotherSigner, nodetest.KubectlDeny(0)), Want: withdrawn("csr-a: Denied", "WrongSigner")},
		"a second key, the first is not used":   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(claim, a(nodetest.KubectlDeny(0))), Want: nodetest.Alarmed("csr-a: Denied", "")},
		"a second key, the first is used":       {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(claim, nodetest.Registered(0), a(nodetest.KubectlDeny(0))), Want: nodetest.Alarmed("csr-a: Denied", "SecondKey")},
		"with approval Manual":                  {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.Approval(v1alpha1.ApprovalManual), a(other, nodetest.KubectlDeny(0))), Want: withdrawn("csr-a: Denied", "WrongSubject")},
		"no evidence":                           {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.KubectlDeny(0)), Want: first},
		"no evidence: too long":                 {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.TooLong, nodetest.KubectlDeny(0)), Want: first},
		"no evidence: with ClusterWide":         {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.Approval(v1alpha1.ApprovalClusterWide), a(other, nodetest.KubectlDeny(0))), Want: first.Repairing("#1")},
		"the operator's own":                    {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(other, byUs(csr.ReasonWrongSubject)), Want: first},
		"the operator's own, for the token":     {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(other, byUs(decisions.ReasonTokenRevoked)), Want: first},
		"on record":                             {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(claim, a(other, nodetest.KubectlDeny(0)), onRecord("csr-a", decisions.ReasonDeniedElsewhere)), Want: first},
		"the token was deleted":                 {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Further(nodetest.Request("csr-a", 7, nodetest.Minutes(1), other, nodetest.KubectlDeny(0))), Want: first},
		"before the token":                      {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Further(nodetest.Request("csr-a", 1, nodetest.Minutes(61), other, nodetest.KubectlDeny(0))), Want: first},
		"a reissue is due":                      {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(a(other, nodetest.KubectlDeny(0)), nodetest.AskReissue), Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Mint: "#2", DeleteToken: "#1"}},
		"joined":                                {Facts: nodetest.JoinedBefore(), Edit: a(other, nodetest.KubectlDeny(0)), Want: nodetest.Outline{Phase: lifecycle.Joined}},
		"deleted":                               {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(a(other, nodetest.KubectlDeny(0)), func(f *lifecycle.Facts) { f.NodeBootstrap = nil }), Want: nodetest.Outline{Phase: lifecycle.Gone, DeleteToken: "#1", DropConfig: true}},
		"an alarm is raised: recorded the same": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(claim, nodetest.Raised("SecondKey"), a(other, nodetest.KubectlDeny(0))), Want: nodetest.Alarmed("csr-a: Denied", "WrongSubject")},
	})
}

// onRecord adds the denial of a CSR to the status.
func onRecord(name, reason string) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) {
		d := nodetest.DeniedDecision(name, 1, 0)
		d.Reason = reason
		f.NodeBootstrap.Status.Certificates = append(f.NodeBootstrap.Status.Certificates, d)
	}
}
