// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"testing"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

// An approval that an earlier version claimed but did not carry out is carried out.
func TestUpgradeOfAClaimThatWasNotCarriedOut(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	r := nodetest.Request("csr-a", 1, nodetest.Minutes(1))
	mine := nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(1))
	mine.IssuedTime, mine.KeyFingerprint = nil, nodetest.Must(csr.Fingerprint(r))
	nodetest.Records(mine)(f)
	f.Requests = append(f.Requests, r)
	live := f.NodeBootstrap.DeepCopy()
	p := nodetest.Decide(f, nodetest.Now)
	if got := nodetest.OutlineOf(&p).Verdicts; got != "csr-a: Approved" || status.Claimed(&p, f, nodetest.Now) != nil {
		t.Fatalf("the verdicts are %q", got)
	}
	if !lifecycle.Supports(f.NodeBootstrap, live, f.TokenSecrets[0], p.Decisions[0], nodetest.Now) {
		t.Error("the stored claim does not support the approval")
	}
}

// A node that had joined under an earlier version stays joined, its key stays its own, and nothing is written.
func TestUpgradeOfAJoinedNode(t *testing.T) {
	f := nodetest.JoinedBefore()
	before := f.NodeBootstrap.Status.DeepCopy()
	p := nodetest.Decide(f, nodetest.Now)
	o := status.Outcome{Revoked: true}
	if p.Phase != lifecycle.Joined || !lifecycle.Claims(f.NodeBootstrap, "SHA256:00") {
		t.Errorf("got %+v", nodetest.OutlineOf(&p))
	}
	if s := status.Report(f, &p, &o, nodetest.Now); s.NodeUID != before.NodeUID || len(s.Tokens) > 0 || s.AwaitingSince != nil {
		t.Errorf("got %s", nodetest.AsJSON(s))
	}
}
