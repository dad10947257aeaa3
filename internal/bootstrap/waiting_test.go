// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// Ready said "give the node the kubeconfig" after a denial and after the certificate was issued.
func TestReadySaysWhatTheNodeWaitsFor(t *testing.T) {
	const give = "give the node the kubeconfig"
	unissued := approvedDecision("csr-a", 1, minutes(2))
	unissued.IssuedTime = nil
	denial := saying("the key is too short", because("WrongKey", deniedDecision("csr-b", 1, minutes(1))))
	issued := func(age time.Duration) func(*Facts) { return records(approvedDecision("csr-a", 1, age)) }
	withNode := func(f *Facts) { f.Node = nodeMade(time.Second) }
	former := approvedDecision("csr-a", 7, minutes(90))
	tests := map[string]struct {
		edit func(*Facts)
		want string
	}{
		"nothing was asked":                   {as, give},
		"approved":                            {records(unissued), give},
		"issued a moment ago":                 {issued(10 * time.Second), "CSR csr-a was issued at 2026-03-04T05:05:57Z: waiting for the kubelet to register its Node"},
		"issued, and no Node":                 {issued(minutes(3)), "CSR csr-a was issued at 2026-03-04T05:03:07Z, but no Node registered; see the kubelet's log for"},
		"issued, and a Node":                  {edits(issued(minutes(3)), withNode), "CSR csr-a was issued at 2026-03-04T05:03:07Z: waiting for the kubelet to use its certificate"},
		"denied":                              {records(denial), "last CSR csr-b was denied: WrongKey: the key is too short: see"},
		"denied, then issued":                 {records(because("WrongKey", deniedDecision("csr-b", 1, minutes(5))), approvedDecision("csr-a", 1, minutes(3))), "CSR csr-a was issued at"},
		"issued, then denied":                 {records(approvedDecision("csr-a", 1, minutes(3)), denial), "last CSR csr-b was denied"},
		"superseded in the same second":       {records(because("Superseded", deniedDecision("csr-b", 1, minutes(2))), unissued), give},
		"issued in the life before":           {records(former), give},
		"a serving certificate":               {records(decision('x', "csr-s")), give},
		"issued for the token before renewal": {records(approvedDecision("csr-a", 2, minutes(3))), "CSR csr-a was issued at"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := awaited(1, young)
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

// The message changes with time, so the plan looks again then, and the report says something else.
func TestPlanLooksForTheNode(t *testing.T) {
	f := awaited(1, young)
	records(approvedDecision("csr-a", 1, 10*time.Second))(f)
	p := decide(f, now)
	if want := now.Add(6 * time.Second); !p.RequeueAt.Equal(want) {
		t.Errorf("it looks again at %s, want %s", p.RequeueAt, want)
	}
	o := Outcome{Token: p.Token, Published: true, Acceptance: Accepted, Revoked: true}
	if got := readyMessage(Report(f, &p, &o, p.RequeueAt)); !strings.Contains(got, "no Node registered") {
		t.Errorf("then Ready says %q", got)
	}
	if p := decide(f, p.RequeueAt); !p.RequeueAt.After(now.Add(time.Hour)) {
		t.Errorf("it looks again once more at %s", p.RequeueAt)
	}
}

// Ready stays True: the credential is good, and the kubelet may register any time.
func TestReadyStaysTrueWithoutANode(t *testing.T) {
	f := awaited(1, young)
	records(approvedDecision("csr-a", 1, minutes(3)))(f)
	if got := short(reportOf(f), v1alpha1.ConditionReady); !strings.Contains(got, "True") {
		t.Errorf("got %s", got)
	}
}
