// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// With approval ClusterWide a kubelet without a disk asks with a new key at each start, and gets its certificate. Nobody
// has decided too often on anything, and the status comes to rest.
func TestApprovalsClusterWideAreNoFlood(t *testing.T) {
	for _, count := range []int{8, 9, 16, 17, 40} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			f := awaited(1, young)
			approval(v1alpha1.ApprovalClusterWide)(f)
			for i := range count {
				age := time.Duration(count-i) * time.Second
				f.Requests = append(f.Requests, request(fmt.Sprintf("csr-%02d", i), 1, age, approved(age), withCertificate))
				p, _, _ := pass(f)
				if p.Misuse != nil {
					t.Fatalf("after %d there is an alarm: %+v", i+1, p.Misuse)
				}
			}
			atRest(t, f)
		})
	}
}

// atRest fails when a pass finds something to do, to write or to tell, in whatever order requests are listed.
func atRest(t *testing.T, f *Facts) {
	t.Helper()
	for n := range 4 {
		slices.Reverse(f.Requests)
		slices.Reverse(f.ServingRequests)
		before := f.NodeBootstrap.Status.DeepCopy()
		p, _, events := pass(f)
		if got, want := asJSON(f.NodeBootstrap.Status), asJSON(before); got != want || len(events) > 0 || len(p.Decisions) > 0 {
			t.Fatalf("pass %d does not rest: %+v tells %v, and the status goes from\n%s to\n%s", n, outlineOf(&p), events, want, got)
		}
	}
}

// Whoever approves, and whatever for, and whatever was recorded before: the status comes to rest.
func TestStatusRestsWhoeverApproves(t *testing.T) {
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 0))
		f := awaited(2, young)
		f.addToken(1, due)
		modes := []v1alpha1.Approval{v1alpha1.ApprovalNode, v1alpha1.ApprovalManual, v1alpha1.ApprovalClusterWide}
		edits(approval(modes[random.IntN(3)]), declares())(f)
		var before strings.Builder
		for range random.IntN(maxTokenEntries + maxServingEntries + 1) {
			before.WriteByte("adDixsmoA"[random.IntN(9)])
		}
		f.NodeBootstrap.Status.Certificates = history(before.String())
		for i := range random.IntN(24) {
			age := time.Duration(random.IntN(5)) * time.Second
			r := request(fmt.Sprintf("key-%d/%02d", random.IntN(3), i), 1+random.IntN(2), age)
			for n, edit := range []func(*certificatesv1.CertificateSigningRequest){forNode("worker-2"), anotherSigner, tooLong, approved(age), withCertificate} {
				if random.IntN(3+n/3) == 0 && (n != 4 || r.Status.Conditions != nil) {
					edit(r)
				}
			}
			f.Requests = append(f.Requests, r)
		}
		for i := range random.IntN(12) {
			r := blank(fmt.Sprintf("serving-%02d", i))
			approved(time.Duration(random.IntN(2)) * time.Second)(r)
			f.ServingRequests = append(f.ServingRequests, r)
		}
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			told := map[string]int{}
			for range 10 {
				before := f.NodeBootstrap.Status.DeepCopy()
				pass(f)
				for _, d := range NewDecisions(before, &f.NodeBootstrap.Status) {
					if d.Reason != ReasonTooManyRequests {
						told[d.Name]++
					}
				}
			}
			atRest(t, f)
			for name, n := range told {
				if n > 1 {
					t.Errorf("%s is told of %d times", name, n)
				}
			}
		})
		if !ok {
			t.Fatalf("seed %d: with %s recorded before", seed, &before)
		}
	}
}

// Of several requests without a certificate the condition names the same one, in whatever order a cache lists them.
func TestNotIssuedNamesOneRequest(t *testing.T) {
	f := awaited(1, young)
	edits(claimed("csr-a"), with(request("csr-a", 1, minutes(5), approved(minutes(4))), request("csr-a/2", 1, minutes(3), approved(minutes(2)))))(f)
	p, o := decide(f, now), published(1, young)
	first := meta.FindStatusCondition(Report(f, &p, &o, now).Conditions, v1alpha1.ConditionReady)
	slices.Reverse(f.Requests)
	again := meta.FindStatusCondition(Report(f, &p, &o, now).Conditions, v1alpha1.ConditionReady)
	if first.Reason != v1alpha1.ReasonCertificateNotIssued || first.Message != again.Message {
		t.Errorf("the message flaps from %q to %q", first.Message, again.Message)
	}
}

// What another signer does not sign tells nothing of the node's own certificate.
func TestNotIssuedIsAboutTheNodesCertificate(t *testing.T) {
	for name, edit := range map[string]func(*certificatesv1.CertificateSigningRequest){"another signer": anotherSigner, "another node": forNode("worker-2")} {
		f := awaited(1, young)
		edits(claimed("csr-a"), with(request("csr-b", 1, minutes(5), edit, approved(minutes(4)))))(f)
		p, o := decide(f, now), published(1, young)
		if got := short(Report(f, &p, &o, now), v1alpha1.ConditionReady); got != waits {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

// A full history loses denials of serving certificates to those of tokens: they are not new when they are found again.
func TestServingDenialsAreNotToldAgain(t *testing.T) {
	f := awaited(1, young)
	declares()(f)
	for i := range 4 {
		r := blank(fmt.Sprintf("serving-%d", i))
		decided(certificatesv1.CertificateDenied, minutes(1))(r)
		reason(csr.ReasonNoAddress)(r)
		f.ServingRequests = append(f.ServingRequests, r)
	}
	records(append(history("AOMsa"), denials(1, 7)...)...)(f)
	pass(f)
	f.Requests = badRequests(1, 1)
	_, _, events := pass(f)
	for _, e := range events {
		if strings.Contains(e.Note, "serving-") {
			t.Errorf("told again: %s", e.Note)
		}
	}
}

// Someone else's approval of a theft is not the operator's; what was deleted has no condition to look at.
func TestEventsOnThefts(t *testing.T) {
	events := func(edit ...func(*certificatesv1.CertificateSigningRequest)) []Event {
		f := awaited(1, young)
		f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, 0, edit...)}
		_, _, events := pass(f)
		return slices.DeleteFunc(events, func(e Event) bool { return !strings.HasPrefix(e.Reason, "Certificate") })
	}
	elsewhere := events(forNode("worker-2"), approved(0))
	if len(elsewhere) != 1 || strings.HasPrefix(elsewhere[0].Note, "approving") {
		t.Errorf("approved elsewhere: %+v", elsewhere)
	}
	deleted := events(anotherSigner)
	if len(deleted) != 1 || deleted[0].Type != "Warning" || strings.Contains(deleted[0].Note, "see its condition") {
		t.Errorf("deleted: %+v", deleted)
	}
}

// A token that asks for a serving certificate takes none of the room of the node, nor tells how the node fares.
func TestTokensRequestForAServingCertificateIsNone(t *testing.T) {
	theft := decision('o', "theft")
	theft.SignerName, theft.Verdict, theft.Time = certificatesv1.KubeletServingSignerName, v1alpha1.VerdictDenied, ago(0)
	if ofServing(theft) {
		t.Error("it counts as the node's own")
	}
	f := joinedBefore()
	edits(declares(), records(theft))(f)
	if got, want := short(reported(f, Outcome{}), v1alpha1.ConditionServingCertificateApproved), "Unknown AwaitingRequest"; got != want {
		t.Errorf("the condition is %s, want %s", got, want)
	}
	serves(servingRequest("serving-a", minutes(5), approved(minutes(4))))(f)
	if got := names(reported(f, Outcome{}).Certificates); !slices.Contains(got, "serving-a") {
		t.Errorf("the node's own is not recorded: %v", got)
	}
}
