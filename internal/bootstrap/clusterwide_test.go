// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"strings"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// Without the manager's flag a NodeBootstrap with approval ClusterWide has no credential, whatever there was.
func TestDecideWithoutClusterWide(t *testing.T) {
	forbidden := edits(approval(v1alpha1.ApprovalClusterWide), func(f *Facts) { f.ClusterWideForbidden = true })
	gone := outline{phase: Awaited, deleteToken: "#1", dropConfig: true, problem: v1alpha1.ReasonClusterWideNotAllowed}
	asked := request("csr-a", 1, minutes(1))
	testPlans(t, map[string]planned{
		"no credential":          {fresh(), forbidden, outline{phase: Awaited, problem: v1alpha1.ReasonClusterWideNotAllowed}},
		"a live token":           {awaited(1, young), forbidden, gone},
		"no cluster either":      {awaited(1, young), edits(forbidden, noCluster), gone},
		"a request that waits":   {awaited(1, young), edits(forbidden, further(asked)), gone.deleting("csr-a")},
		"a reissue is asked for": {awaited(1, young), edits(forbidden, askReissue), func() outline { o := gone; o.reissue = true; return o }()},
		"a member":               {fresh(), edits(forbidden, worksSince(old)), outline{phase: Joined}},
		"approval Node":          {awaited(1, young), func(f *Facts) { f.ClusterWideForbidden = true }, outline{phase: Awaited, token: "#1"}},
	})
	f := awaited(1, young)
	forbidden(f)
	p := decide(f, now)
	s := Report(f, &p, &Outcome{Revoked: true}, now)
	for _, c := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionCredentialsAvailable} {
		if got := short(s, c); got != "False "+v1alpha1.ReasonClusterWideNotAllowed {
			t.Errorf("%s is %s", c, got)
		}
	}
	if got := short(s, v1alpha1.ConditionStalled); !strings.HasPrefix(got, "True") || s.Token != nil || s.Server != "" {
		t.Errorf("Stalled is %s, and the status %+v", got, s)
	}
}
