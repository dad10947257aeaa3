// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

// Ready said "give the node the kubeconfig" after a denial and after the certificate was issued.
func TestReadySaysWhatTheNodeWaitsFor(t *testing.T) {
	const give = "give the node the kubeconfig"
	unissued := nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(2))
	unissued.IssuedTime = nil
	denial := saying("the key is too short", nodetest.Because("WrongKey", nodetest.DeniedDecision("csr-b", 1, nodetest.Minutes(1))))
	issued := func(age time.Duration) func(*lifecycle.Facts) {
		return nodetest.Records(nodetest.ApprovedDecision("csr-a", 1, age))
	}
	withNode := func(f *lifecycle.Facts) { f.Node = nodetest.NodeMade(time.Second) }
	former := nodetest.ApprovedDecision("csr-a", 7, nodetest.Minutes(90))
	tests := map[string]struct {
		edit func(*lifecycle.Facts)
		want string
	}{
		"no CSR":                              {nodetest.Unchanged, give},
		"approved":                            {nodetest.Records(unissued), give},
		"issued a moment ago":                 {issued(10 * time.Second), "CSR csr-a was issued at 2026-03-04T05:05:57Z: waiting for the kubelet to register its Node"},
		"issued, and no Node":                 {issued(nodetest.Minutes(3)), "CSR csr-a was issued at 2026-03-04T05:03:07Z, but no Node registered; see the kubelet's log for"},
		"issued, and a Node":                  {nodetest.Edits(issued(nodetest.Minutes(3)), withNode), "CSR csr-a was issued at 2026-03-04T05:03:07Z: waiting for the kubelet to use its certificate"},
		"denied":                              {nodetest.Records(denial), "last CSR csr-b was denied: WrongKey: the key is too short: see"},
		"denied, then issued":                 {nodetest.Records(nodetest.Because("WrongKey", nodetest.DeniedDecision("csr-b", 1, nodetest.Minutes(5))), nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(3))), "CSR csr-a was issued at"},
		"issued, then denied":                 {nodetest.Records(nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(3)), denial), "last CSR csr-b was denied"},
		"superseded in the same second":       {nodetest.Records(nodetest.Because("Superseded", nodetest.DeniedDecision("csr-b", 1, nodetest.Minutes(2))), unissued), give},
		"issued in the life before":           {nodetest.Records(former), give},
		"a serving certificate":               {nodetest.Records(nodetest.Decision('x', "csr-s")), give},
		"issued for the token before renewal": {nodetest.Records(nodetest.ApprovedDecision("csr-a", 2, nodetest.Minutes(3))), "CSR csr-a was issued at"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Awaited(1, nodetest.Young)
			tt.edit(f)
			status := reportOf(f)
			if got := readyMessage(status); !strings.HasPrefix(got, tt.want) {
				t.Errorf("Ready says %q, want %q", got, tt.want)
			}
			f.NodeBootstrap.Status = *status
			if again := reportOf(f); !reflect.DeepEqual(again, status) {
				t.Errorf("it is written again: %q", readyMessage(again))
			}
		})
	}
}

// The message changes with time, so the plan requeues for then, and the report has another message.
func TestPlanLooksForTheNode(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	nodetest.Records(nodetest.ApprovedDecision("csr-a", 1, 10*time.Second))(f)
	p := nodetest.Decide(f, nodetest.Now)
	if want := nodetest.Now.Add(6 * time.Second); !p.RequeueAt.Equal(want) {
		t.Errorf("it requeues at %s, want %s", p.RequeueAt, want)
	}
	o := status.Outcome{Token: p.Token, Published: true, Acceptance: status.Accepted, Revoked: true}
	if got := readyMessage(status.Report(f, &p, &o, p.RequeueAt)); !strings.Contains(got, "no Node registered") {
		t.Errorf("then Ready says %q", got)
	}
	if p := nodetest.Decide(f, p.RequeueAt); !p.RequeueAt.After(nodetest.Now.Add(time.Hour)) {
		t.Errorf("it requeues once more at %s", p.RequeueAt)
	}
}

// Ready stays True: the credential is valid, and the kubelet can register at any time.
func TestReadyStaysTrueWithoutANode(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	nodetest.Records(nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(3)))(f)
	if got := nodetest.Short(reportOf(f), v1alpha1.ConditionReady); !strings.Contains(got, "True") {
		t.Errorf("got %s", got)
	}
}
