// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"testing"

	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

// Its token was misused at once, so the reissue counts as handled. The tokens that could not be deleted stay revoked.
func TestReissueWhoseTokenWasMisusedLeavesNoToken(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	nodetest.Edits(nodetest.AskReissue, nodetest.Records(nodetest.ApprovedDecision("csr-0", 1, nodetest.Minutes(20))), func(f *lifecycle.Facts) { nodetest.AddToken(f, 2, 0) }, nodetest.With(nodetest.Request("csr-a", 2, 0, nodetest.ForNode("worker-2"))))(f)
	p := nodetest.Decide(f, nodetest.Now)
	nodetest.Claim(f, &p)
	carryOutVerdicts(&p)
	f.NodeBootstrap.Status = *status.Report(f, &p, &status.Outcome{Err: nodetest.ErrWrite}, nodetest.Now) // neither token could be deleted
	p = nodetest.Decide(f, nodetest.Now)
	if got, want := nodetest.OutlineOf(&p), (nodetest.Outline{Phase: lifecycle.Withdrawn, DeleteToken: "#1 #2", DropConfig: true}); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for range 3 {
		p, _, _ = reconcile(f)
	}
	if s := f.NodeBootstrap.Status; s.LastHandledReissueAt != nodetest.ReissueAt || nodetest.AlarmOf(&s) == nil || p.Phase != lifecycle.Withdrawn || len(f.TokenSecrets) > 0 {
		t.Errorf("handled is %q, the alarm %v, and the plan %+v", s.LastHandledReissueAt, nodetest.AlarmOf(&s), nodetest.OutlineOf(&p))
	}
}
