// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"slices"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// The first key that was approved with a token is the claim, in whatever order a cache lists the requests.
func TestSecondKeyIsTheSameInAnyOrder(t *testing.T) {
	first := request("csr-a", 1, minutes(20), approved(minutes(19)), withCertificate)
	second := request("csr-b", 1, minutes(10), approved(minutes(9)), withCertificate)
	for _, mode := range []v1alpha1.Approval{v1alpha1.ApprovalManual, v1alpha1.ApprovalNode} {
		for _, requests := range [][]*certificatesv1.CertificateSigningRequest{{first, second}, {second, first}} {
			f := awaited(1, young)
			edits(approval(mode), with(requests...))(f)
			p := decide(f, now)
			if got, want := outlineOf(&p), alarmed("csr-b: Approved", ""); got != want || p.Decisions[0].Record.Reason != csr.ReasonKeyReplaced {
				t.Errorf("%s first: got  %+v\nwant %+v", requests[0].Name, got, want)
			}
			registered(minutes(1))(f)
			p = decide(f, now)
			if got, want := outlineOf(&p), alarmed("csr-b: Approved", "SecondKey"); got != want {
				t.Errorf("%s first, and the first key is used: got  %+v\nwant %+v", requests[0].Name, got, want)
			}
		}
	}
}

func TestClaimIsTheSameInAnyOrder(t *testing.T) {
	first, second := request("csr-a", 1, minutes(20)), request("csr-b", 1, minutes(10))
	for name, tt := range map[string]struct {
		a, b time.Duration // when they were approved
		want *certificatesv1.CertificateSigningRequest
	}{
		"one by one":           {minutes(9), minutes(8), first},
		"the later one first":  {minutes(8), minutes(9), second},
		"in one second":        {minutes(9), minutes(9), first},
		"the other one is not": {minutes(9), -1, first},
	} {
		requests := []*certificatesv1.CertificateSigningRequest{first.DeepCopy(), second.DeepCopy(), request("csr-c", 7, old, approved(old)), request("csr-d", 1, old, anotherSigner, approved(old))}
		approved(tt.a)(requests[0])
		if tt.b >= 0 {
			approved(tt.b)(requests[1])
		}
		for range 2 {
			slices.Reverse(requests)
			f := awaited(1, young)
			with(requests...)(f)
			if key, _ := claimOf(f, nthID(1)); key != must(csr.Fingerprint(tt.want)) {
				t.Errorf("%s: the claim is not that of %s", name, tt.want.Name)
			}
		}
	}
}

// The request with the first key is gone an hour after its approval; the record stays.
func TestSecondKeyIsOneWithoutTheFirstRequest(t *testing.T) {
	f := awaited(1, 2*young)
	f.NodeBootstrap.Status.AwaitingSince = new(ago(2 * time.Hour))
	edits(approval(v1alpha1.ApprovalManual), records(approvedDecision("csr-a", 1, minutes(70))),
		with(request("csr-b", 1, minutes(10), approved(minutes(9)), withCertificate)), registered(minutes(20)))(f)
	p := decide(f, now)
	if got, want := outlineOf(&p), alarmed("csr-b: Approved", "SecondKey"); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// A crash, or a conflict, between the claim and the verdicts: the older request was waiting when the newer one's key was
// claimed, in the same second, and is no second key now.
func TestSupersededIsNoAlarmAfterACrash(t *testing.T) {
	f := awaited(1, young)
	f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, 0), request("csr-b", 1, 0)}
	later := now.Add(700 * time.Millisecond)
	p := decide(f, later)
	f.NodeBootstrap.Status = *p.Claimed(f, later)
	again := decide(f, later.Add(time.Second))
	if got, want := outlineOf(&again), alarmed("csr-b: Approved, csr-a: Denied", ""); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := again.Decisions[1].Record.Reason; got != csr.ReasonSuperseded {
		t.Errorf("it is denied for another reason now: %s", got)
	}
}

// A reissue is handled with the token that was made for it. When that one is misused before the status tells of it, the
// alarm must not go with the same reissue.
func TestReissueDoesNotClearTheAlarmOfItsOwnToken(t *testing.T) {
	for name, crash := range map[string]func(*Facts, *Plan){
		"no crash":          func(f *Facts, p *Plan) { carryOut(f, p) },
		"after the claim":   claim,
		"after the denials": func(f *Facts, p *Plan) { claim(f, p); revoke(f, p); carryOutVerdicts(p) },
	} {
		t.Run(name, func(t *testing.T) {
			f := awaited(1, young)
			askReissue(f)
			f.TokenSecrets = nil
			f.addToken(2, 0) // made, and then the operator crashed
			f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 2, 0, forNode("worker-2"))}
			p := decide(f, now)
			crash(f, &p)
			f.Requests = append(f.Requests, request("csr-b", 2, 0))
			if p = decide(f, now); name != "no crash" && outlineOf(&p).phase != Withdrawn {
				t.Errorf("the token is good again: %+v", outlineOf(&p))
			}
			for range 3 {
				p, _, _ = pass(f)
			}
			if alarmOf(&f.NodeBootstrap.Status) == nil || p.Phase != Withdrawn {
				t.Errorf("the alarm is %v and the plan %+v", alarmOf(&f.NodeBootstrap.Status), outlineOf(&p))
			}
		})
	}
}

// Its token was misused at once, so it counts as handled. The tokens that could not be deleted stay revoked.
func TestReissueWhoseTokenWasMisusedLeavesNoToken(t *testing.T) {
	f := awaited(1, young)
	edits(askReissue, records(approvedDecision("csr-0", 1, minutes(20))), func(f *Facts) { f.addToken(2, 0) }, with(request("csr-a", 2, 0, forNode("worker-2"))))(f)
	p := decide(f, now)
	claim(f, &p)
	carryOutVerdicts(&p)
	f.NodeBootstrap.Status = *Report(f, &p, &Outcome{Err: errWrite}, now) // neither token could be deleted
	p = decide(f, now)
	if got, want := outlineOf(&p), (outline{phase: Withdrawn, deleteToken: "#1 #2", dropConfig: true}); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for range 3 {
		p, _, _ = pass(f)
	}
	if s := f.NodeBootstrap.Status; s.LastHandledReissueAt != reissueAt || alarmOf(&s) == nil || p.Phase != Withdrawn || len(f.TokenSecrets) > 0 {
		t.Errorf("handled is %q, the alarm %v, and the plan %+v", s.LastHandledReissueAt, alarmOf(&s), outlineOf(&p))
	}
}

// A token that was withdrawn is one that there was: the next one must not have its id, under which its requests are recorded.
func TestIDOfAWithdrawnTokenIsNotGivenAgain(t *testing.T) {
	theft := further(request("csr-b", 2, 0, forNode("worker-2")))
	predecessor := func() *Facts {
		f := awaited(2, young)
		edits(func(f *Facts) { f.addToken(1, due) }, records(approvedDecision("csr-a", 1, minutes(50))), theft)(f)
		return f
	}
	unknown := func() *Facts { // the status does not tell of the token yet
		f := awaited(2, young)
		f.NodeBootstrap.Status = statusOf(1, young)
		theft(f)
		return f
	}
	for name, f := range map[string]*Facts{"its predecessor stays": predecessor(), "before the status told of it": unknown()} {
		t.Run(name, func(t *testing.T) {
			for range 3 {
				pass(f)
			}
			if got := f.NodeBootstrap.Status.LastTokenID; got != nthID(2) {
				t.Errorf("the last token is %s", ordinal(got))
			}
			askReissue(f)
			p := decide(f, now)
			if got := outlineOf(&p).mint; got != "#3" {
				t.Errorf("the next token is %s", got)
			}
		})
	}
}

// As before, with more requests than are decided on: they were recorded under the id, so that the node could not join.
func TestNodeJoinsWithTheTokenAfterAFlood(t *testing.T) {
	f := awaited(2, young)
	edits(func(f *Facts) { f.addToken(1, due) }, records(approvedDecision("csr-a", 1, minutes(50))), further(badRequests(2, 12)...))(f)
	for range 3 {
		pass(f)
	}
	f.Requests = nil
	askReissue(f)
	p, o, _ := pass(f)
	if p.MintAfter == nil {
		t.Fatalf("got %+v", outlineOf(&p))
	}
	r := request("csr-z", 0, -time.Second)
	r.Spec.Username = "system:bootstrap:" + o.Token.ID
	f.Requests = append(f.Requests, r)
	p = decide(f, now)
	if got, want := outlineOf(&p).verdicts, "csr-z: Approved"; got != want {
		t.Errorf("got %q", got)
	}
}

// A denial was claimed, and another approver was faster: the record must not say that nothing was issued.
func TestTheftThatSomebodyApprovedIsNotRecordedAsDenied(t *testing.T) {
	f := awaited(1, young)
	f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, minutes(1), forNode("worker-2"))}
	p := decide(f, now)
	claim(f, &p)
	approved(0)(f.Requests[0])
	withCertificate(f.Requests[0])
	for range 2 {
		pass(f)
	}
	got := f.NodeBootstrap.Status.Certificates
	if len(got) != 1 || got[0].Verdict != v1alpha1.VerdictApproved || got[0].Reason != csr.ReasonWrongSubject {
		t.Errorf("got %s", asJSON(got))
	}
}

// The operator may decide for the signer of kubelet client certificates alone: a verdict on another one's request is refused,
// each time.
func TestAnotherSignersRequestIsNotDecidedOn(t *testing.T) {
	spoilt := map[string]func(*certificatesv1.CertificateSigningRequest){
		"in another group": inAnotherGroup,
		"with a uid":       func(r *certificatesv1.CertificateSigningRequest) { r.Spec.UID = "x" },
		"in no group":      func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Groups = r.Spec.Groups[:2] },
	}
	for name, spoil := range spoilt {
		t.Run(name, func(t *testing.T) {
			f := awaited(1, young)
			f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, 0, anotherSigner, spoil)}
			p := decide(f, now)
			for _, d := range p.Decisions {
				if d.Result.Verdict != csr.Leave {
					t.Errorf("it is to be carried out: %s", verdictNames[d.Result.Verdict])
				}
			}
			if !slices.Contains(p.DeleteRequests, f.Requests[0]) {
				t.Error("it stays, and may be signed")
			}
		})
	}
}

// A verdict that changed takes the place of the first one: one request has one entry, and it is not added again and again.
func TestClaimTakesThePlaceOfAnother(t *testing.T) {
	f := fresh()
	f.NodeBootstrap.Status.Certificates = []v1alpha1.CertificateDecision{deniedDecision("csr-a", 1, minutes(1)), approvedDecision("csr-b", 1, minutes(1))}
	plan := &Plan{Decisions: []Decision{{Record: approvedDecision("csr-a", 1, 0)}}}
	for range 3 {
		if claimed := plan.Claimed(f, now); claimed != nil {
			f.NodeBootstrap.Status = *claimed
		}
	}
	got := f.NodeBootstrap.Status.Certificates
	if len(got) != 2 || !slices.ContainsFunc(got, func(d v1alpha1.CertificateDecision) bool {
		return d.UID == "csr-a" && d.Verdict == v1alpha1.VerdictApproved
	}) {
		t.Errorf("got %s", asJSON(got))
	}
}
