// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

// boundKeys are the tokens in a status with the keys that they are bound to.
func boundKeys(f *lifecycle.Facts) []string {
	var out []string
	for _, t := range f.NodeBootstrap.Status.Tokens {
		for _, c := range t.CSRs {
			if decisions.BindsKey(c) {
				out = append(out, t.ID+" "+c.KeyFingerprint)
			}
		}
	}
	return out
}

// manyRequests differ only in their UIDs.
func manyRequests(n, count int, edit ...func(*certificatesv1.CertificateSigningRequest)) []*certificatesv1.CertificateSigningRequest {
	template := nodetest.Request("csr-a", n, nodetest.Minutes(1), edit...)
	var out []*certificatesv1.CertificateSigningRequest
	for i := range count {
		r := template.DeepCopy()
		r.Name = fmt.Sprintf("csr-%d-%04d", n, i)
		r.UID = types.UID(r.Name)
		out = append(out, r)
	}
	return out
}

// A flood with a token costs the limit of decisions and no more.
func TestFloodsEnd(t *testing.T) {
	const many, some = 2000, 50
	manual, wide := nodetest.Approval(v1alpha1.ApprovalManual), nodetest.Approval(v1alpha1.ApprovalClusterWide)
	predecessor := func(f *lifecycle.Facts) {
		f.TokenSecrets[0] = nodetest.TokenSecret(2, nodetest.Young)
		nodetest.AddToken(f, 1, nodetest.Due)
	}
	bad := func(f *lifecycle.Facts) { nodetest.Further(manyRequests(1, many, nodetest.TooLong)...)(f) }
	other := nodetest.ForNode("worker-2")
	tests := map[string]struct {
		edit      func(*lifecycle.Facts)
		decisions int // in all
		phase     lifecycle.Phase
		recorded  string
	}{
		"bad ones":               {bad, 9, lifecycle.Withdrawn, "8 Denied, 1 Ignored"},
		"bad ones, a key":        {nodetest.Edits(nodetest.Claimed("csr-c"), bad), 8, lifecycle.Awaited, "1 Approved, 7 Denied, 1 Ignored"},
		"bad ones, Manual":       {nodetest.Edits(manual, bad), 9, lifecycle.Withdrawn, "8 Denied, 1 Ignored"},
		"for another node":       {nodetest.Further(manyRequests(1, some, other)...), 9, lifecycle.Withdrawn, "8 Denied, 1 Ignored"},
		"of another signer":      {nodetest.Further(manyRequests(1, some, nodetest.AnotherSigner)...), 9, lifecycle.Withdrawn, "8 Denied, 1 Ignored"},
		"of the same key, a key": {nodetest.Edits(nodetest.Records(claimOn("csr-a")), nodetest.Further(manyRequests(1, some)...)), 8, lifecycle.Awaited, "8 Approved, 1 Ignored"},
		"of the same key":        {nodetest.Further(manyRequests(1, some)...), 1, lifecycle.Withdrawn, "1 Ignored"},
		"with a deleted token":   {nodetest.Further(manyRequests(7, many)...), 0, lifecycle.Awaited, ""},
		"sound ones, Manual":     {nodetest.Edits(manual, nodetest.Further(manyRequests(1, some)...)), 0, lifecycle.Awaited, ""},
		"others', ClusterWide":   {nodetest.Edits(wide, nodetest.Further(manyRequests(1, some, other)...)), 0, lifecycle.Awaited, ""},
		"the same, approved":     {nodetest.Edits(wide, nodetest.Further(manyRequests(1, some, other, nodetest.Approved(0), nodetest.WithCertificate)...)), 9, lifecycle.Awaited, "9 Approved"},
		"two tokens, two keys": {nodetest.Edits(predecessor, nodetest.Records(nodetest.ApprovedDecision("csr-1", 1, nodetest.Minutes(50)), nodetest.ApprovedDecision("csr-2", 2, nodetest.Minutes(50))),
			bad, nodetest.Further(manyRequests(2, some, nodetest.TooLong)...)), 16, lifecycle.Awaited, "11 Denied, 1 Ignored"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Awaited(1, nodetest.Young)
			tt.edit(f)
			f.UpgradeStatus()
			bound := boundKeys(f)
			made, entries := 0, 0
			var p lifecycle.Plan
			for n := range 4 {
				slices.Reverse(f.Requests) // a cache lists them in any order
				before := f.NodeBootstrap.Status.DeepCopy()
				var events []status.Event
				p, _, events = reconcile(f)
				made += len(p.Decisions)
				entries += len(decisions.New(before, &f.NodeBootstrap.Status))
				if n > 1 && (len(p.Decisions) > 0 || len(p.DeleteRequests) > 0 || len(events) > 0 || nodetest.AsJSON(before) != nodetest.AsJSON(f.NodeBootstrap.Status)) {
					t.Errorf("reconcile %d still finds something to do: %+v, %v", n, nodetest.OutlineOf(&p), events)
				}
			}
			if made != tt.decisions || p.Phase != tt.phase {
				t.Errorf("%d decisions, want %d, and in the end %+v", made, tt.decisions, nodetest.OutlineOf(&p))
			}
			if got := nodetest.VerdictsOf(f.NodeBootstrap.Status.Certificates); got != tt.recorded {
				t.Errorf("the log has %s, want %s", got, tt.recorded)
			}
			if after := boundKeys(f); p.Phase == lifecycle.Awaited && len(after) < len(bound) || p.Phase == lifecycle.Awaited && !reflect.DeepEqual(after[:len(bound)], bound) {
				t.Errorf("the tokens were bound to %v, and now to %v", bound, after)
			}
			if entries > made {
				t.Errorf("%d entries for %d decisions", entries, made)
			}
		})
	}
}

// claimOn is the log entry for an approved key whose CSR no longer exists.
func claimOn(keyName string) v1alpha1.CertificateDecision {
	d := nodetest.ApprovedDecision("before", 1, nodetest.Minutes(2))
	d.KeyFingerprint, d.IssuedTime = nodetest.Must(csr.Fingerprint(nodetest.Request(keyName, 1, 0))), nil
	return d
}

// CSRs of a new token are decided, whatever was sent with earlier tokens.
func TestNewTokenHasANewBudget(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	f.Requests = nodetest.BadRequests(1, 20)
	reconcile(f)
	nodetest.AskReissue(f)
	reconcile(f)
	f.Requests = append(f.Requests, nodetest.Request("csr-a", 2, -time.Second))
	p := nodetest.Decide(f, nodetest.Now)
	if got, want := nodetest.OutlineOf(&p).Verdicts, "csr-a: Approved"; got != want || p.Misuse != nil {
		t.Errorf("got %q and the evidence %v", got, p.Misuse)
	}
}

// As before, with more CSRs than the limit of decisions: they were recorded under the id, so the node could not join.
func TestNodeJoinsWithTheTokenAfterAFlood(t *testing.T) {
	f := nodetest.Awaited(2, nodetest.Young)
	nodetest.Edits(func(f *lifecycle.Facts) { nodetest.AddToken(f, 1, nodetest.Due) }, nodetest.Records(nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(50))), nodetest.Further(nodetest.BadRequests(2, 12)...))(f)
	for range 3 {
		reconcile(f)
	}
	f.Requests = nil
	nodetest.AskReissue(f)
	p, o, _ := reconcile(f)
	if p.MintReason == "" {
		t.Fatalf("got %+v", nodetest.OutlineOf(&p))
	}
	r := nodetest.Request("csr-z", 0, -time.Second)
	r.Spec.Username = "system:bootstrap:" + o.Token.ID
	f.Requests = append(f.Requests, r)
	p = nodetest.Decide(f, nodetest.Now)
	if got, want := nodetest.OutlineOf(&p).Verdicts, "csr-z: Approved"; got != want {
		t.Errorf("got %q", got)
	}
}

// Kubernetes keeps decided CSRs for an hour, which bounds their number.
func TestServingFloodsEnd(t *testing.T) {
	f := nodetest.JoinedBefore()
	nodetest.Edits(nodetest.Declares(), nodetest.Serves(nodetest.ServingRequests(200)...))(f)
	made := 0
	for n := range 12 {
		before := f.NodeBootstrap.Status.DeepCopy()
		p, _, events := reconcile(f)
		made += len(p.Decisions)
		if n > 9 && (len(events) > 0 || nodetest.AsJSON(before) != nodetest.AsJSON(f.NodeBootstrap.Status)) {
			t.Errorf("reconcile %d: events %v, and the status is\n%s and was\n%s", n, events, nodetest.AsJSON(f.NodeBootstrap.Status), nodetest.AsJSON(before))
		}
	}
	if served := nodetest.Short(&f.NodeBootstrap.Status, v1alpha1.ConditionServingCertificateApproved); made != lifecycle.MaxServingDecisions || served != "True "+csr.ReasonKubeletServing {
		t.Errorf("%d decisions, and then %s", made, served)
	}
	if n := len(f.NodeBootstrap.Status.Certificates) - 1; n < 3 || n > 4 { // one is the client certificate
		t.Errorf("%d are in the log", n)
	}
	f.ServingRequests = append(f.ServingRequests, nodetest.ServingRequest("serving-z", 0))
	p, _, _ := reconcile(f)
	if served := nodetest.Short(&f.NodeBootstrap.Status, v1alpha1.ConditionServingCertificateApproved); len(p.Decisions) > 0 || served != "False "+decisions.ReasonTooManyRequests {
		t.Errorf("one more: %+v, and then %s", nodetest.OutlineOf(&p), served)
	}
	for _, d := range f.NodeBootstrap.Status.Certificates[1:] {
		if d.SignerName != certificatesv1.KubeletServingSignerName || d.Reason != csr.ReasonKubeletServing {
			t.Errorf("got %+v", d)
		}
	}
}
