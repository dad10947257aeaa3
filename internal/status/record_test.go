// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

// A denial was claimed, and another approver was faster: the log must not say that nothing was issued.
func TestTheftThatSomeoneElseApprovedIsNotRecordedAsDenied(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, nodetest.Minutes(1), nodetest.ForNode("worker-2"))}
	p := nodetest.Decide(f, nodetest.Now)
	nodetest.Claim(f, &p)
	nodetest.Approved(0)(f.Requests[0])
	nodetest.WithCertificate(f.Requests[0])
	for range 2 {
		reconcile(f)
	}
	got := f.NodeBootstrap.Status.Certificates
	if len(got) != 1 || got[0].Verdict != v1alpha1.VerdictApproved || got[0].Reason != csr.ReasonWrongSubject {
		t.Errorf("got %s", nodetest.AsJSON(got))
	}
}

// Only the node's own certificates are recorded as issued to it.
func TestReportRecordsOnlyTheNodesOwnCertificates(t *testing.T) {
	for name, spoil := range nodetest.Spoilt {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Awaited(1, nodetest.Young)
			nodetest.Approval(v1alpha1.ApprovalClusterWide)(f)
			f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, nodetest.Minutes(2), spoil, nodetest.Approved(nodetest.Minutes(1)), nodetest.WithCertificate)}
			for range 3 {
				reconcile(f)
			}
			for _, d := range f.NodeBootstrap.Status.Certificates {
				if decisions.OfThisNode(d) || d.IssuedTime != nil || d.Reason == decisions.ReasonApprovedElsewhere {
					t.Errorf("got %+v", d)
				}
			}
		})
	}
}

// A CSR for a client certificate that someone else denied left no trace.
func TestDenialsOfOthersAreRecorded(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, nodetest.Minutes(3), nodetest.KubectlDeny(nodetest.Minutes(2)))}
	before := f.NodeBootstrap.Status.DeepCopy()
	s := reportOf(f)
	if len(s.Certificates) != 1 {
		t.Fatalf("the log is %+v", s.Certificates)
	}
	d := s.Certificates[0]
	if d.Name != "csr-a" || d.Verdict != v1alpha1.VerdictDenied || d.Reason != "DeniedElsewhere" || !strings.Contains(d.Message, "kubectl certificate deny") ||
		d.TokenID != nodetest.NthID(1) || !d.Time.Equal(new(nodetest.Ago(nodetest.Minutes(2)))) || d.KeyFingerprint == "" {
		t.Errorf("the entry is %+v", d)
	}
	if got := readyMessage(s); !strings.Contains(got, "last CSR csr-a was denied: DeniedElsewhere: This CSR was denied by kubectl") {
		t.Errorf("Ready says %q", got)
	}
	if events := status.Events(before, s); len(events) != 1 || events[0].Type != corev1.EventTypeWarning || !strings.Contains(events[0].Note, "CSR csr-a was denied by someone else") {
		t.Errorf("the events are %+v", events)
	}
	f.NodeBootstrap.Status = *s
	if again := reportOf(f); !reflect.DeepEqual(again, s) {
		t.Errorf("it is written again:\n%+v\n%+v", s, again)
	}
}

// However many CSRs others deny, a full log settles: it does not enter again what it dropped.
func TestDenialsOfOthersComeToRest(t *testing.T) {
	for _, claims := range []int{0, 1, 6, 12} {
		f := nodetest.Awaited(1, nodetest.Young)
		for i := range claims {
			f.NodeBootstrap.Status.Certificates = append(f.NodeBootstrap.Status.Certificates, nodetest.ApprovedDecision(fmt.Sprint("old-", i), 2+i, nodetest.Minutes(59-i)))
		}
		for i := range 40 {
			f.Requests = append(f.Requests, nodetest.Request(fmt.Sprint("csr-", i), 1+i%3, nodetest.Minutes(3), nodetest.KubectlDeny(time.Duration(100-i)*time.Second)))
		}
		f.NodeBootstrap.Status = *reportOf(f)
		first := f.NodeBootstrap.Status.DeepCopy()
		if n := len(first.Certificates); n > decisions.MaxTokenEntries {
			t.Errorf("the log has %d entries", n)
		}
		if again := reportOf(f); !reflect.DeepEqual(again, first) {
			t.Errorf("%d claims: it is written again:\n%v\n%v", claims, nodetest.Names(first.Certificates), nodetest.Names(again.Certificates))
		}
	}
}

// A kubelet without a disk sends a new key at each start, and with approval ClusterWide each gets its certificate. The cache lists the
// CSRs in any order.
func TestReportDoesNotRotateALongHistory(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	for i := range 12 {
		f.Requests = append(f.Requests, nodetest.Request(fmt.Sprintf("csr-%d", i), 1, time.Duration(60-i)*time.Minute, nodetest.Approved(time.Duration(59-i)*time.Minute), nodetest.WithCertificate))
	}
	p, o := nodetest.Decide(f, nodetest.Now), published(1, nodetest.Young)
	first := status.Report(f, &p, &o, nodetest.Now)
	f.NodeBootstrap.Status = *first
	slices.Reverse(f.Requests)
	again := status.Report(f, &p, &o, nodetest.Now)
	if nodetest.AsJSON(first) != nodetest.AsJSON(again) {
		t.Error("the status depends on the order in which CSRs are listed")
	}
	if events := status.Events(first, again); len(events) > 0 {
		t.Errorf("%d events are repeated, such as %+v", len(events), events[0])
	}
}

// Someone else was faster than a denial: a certificate is issued, whatever the log says.
func TestRecordOvertaken(t *testing.T) {
	mine := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return nodetest.Request("csr-a", 1, nodetest.Minutes(3), edit...)
	}
	tests := map[string]struct {
		letter  rune
		reason  string
		request *certificatesv1.CertificateSigningRequest
		want    string
	}{
		"denied":                      {'d', csr.ReasonSuperseded, mine(), "Denied Superseded"},
		"denied, and approved":        {'d', csr.ReasonSuperseded, mine(nodetest.Approved(0)), "Approved ApprovedElsewhere"},
		"denied, and issued":          {'d', csr.ReasonWrongUsages, mine(nodetest.Approved(0), nodetest.WithCertificate), "Approved ApprovedElsewhere"},
		"evidence, and approved":      {'d', csr.ReasonWrongSubject, mine(nodetest.Approved(0), nodetest.ForNode("worker-2")), "Approved WrongSubject"},
		"another signer's, approved":  {'d', csr.ReasonWrongSigner, mine(nodetest.Approved(0), nodetest.AnotherSigner), "Approved WrongSigner"},
		"ignored":                     {'i', decisions.ReasonTooManyRequests, mine(), "Ignored TooManyRequests"},
		"ignored, and approved":       {'i', decisions.ReasonTooManyRequests, mine(nodetest.Approved(0)), "Approved TooManyRequests"},
		"approved":                    {'a', csr.ReasonKubeletClient, mine(nodetest.Approved(0)), "Approved KubeletClientOfThisNode"},
		"denied, another is approved": {'d', csr.ReasonSuperseded, nodetest.Request("csr-b", 1, 0, nodetest.Approved(0)), "Denied Superseded"},
		"the CSR was deleted":         {'d', csr.ReasonSuperseded, nil, "Denied Superseded"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Awaited(1, nodetest.Young)
			if tt.request != nil {
				nodetest.With(tt.request)(f)
			}
			d := nodetest.Because(tt.reason, nodetest.Decision(tt.letter, "csr-a"))
			d.IssuedTime = nil
			nodetest.Records(d)(f)
			before := f.NodeBootstrap.Status.DeepCopy()
			got := status.Report(f, &lifecycle.Plan{Phase: lifecycle.Awaited}, &status.Outcome{}, nodetest.Now).Certificates
			if len(got) == 0 || string(got[0].Verdict)+" "+got[0].Reason != tt.want || got[0].KeyFingerprint != d.KeyFingerprint || got[0].Time != d.Time {
				t.Errorf("got %+v, want %s", got, tt.want)
			}
			if !reflect.DeepEqual(before, &f.NodeBootstrap.Status) {
				t.Error("the history in the facts is changed")
			}
		})
	}
}

// The issued certificate is recorded together with the join, which follows soon: one write less for each node. If the join does not
// follow, it is recorded separately.
func TestRecordThatACertificateWasIssuedWaitsForTheJoin(t *testing.T) {
	const since = 10 * time.Second
	claimed := nodetest.ApprovedDecision("csr-a", 1, since)
	claimed.IssuedTime = nil
	facts := func(age time.Duration, history ...v1alpha1.CertificateDecision) *lifecycle.Facts {
		f := nodetest.Awaited(1, nodetest.Minutes(1))
		f.NodeBootstrap.Status.Certificates = history
		f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, age, nodetest.Approved(age), nodetest.WithCertificate)}
		return f
	}
	joining := facts(since, claimed)
	joining.Node, joining.LeaseRenewed = nodetest.NodeMade(time.Second), nodetest.Now
	for name, tt := range map[string]struct {
		f        *lifecycle.Facts
		recorded bool
		again    time.Duration
	}{
		"it waits":                          {facts(since, claimed), false, lifecycle.JoinSoon - since},
		"not for long":                      {facts(lifecycle.JoinSoon, claimed), true, 0},
		"nor when the node has joined":      {joining, true, 0},
		"nor when someone else approved it": {facts(since), true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := nodetest.Decide(tt.f, nodetest.Now)
			s := status.Report(tt.f, &p, &status.Outcome{Token: p.Token, Published: p.Token != nil, Acceptance: status.Accepted}, nodetest.Now)
			if recorded := len(s.Certificates) == 1 && s.Certificates[0].IssuedTime != nil; recorded != tt.recorded {
				t.Errorf("the status has it: %v", recorded)
			}
			if tt.again > 0 && !p.RequeueAt.Equal(nodetest.Now.Add(tt.again)) {
				t.Errorf("it requeues at %s", p.RequeueAt)
			}
		})
	}
}

// With approval ClusterWide a kubelet without a disk sends a new key at each start, and gets its certificate. No limit of decisions is
// exceeded, and the status settles.
func TestApprovalsClusterWideAreNoFlood(t *testing.T) {
	for _, count := range []int{8, 9, 16, 17, 40} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			f := nodetest.Awaited(1, nodetest.Young)
			nodetest.Approval(v1alpha1.ApprovalClusterWide)(f)
			for i := range count {
				age := time.Duration(count-i) * time.Second
				f.Requests = append(f.Requests, nodetest.Request(fmt.Sprintf("csr-%02d", i), 1, age, nodetest.Approved(age), nodetest.WithCertificate))
				p, _, _ := reconcile(f)
				if p.Misuse != nil {
					t.Fatalf("after %d an alarm is raised: %+v", i+1, p.Misuse)
				}
			}
			atRest(t, f)
		})
	}
}

// atRest fails if a reconcile finds anything to do, write or report, in whatever order CSRs are listed.
func atRest(t *testing.T, f *lifecycle.Facts) {
	t.Helper()
	for n := range 4 {
		slices.Reverse(f.Requests)
		slices.Reverse(f.ServingRequests)
		before := f.NodeBootstrap.Status.DeepCopy()
		p, _, events := reconcile(f)
		if got, want := nodetest.AsJSON(f.NodeBootstrap.Status), nodetest.AsJSON(before); got != want || len(events) > 0 || len(p.Decisions) > 0 {
			t.Fatalf("reconcile %d finds something to do: %+v with the events %v, and the status goes from\n%s to\n%s", n, nodetest.OutlineOf(&p), events, want, got)
		}
	}
}

// Whoever approves, and whatever is approved or recorded: the status settles.
func TestStatusRestsWhoeverApproves(t *testing.T) {
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 0))
		f := nodetest.Awaited(2, nodetest.Young)
		nodetest.AddToken(f, 1, nodetest.Due)
		modes := []v1alpha1.Approval{v1alpha1.ApprovalNode, v1alpha1.ApprovalManual, v1alpha1.ApprovalClusterWide}
		nodetest.Edits(nodetest.Approval(modes[random.IntN(3)]), nodetest.Declares())(f)
		var before strings.Builder
		for range random.IntN(decisions.MaxTokenEntries + decisions.MaxServingEntries + 1) {
			before.WriteByte("adDixsmoA"[random.IntN(9)])
		}
		f.NodeBootstrap.Status.Certificates = nodetest.History(before.String())
		for i := range random.IntN(24) {
			age := time.Duration(random.IntN(5)) * time.Second
			r := nodetest.Request(fmt.Sprintf("key-%d/%02d", random.IntN(3), i), 1+random.IntN(2), age)
			for n, edit := range []func(*certificatesv1.CertificateSigningRequest){nodetest.ForNode("worker-2"), nodetest.AnotherSigner, nodetest.TooLong, nodetest.Approved(age), nodetest.WithCertificate} {
				if random.IntN(3+n/3) == 0 && (n != 4 || r.Status.Conditions != nil) {
					edit(r)
				}
			}
			f.Requests = append(f.Requests, r)
		}
		for i := range random.IntN(12) {
			r := blank(fmt.Sprintf("serving-%02d", i))
			nodetest.Approved(time.Duration(random.IntN(2)) * time.Second)(r)
			f.ServingRequests = append(f.ServingRequests, r)
		}
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			reports := map[string]int{}
			for range 10 {
				before := f.NodeBootstrap.Status.DeepCopy()
				reconcile(f)
				for _, d := range decisions.New(before, &f.NodeBootstrap.Status) {
					if d.Reason != decisions.ReasonTooManyRequests {
						reports[d.Name]++
					}
				}
			}
			atRest(t, f)
			for name, n := range reports {
				if n > 1 {
					t.Errorf("%s is reported %d times", name, n)
				}
			}
		})
		if !ok {
			t.Fatalf("seed %d: with %s recorded before", seed, &before)
		}
	}
}

// A CSR for a serving certificate that was sent with a token takes no room from the node's own, and does not affect the reported state of
// the node.
func TestTokensRequestForAServingCertificateIsNone(t *testing.T) {
	theft := nodetest.Decision('o', "theft")
	theft.SignerName, theft.Verdict, theft.Time = certificatesv1.KubeletServingSignerName, v1alpha1.VerdictDenied, nodetest.Ago(0)
	if decisions.OfServing(theft) {
		t.Error("it counts as the node's own")
	}
	f := nodetest.JoinedBefore()
	nodetest.Edits(nodetest.Declares(), nodetest.Records(theft))(f)
	if got, want := nodetest.Short(reported(f, status.Outcome{}), v1alpha1.ConditionServingCertificateApproved), "Unknown AwaitingRequest"; got != want {
		t.Errorf("the condition is %s, want %s", got, want)
	}
	nodetest.Serves(nodetest.ServingRequest("serving-a", nodetest.Minutes(5), nodetest.Approved(nodetest.Minutes(4))))(f)
	if got := nodetest.Names(reported(f, status.Outcome{}).Certificates); !slices.Contains(got, "serving-a") {
		t.Errorf("the node's own is not recorded: %v", got)
	}
}

// Decisions from before the NodeBootstrap existed are not recorded.
func TestRecordServingSinceTheNodeBootstrap(t *testing.T) {
	for age, want := range map[time.Duration]int{nodetest.Minutes(59): 1, nodetest.Minutes(60): 1, nodetest.Minutes(61): 0} {
		f := nodetest.JoinedBefore() // an hour ago
		nodetest.Records()(f)
		nodetest.Edits(nodetest.Declares(), nodetest.Serves(nodetest.ServingRequest("serving-a", nodetest.Old, nodetest.Approved(age))))(f)
		if got := reported(f, status.Outcome{}).Certificates; len(got) != want {
			t.Errorf("decided on %s ago: got %v", age, nodetest.Names(got))
		}
	}
}

// Twenty decisions of one reconcile have the same second, and a cache lists CSRs in any order. The status must settle at once, and
// nothing is reported twice.
func TestStatusRestsWithManyServingDecisions(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		f := nodetest.JoinedBefore()
		nodetest.Declares()(f)
		letters := "adDixsmoA"
		var before strings.Builder
		for range random.IntN(decisions.MaxTokenEntries + decisions.MaxServingEntries + 1) {
			before.WriteByte(letters[random.IntN(len(letters))])
		}
		f.NodeBootstrap.Status.Certificates = nodetest.History(before.String())
		seconds := 1 + random.IntN(3)
		for i := range 1 + random.IntN(40) {
			age := time.Duration(random.IntN(seconds)) * time.Second
			verdict := []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied}[random.IntN(2)]
			r := blank(fmt.Sprintf("serving-%02d", i))
			nodetest.Decided(verdict, age)(r)
			f.ServingRequests = append(f.ServingRequests, r)
		}
		reports := map[string]int{}
		var first string
		for n := range 5 {
			random.Shuffle(len(f.ServingRequests), func(i, j int) {
				f.ServingRequests[i], f.ServingRequests[j] = f.ServingRequests[j], f.ServingRequests[i]
			})
			p := nodetest.Decide(f, nodetest.Now)
			s := status.Report(f, &p, &status.Outcome{}, nodetest.Now)
			for _, d := range decisions.New(&f.NodeBootstrap.Status, s) {
				reports[d.Name]++
			}
			f.NodeBootstrap.Status = *s
			if n == 0 {
				first = nodetest.AsJSON(s)
			} else if got := nodetest.AsJSON(s); got != first {
				t.Fatalf("seed %d, reconcile %d: after %s the status flaps from\n%s to\n%s", seed, n, before.String(), first, got)
			}
		}
		if len(reports) > 4 || slices.ContainsFunc(f.ServingRequests, func(r *certificatesv1.CertificateSigningRequest) bool { return reports[r.Name] > 1 }) {
			t.Errorf("seed %d: reported %v", seed, reports)
		}
	}
}
