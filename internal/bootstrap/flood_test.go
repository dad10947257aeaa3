// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// verdictsOf counts what is recorded, by verdict: "8 Denied, 1 Ignored".
func verdictsOf(history []v1alpha1.CertificateDecision) string {
	count := map[v1alpha1.Verdict]int{}
	for _, d := range history {
		count[d.Verdict]++
	}
	var out []string
	for _, verdict := range []v1alpha1.Verdict{v1alpha1.VerdictApproved, v1alpha1.VerdictDenied, v1alpha1.VerdictIgnored} {
		if n := count[verdict]; n > 0 {
			out = append(out, fmt.Sprint(n, " ", verdict))
		}
	}
	return strings.Join(out, ", ")
}

// boundKeys are the tokens in a status and the keys that they are bound to.
func boundKeys(f *Facts) []string {
	var out []string
	for _, t := range f.NodeBootstrap.Status.Tokens {
		for _, c := range t.CSRs {
			if bindsKey(c) {
				out = append(out, t.ID+" "+c.KeyFingerprint)
			}
		}
	}
	return out
}

func claims(p *Plan) []v1alpha1.CertificateDecision {
	var out []v1alpha1.CertificateDecision
	for _, d := range ofTokens(p) {
		out = append(out, d.Record)
	}
	return out
}

// denials are the records of bad requests of the nth token.
func denials(n, count int) []v1alpha1.CertificateDecision {
	var out []v1alpha1.CertificateDecision
	for i := range count {
		out = append(out, because(csr.ReasonWrongDuration, deniedDecision(fmt.Sprintf("denied-%d-%d", n, i), n, time.Hour)))
	}
	return out
}

func TestDecideOnEightRequestsOfAToken(t *testing.T) {
	bad := func(count int) func(*Facts) { return further(badRequests(1, count)...) }
	inCluster := func(count int, conditionType certificatesv1.RequestConditionType) func(*Facts) {
		return func(f *Facts) {
			for _, r := range badRequests(1, count) {
				r.Name, r.UID = "before-"+r.Name, "before-"+r.UID
				decided(conditionType, 0)(r)
				f.Requests = append(f.Requests, r)
			}
		}
	}
	const isDenied, failed = certificatesv1.CertificateDenied, certificatesv1.CertificateFailed
	ignored := decision('i', "ignored")
	tests := map[string]struct {
		edit func(*Facts)
		want string
		over bool // there is evidence
	}{
		"eight":                        {bad(8), "8 Denied", false},
		"nine":                         {bad(9), "8 Denied, 1 Ignored", true},
		"a hundred":                    {bad(100), "8 Denied, 1 Ignored", true},
		"eight after an approval":      {edits(records(approvedDecision("csr-a", 1, minutes(2))), bad(8)), "7 Denied, 1 Ignored", true},
		"seven after an approval":      {edits(records(approvedDecision("csr-a", 1, minutes(2))), bad(7)), "7 Denied", false},
		"an approval first":            {edits(bad(8), further(request("csr-a", 1, 0))), "7 Denied, 1 Ignored", true}, // no key was approved before
		"an approval last":             {edits(bad(7), further(request("csr-a", 1, minutes(1)))), "1 Approved, 7 Denied", false},
		"an approval too late":         {edits(bad(8), further(request("csr-a", 1, minutes(1)))), "8 Denied, 1 Ignored", true},
		"one after eight records":      {edits(records(denials(1, 8)...), bad(1)), "1 Ignored", true},
		"one after seven records":      {edits(records(denials(1, 7)...), bad(1)), "1 Denied", false},
		"after eight, approved":        {edits(records(denials(1, 8)...), further(request("csr-o", 1, 0, forNode("worker-2"), approved(0)))), "1 Ignored", true},
		"after eight denied":           {edits(inCluster(8, isDenied), bad(1)), "1 Ignored", true},
		"after seven denied":           {edits(inCluster(7, isDenied), bad(1)), "1 Denied", false},
		"after eight failed":           {edits(inCluster(8, failed), bad(1)), "1 Denied", false},
		"recorded and denied":          {edits(inCluster(7, isDenied), recordAll, bad(1)), "1 Denied", false},
		"recorded and another denied":  {edits(inCluster(7, isDenied), records(denials(1, 1)...), bad(1)), "1 Ignored", true},
		"after eight of another token": {edits(records(denials(2, 8)...), bad(1)), "1 Denied", false},
		"after the end was told":       {edits(records(append(denials(1, 8), ignored)...), bad(50)), "", false},
		"told, and forgotten the rest": {edits(records(ignored), bad(50)), "", false},
		"told of another token":        {edits(records(decision('I', "ignored")), bad(1)), "1 Denied", false},
		"one that it was told of": {edits(records(append(denials(1, 8), because(ReasonTooManyRequests, decision('i', "bad/1-0000")))...),
			bad(1)), "", false},
		"recorded, and a crash":  {edits(bad(9), recordAll), "9 Denied", false},
		"the same, and one more": {edits(bad(8), recordAll, further(request("csr-a", 1, 0))), "8 Denied, 1 Ignored", true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := awaited(1, young)
			tt.edit(f)
			p := decide(f, now)
			if got := verdictsOf(claims(&p)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if over := p.Misuse != nil && p.Misuse.Reason == ReasonTooManyRequests; over != tt.over {
				t.Errorf("the evidence is %+v", p.Misuse)
			}
		})
	}
}

// recordAll has all requests that are there recorded as denied: as after a crash between the claim and what follows.
func recordAll(f *Facts) {
	for _, r := range f.Requests {
		d := because(csr.ReasonWrongDuration, deniedDecision(r.Name, 1, 0))
		f.NodeBootstrap.Status.Certificates = append(f.NodeBootstrap.Status.Certificates, d)
	}
}

// manyRequests have their own UIDs and nothing else.
func manyRequests(n, count int, edit ...func(*certificatesv1.CertificateSigningRequest)) []*certificatesv1.CertificateSigningRequest {
	template := request("csr-a", n, minutes(1), edit...)
	var out []*certificatesv1.CertificateSigningRequest
	for i := range count {
		r := template.DeepCopy()
		r.Name = fmt.Sprintf("csr-%d-%04d", n, i)
		r.UID = types.UID(r.Name)
		out = append(out, r)
	}
	return out
}

// A flood with a token costs as many decisions as there may be, and then none.
func TestFloodsEnd(t *testing.T) {
	const many, some = 2000, 50
	manual, wide := approval(v1alpha1.ApprovalManual), approval(v1alpha1.ApprovalClusterWide)
	predecessor := func(f *Facts) { f.TokenSecrets[0] = tokenSecret(2, young); f.addToken(1, due) }
	bad := func(f *Facts) { further(manyRequests(1, many, tooLong)...)(f) }
	other := forNode("worker-2")
	tests := map[string]struct {
		edit      func(*Facts)
		decisions int // in all
		phase     Phase
		recorded  string
	}{
		"bad ones":               {bad, 9, Withdrawn, "8 Denied, 1 Ignored"},
		"bad ones, a key":        {edits(claimed("csr-c"), bad), 8, Awaited, "1 Approved, 7 Denied, 1 Ignored"},
		"bad ones, Manual":       {edits(manual, bad), 9, Withdrawn, "8 Denied, 1 Ignored"},
		"for another node":       {further(manyRequests(1, some, other)...), 9, Withdrawn, "8 Denied, 1 Ignored"},
		"of another signer":      {further(manyRequests(1, some, anotherSigner)...), 9, Withdrawn, "8 Denied, 1 Ignored"},
		"of the same key, a key": {edits(records(claimOn("csr-a")), further(manyRequests(1, some)...)), 8, Awaited, "8 Approved, 1 Ignored"},
		"of the same key":        {further(manyRequests(1, some)...), 1, Withdrawn, "1 Ignored"},
		"with a gone token":      {further(manyRequests(7, many)...), 0, Awaited, ""},
		"sound ones, Manual":     {edits(manual, further(manyRequests(1, some)...)), 0, Awaited, ""},
		"others', ClusterWide":   {edits(wide, further(manyRequests(1, some, other)...)), 0, Awaited, ""},
		"the same, approved":     {edits(wide, further(manyRequests(1, some, other, approved(0), withCertificate)...)), 9, Awaited, "9 Approved"},
		"two tokens, two keys": {edits(predecessor, records(approvedDecision("csr-1", 1, minutes(50)), approvedDecision("csr-2", 2, minutes(50))),
			bad, further(manyRequests(2, some, tooLong)...)), 16, Awaited, "11 Denied, 1 Ignored"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := awaited(1, young)
			tt.edit(f)
			f.UpgradeStatus()
			bound := boundKeys(f)
			decisions, told := 0, 0
			var p Plan
			for n := range 4 {
				slices.Reverse(f.Requests) // a cache lists them in any order
				before := f.NodeBootstrap.Status.DeepCopy()
				var events []Event
				p, _, events = pass(f)
				decisions += len(p.Decisions)
				told += len(NewDecisions(before, &f.NodeBootstrap.Status))
				if n > 1 && (len(p.Decisions) > 0 || len(p.DeleteRequests) > 0 || len(events) > 0 || asJSON(before) != asJSON(f.NodeBootstrap.Status)) {
					t.Errorf("pass %d still finds something to do: %+v, %v", n, outlineOf(&p), events)
				}
			}
			if decisions != tt.decisions || p.Phase != tt.phase {
				t.Errorf("%d decisions, want %d, and in the end %+v", decisions, tt.decisions, outlineOf(&p))
			}
			if got := verdictsOf(f.NodeBootstrap.Status.Certificates); got != tt.recorded {
				t.Errorf("the log has %s, want %s", got, tt.recorded)
			}
			if after := boundKeys(f); p.Phase == Awaited && len(after) < len(bound) || p.Phase == Awaited && !reflect.DeepEqual(after[:len(bound)], bound) {
				t.Errorf("the tokens were bound to %v, and are to %v", bound, after)
			}
			if told > decisions {
				t.Errorf("%d entries for %d decisions", told, decisions)
			}
		})
	}
}

// claimOn is the record of the approval of the key of a name, and of no request that is there.
func claimOn(keyName string) v1alpha1.CertificateDecision {
	d := approvedDecision("before", 1, minutes(2))
	d.KeyFingerprint, d.IssuedTime = must(csr.Fingerprint(request(keyName, 1, 0))), nil
	return d
}

// Requests of a new token are decided on, whatever was sent with those before.
func TestNewTokenHasANewBudget(t *testing.T) {
	f := awaited(1, young)
	f.Requests = badRequests(1, 20)
	pass(f)
	askReissue(f)
	pass(f)
	f.Requests = append(f.Requests, request("csr-a", 2, -time.Second))
	p := decide(f, now)
	if got, want := outlineOf(&p).verdicts, "csr-a: Approved"; got != want || p.Misuse != nil {
		t.Errorf("got %q and the evidence %v", got, p.Misuse)
	}
}
