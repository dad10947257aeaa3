// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

// The log entry, the alarm and the event name who decided; a report without a stored claim leaves the evidence to the next reconcile.
func TestSettledEvidenceIsReportedOnce(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, nodetest.Minutes(3), nodetest.ForNode("worker-2"), nodetest.KubectlDeny(nodetest.Minutes(2)))}
	if got := reportOf(f).Certificates; len(got) > 0 {
		t.Errorf("without its claim it is recorded as %+v", got)
	}
	before := f.NodeBootstrap.Status.DeepCopy()
	p := nodetest.Decide(f, nodetest.Now)
	f.NodeBootstrap.Status = *status.Claimed(&p, f, nodetest.Now)
	s := reportOf(f)
	if len(s.Certificates) != 1 {
		t.Fatalf("the log is %+v", s.Certificates)
	}
	const text = "someone else denied it first: the requested subject is"
	d := s.Certificates[0]
	if d.Verdict != v1alpha1.VerdictDenied || d.Reason != csr.ReasonWrongSubject || !strings.HasPrefix(d.Message, text) {
		t.Errorf("the entry is %+v", d)
	}
	if alarm := nodetest.AlarmOf(s); alarm == nil || alarm.Reason != csr.ReasonWrongSubject || !strings.Contains(alarm.Message, text) {
		t.Errorf("the alarm is %+v", alarm)
	}
	events := status.Events(before, s)
	if len(events) == 0 || events[0].Type != corev1.EventTypeWarning || !strings.Contains(events[0].Note, "csr-a") || !strings.Contains(events[0].Note, text) {
		t.Errorf("the events are %+v", events)
	}
	for _, e := range events {
		if strings.Contains(e.Note, "denying") || strings.Contains(e.Note, "approv") {
			t.Errorf("an event says %q", e.Note)
		}
	}
	f.NodeBootstrap.Status = *s
	if again := reportOf(f); !reflect.DeepEqual(again, s) {
		t.Errorf("it is written again:\n%+v\n%+v", s, again)
	}
}

// However many CSRs are denied, by whomever, a token has its eight decisions and the log settles.
func TestSettledEvidenceIsBounded(t *testing.T) {
	for _, claims := range []int{0, 1, 6, 12} {
		f := nodetest.Awaited(1, nodetest.Young)
		nodetest.Claimed("csr-c")(f)
		for i := range claims {
			f.NodeBootstrap.Status.Certificates = append(f.NodeBootstrap.Status.Certificates, nodetest.ApprovedDecision(fmt.Sprint("old-", i), 2+i, nodetest.Minutes(59-i)))
		}
		for i := range 40 {
			f.Requests = append(f.Requests, nodetest.Request(fmt.Sprint("csr-", i), 1, nodetest.Minutes(0), nodetest.ForNode("worker-2"), nodetest.KubectlDeny(0)))
		}
		rounds := 0
		for ; rounds < 5; rounds++ {
			p := nodetest.Decide(f, nodetest.Now)
			if len(p.Decisions) == 0 {
				break
			}
			s := status.Claimed(&p, f, nodetest.Now)
			if s == nil {
				t.Fatalf("%d claims: %d decisions change nothing", claims, len(p.Decisions))
			}
			f.NodeBootstrap.Status = *s
			f.NodeBootstrap.Status = *reportOf(f)
		}
		if rounds == 0 || rounds > 2 {
			t.Errorf("%d claims: it came to rest after %d rounds", claims, rounds)
		}
		if nodetest.AlarmOf(&f.NodeBootstrap.Status) == nil {
			t.Errorf("%d claims: no alarm is raised", claims)
		}
		if n := len(f.DecidedWith(nodetest.NthID(1))); n > decisions.MaxDecisionsPerToken+1 {
			t.Errorf("%d claims: %d decisions on one token", claims, n)
		}
	}
}
