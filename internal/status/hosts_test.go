// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

func TestAddHosts(t *testing.T) {
	many := func(n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf("h%d.example", i))
		}
		return out
	}
	for name, tt := range map[string]struct {
		hosts, servers, want []string
	}{
		"none":           {nil, nil, nil},
		"nothing":        {[]string{"a.example"}, []string{"", "https://"}, []string{"a.example"}},
		"the first":      {nil, []string{"https://a.example:6443"}, []string{"a.example"}},
		"the same":       {[]string{"a.example"}, []string{"https://A.example"}, []string{"a.example"}},
		"another":        {[]string{"a.example"}, []string{"https://b.example"}, []string{"a.example", "b.example"}},
		"one of before":  {[]string{"a.example", "b.example"}, []string{"https://a.example"}, []string{"b.example", "a.example"}},
		"two":            {[]string{"a.example"}, []string{"https://a.example", "https://b.example"}, []string{"a.example", "b.example"}},
		"too many":       {many(16), []string{"https://h16.example"}, many(17)[1:]},
		"again the last": {many(16), []string{"https://h15.example"}, many(16)},
	} {
		before := slices.Clone(tt.hosts)
		if got := status.AddHosts(tt.hosts, tt.servers...); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v", name, got)
		}
		if !slices.Equal(before, tt.hosts) {
			t.Errorf("%s: the input is changed: %v", name, tt.hosts)
		}
	}
}

// The hosts stay after the join, when the server changes, and when an answer was lost; those of an earlier version's status come from its
// server.
func TestHostsAreKept(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	f.NodeBootstrap.Status.Server = "https://before.example:6443"
	p := nodetest.Decide(f, nodetest.Now)
	hosts := func(o *status.Outcome) []string {
		s := status.Report(f, &p, o, nodetest.Now)
		if s.Server != "" && s.Server != f.Cluster.Server && s.Server != f.NodeBootstrap.Status.Server {
			t.Errorf("the server is %s", s.Server)
		}
		f.NodeBootstrap.Status = *s
		return s.APIServerHosts
	}
	want := []string{"before.example", "api.example.com"}
	if got := hosts(&status.Outcome{Token: p.Token, Published: true, Acceptance: status.Accepted, Err: fmt.Errorf("the answer was lost")}); !slices.Equal(got, want) {
		t.Errorf("after a lost answer: %v", got)
	}
	if got := hosts(&status.Outcome{Token: p.Token, Published: true, Acceptance: status.Accepted}); !slices.Equal(got, want) {
		t.Errorf("published: %v", got)
	}
	f.Cluster, f.ClusterProblem = kubeconfig.Cluster{Server: "https://wrong.example"}, &problem.Problem{Reason: v1alpha1.ReasonCADoesNotVerify}
	p = nodetest.Decide(f, nodetest.Now)
	if got := hosts(&status.Outcome{Token: p.Token, Published: true, Acceptance: status.Accepted}); !slices.Equal(got, want) {
		t.Errorf("an unpublished host is in the status: %v", got)
	}
	p = lifecycle.Plan{Phase: lifecycle.Joined}
	if got := hosts(&status.Outcome{Revoked: true}); !slices.Equal(got, want) || f.NodeBootstrap.Status.Server != "" {
		t.Errorf("joined: %v", got)
	}
}
