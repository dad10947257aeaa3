// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/test/adversarial"
)

func pinnedBy(others ...string) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) { f.PinnedElsewhere = others }
}

func asks(name string, edit ...func(*certificatesv1.CertificateSigningRequest)) func(*lifecycle.Facts) {
	return nodetest.Further(nodetest.Request(name, 1, nodetest.Minutes(1), edit...))
}

func TestDecideWithAPinnedKey(t *testing.T) {
	ours := nodetest.Judged(certificatesv1.CertificateApproved, csr.ReasonKubeletClient, "", 0)
	kept := nodetest.Alarmed
	pinnedTwice := kept("thief: Denied", "KeyNotPinned")
	pinnedTwice.Problem = v1alpha1.ReasonKeyPinnedTwice
	tests := map[string]nodetest.Planned{
		"the pinned key":                   {Edit: asks("pin"), Want: kept("pin: Approved", "")},
		"the pinned key again":             {Edit: nodetest.Edits(asks("pin", ours), asks("pin/2")), Want: kept("pin/2: Approved", "")},
		"approved, not recorded":           {Edit: asks("pin", ours), Want: kept("", "")},
		"another key":                      {Edit: asks("thief"), Want: kept("thief: Denied", "KeyNotPinned")},
		"another key first":                {Edit: nodetest.Edits(asks("thief"), asks("pin")), Want: kept("thief: Denied, pin: Approved", "KeyNotPinned")},
		"another key was approved before":  {Edit: nodetest.Edits(nodetest.Claimed("thief"), asks("pin")), Want: kept("pin: Approved", "")},
		"another key, approved by others":  {Edit: asks("thief", nodetest.Approved(0)), Want: kept("thief: Approved", "KeyNotPinned")},
		"another key with a lesser defect": {Edit: asks("thief", nodetest.TooLong), Want: kept("thief: Denied", "KeyNotPinned")},
		"another node":                     {Edit: asks("thief", nodetest.ForNode("worker-2")), Want: kept("thief: Denied", "WrongSubject")},
		"another signer":                   {Edit: asks("thief", nodetest.AnotherSigner), Want: kept("thief: Denied", "WrongSigner").Deleting("thief")},
		"the pinned key with a defect":     {Edit: asks("pin", nodetest.TooLong), Want: kept("pin: Denied", "")},
		"the pinned key, another node":     {Edit: asks("pin", nodetest.ForNode("worker-2")), Want: kept("pin: Denied", "WrongSubject")},
		"the pinned key of another node": {Edit: nodetest.Edits(asks("pin"), func(f *lifecycle.Facts) {
			f.KeysElsewhere = map[string]string{nodetest.KeyOf("pin"): "worker-2"}
		}), Want: kept("pin: Denied", "")},

		"after an alarm":         {Edit: nodetest.Edits(nodetest.Raised(csr.ReasonKeyNotPinned), asks("pin")), Want: kept("pin: Approved", "")},
		"renewal after an alarm": {Facts: nodetest.Awaited(1, nodetest.Due), Edit: nodetest.Raised(csr.ReasonKeyNotPinned), Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1", Mint: "#2"}},
		"pinned after a revocation": {Facts: nodetest.Fresh(), Edit: nodetest.Edits(nodetest.Raised(csr.ReasonWrongSubject), func(f *lifecycle.Facts) {
			f.NodeBootstrap.Status.LastTokenID = nodetest.NthID(1)
		}), Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#2"}},
		"expired": {Facts: nodetest.Awaited(1, nodetest.Old), Edit: asks("pin"), Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#2", DeleteToken: "#1"}.Deleting("pin")},

		"pinned twice":           {Edit: nodetest.Edits(asks("pin"), asks("thief"), pinnedBy("worker-2")), Want: pinnedTwice},
		"pinned twice, no token": {Facts: nodetest.Fresh(), Edit: pinnedBy("worker-2"), Want: nodetest.Outline{Phase: lifecycle.Awaited, Problem: v1alpha1.ReasonKeyPinnedTwice}},

		"a person approves":               {Edit: nodetest.Edits(asks("pin"), nodetest.Approval(v1alpha1.ApprovalManual)), Want: kept("", "")},
		"a person approves: another key":  {Edit: nodetest.Edits(asks("thief"), nodetest.Approval(v1alpha1.ApprovalManual)), Want: kept("thief: Denied", "KeyNotPinned")},
		"a delay has no effect":           {Edit: nodetest.Edits(asks("pin"), delayed), Want: kept("pin: Approved", "")},
		"replacement keys have no effect": {Edit: nodetest.Edits(asks("thief"), nodetest.Replacements(7)), Want: kept("thief: Denied", "KeyNotPinned")},
	}
	for name, tt := range tests {
		if tt.Facts == nil {
			tt.Facts = nodetest.Awaited(1, nodetest.Young)
		}
		tt.Edit = nodetest.Edits(nodetest.Pins("pin"), tt.Edit)
		tests[name] = tt
	}
	nodetest.Plans(t, tests)
}

func delayed(f *lifecycle.Facts) {
	f.NodeBootstrap.Spec.ClientCertificate.ApprovalDelay = &metav1.Duration{Duration: time.Minute}
}

// A thief's CSRs use up the decisions of the token, in every order; the machine's CSR is approved nevertheless, also with a full status.
func TestPinnedKeyIsDecidedAfterAnyNumberOfOthers(t *testing.T) {
	for _, machine := range []time.Duration{0, 50 * time.Second, time.Hour} {
		f := nodetest.Awaited(1, 2*time.Hour)
		nodetest.Pins("pin")(f)
		nodetest.Further(nodetest.BadRequests(1, 100)...)(f)
		for range 3 { // the decisions of one reconcile are recorded before the next one
			p := nodetest.Decide(f, nodetest.Now)
			nodetest.Claim(f, &p)
		}
		nodetest.Further(nodetest.Request("pin", 1, machine))(f)
		p := nodetest.Decide(f, nodetest.Now)
		if i := slices.IndexFunc(p.Decisions, func(d lifecycle.Decision) bool { return d.Result.Verdict == csr.Approve }); i < 0 || !p.Decisions[i].Pinned || p.Decisions[i].Request.Name != "pin" {
			t.Errorf("sent %s ago: %+v", machine, nodetest.OutlineOf(&p))
		}
		if len(p.DeleteTokens) > 0 || p.Phase != lifecycle.Awaited {
			t.Errorf("sent %s ago: the token is revoked: %+v", machine, nodetest.OutlineOf(&p))
		}
	}
}

// Approvals by others fill the token's list: no further key is approved with it, and the first one is not pushed out. A pinned key still is.
func TestFullListOfApprovalsByOthers(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	full := v1alpha1.LiveToken{ID: nodetest.NthID(1)}
	for i := range decisions.MaxCSRsPerToken {
		name := fmt.Sprintf("csr-%02d", i)
		full.CSRs = append(full.CSRs, v1alpha1.DecidedCSR{Name: name, UID: types.UID(name), KeyFingerprint: "SHA256:" + name, Verdict: v1alpha1.VerdictApproved,
			Reason: decisions.ReasonApprovedElsewhere, Time: nodetest.Ago(nodetest.Minutes(2))})
	}
	f.NodeBootstrap.Status.Tokens = []v1alpha1.LiveToken{full}
	nodetest.Edits(asks("pin"), asks("thief"))(f)
	p := nodetest.Decide(f, nodetest.Now)
	if got := nodetest.OutlineOf(&p); got.Verdicts != "" || got.DeleteToken != "" {
		t.Errorf("not pinned: %+v", got)
	}
	nodetest.Pins("pin")(f)
	p = nodetest.Decide(f, nodetest.Now)
	if got := nodetest.OutlineOf(&p); got.Verdicts != "pin: Approved" || got.DeleteToken != "" {
		t.Errorf("pinned: %+v", got)
	}
}

// Whatever a holder of the token sends, whether its key is the pinned one or not: while a key is pinned nothing bad is approved, and nothing
// is revoked.
func TestBadRequestsRevokeNothingWithAPinnedKey(t *testing.T) {
	key := nodetest.Key("pin")
	for _, c := range adversarial.Client() {
		for _, pinned := range []string{"pin", "another"} {
			f := nodetest.Awaited(1, nodetest.Young)
			r := nodetest.Request("pin", 1, nodetest.Minutes(1))
			r.Spec = adversarial.GoodClient(nodetest.NodeName, nodetest.NthID(1), key)
			c.Apply(r, nodetest.NodeName, key)
			nodetest.Edits(nodetest.Pins(pinned), nodetest.Further(r))(f)
			p := nodetest.Decide(f, nodetest.Now)
			approves := slices.ContainsFunc(p.Decisions, func(d lifecycle.Decision) bool { return d.Result.Verdict == csr.Approve })
			if approves || p.Phase != lifecycle.Awaited || p.Token == nil || len(p.DeleteTokens) > 0 || p.DeleteKubeconfig != nil {
				t.Errorf("%s (%s), pinned: %s: %+v", c.Name, c.Why, pinned, nodetest.OutlineOf(&p))
			}
			if c.Verdict == "Deny" && len(p.Decisions) != 1 {
				t.Errorf("%s (%s), pinned: %s: it is not denied: %+v", c.Name, c.Why, pinned, nodetest.OutlineOf(&p))
			}
		}
	}
}

// Without its pin, the node has today's rules: a token that a thief has used is revoked unless a key was approved with it.
func TestRemovedPinRestoresTheOtherRules(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	nodetest.Edits(asks("pin"), nodetest.Raised(csr.ReasonKeyNotPinned))(f)
	p := nodetest.Decide(f, nodetest.Now)
	if got := nodetest.OutlineOf(&p); got.Phase != lifecycle.Withdrawn || got.DeleteToken != "#1" || strings.Contains(got.Verdicts, "Approved") {
		t.Errorf("the thief's token is live: %+v", got)
	}
	f = nodetest.Awaited(1, nodetest.Young)
	nodetest.Edits(nodetest.Claimed("pin"), nodetest.Raised(csr.ReasonKeyNotPinned), asks("pin/2"))(f)
	p = nodetest.Decide(f, nodetest.Now)
	if got, want := nodetest.OutlineOf(&p), nodetest.Alarmed("pin/2: Approved", ""); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// An approval rests on the NodeBootstrap as the API server has it.
func TestApprovesPinned(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	nodetest.Edits(nodetest.Pins("pin"), asks("pin"))(f)
	p := nodetest.Decide(f, nodetest.Now)
	for name, tt := range map[string]struct {
		edit func(*v1alpha1.NodeBootstrap)
		want bool
	}{
		"unchanged":        {func(*v1alpha1.NodeBootstrap) {}, true},
		"another status":   {func(nb *v1alpha1.NodeBootstrap) { nb.Status = v1alpha1.NodeBootstrapStatus{} }, true},
		"another key":      {func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.KeyFingerprint = nodetest.KeyOf("other") }, false},
		"no key":           {func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.KeyFingerprint = "" }, false},
		"another object":   {func(nb *v1alpha1.NodeBootstrap) { nb.UID = nodetest.FormerUID }, false},
		"a person decides": {func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual }, false},
		"a reissue is due": {func(nb *v1alpha1.NodeBootstrap) {
			nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "new"}
		}, false},
	} {
		live := f.NodeBootstrap.DeepCopy()
		tt.edit(live)
		if got := lifecycle.ApprovesPinned(f.NodeBootstrap, live, p.Decisions[0]); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// A thief's CSRs do not keep the machine from a serving certificate, unless a certificate is valid that should not be.
func TestServingWithAPinnedKey(t *testing.T) {
	asksServing := nodetest.Edits(nodetest.Declares(), nodetest.Serves(nodetest.ServingRequest("serving-a", nodetest.Minutes(1))), nodetest.Raised(csr.ReasonKeyNotPinned))
	unrevoked := func(f *lifecycle.Facts) {
		f.NodeBootstrap.Status.UnrevokedCertificates = []v1alpha1.UnrevokedCertificate{{Name: "csr-a", UID: "csr-a", ExpirationTime: nodetest.Ago(-time.Hour)}}
	}
	approved := nodetest.Outline{Phase: lifecycle.Joined, Verdicts: "serving-a: Approve", Serving: "Approve KubeletServingOfThisNode"}
	waits := nodetest.Outline{Phase: lifecycle.Joined, Serving: "Wait TokenMisused"}
	nodetest.Plans(t, map[string]nodetest.Planned{
		"pinned": {Facts: nodetest.JoinedBefore(), Edit: nodetest.Edits(nodetest.Pins("pin"), asksServing), Want: approved},
		"pinned, another certificate is not revoked": {Facts: nodetest.JoinedBefore(), Edit: nodetest.Edits(nodetest.Pins("pin"), asksServing, unrevoked), Want: waits},
		"not pinned": {Facts: nodetest.JoinedBefore(), Edit: asksServing, Want: waits},
	})
}

// Several keys are no conflict when one is pinned, and a key that was denied before is no evidence at the join.
func TestOtherKeysWithAPinnedKey(t *testing.T) {
	for pinned, want := range map[bool]int{true: 0, false: 2} {
		f := nodetest.Awaited(1, nodetest.Young)
		nodetest.Edits(asks("pin"), asks("thief"))(f)
		if pinned {
			nodetest.Pins("pin")(f)
		}
		if p := nodetest.Decide(f, nodetest.Now); len(p.Keys) != want {
			t.Errorf("pinned %t: the keys are %+v", pinned, p.Keys)
		}
		f = nodetest.Awaited(1, nodetest.Young)
		nodetest.Edits(asks("pin", nodetest.Approved(nodetest.Minutes(1)), nodetest.WithCertificate), nodetest.WorksSince(0))(f)
		f.NodeBootstrap.Status.ReplacedKey = &v1alpha1.SentKey{TokenID: nodetest.NthID(1), KeyFingerprint: nodetest.KeyOf("thief"), Name: "thief", Time: nodetest.Ago(0)}
		if pinned {
			nodetest.Pins("pin")(f)
		}
		if p := nodetest.Decide(f, nodetest.Now); p.Phase != lifecycle.Joined || (p.Misuse == nil) != pinned {
			t.Errorf("pinned %t: %+v", pinned, nodetest.OutlineOf(&p))
		}
	}
}

// The record of a pinned approval waits for the join, 15 seconds at most.
func TestRecordOfAPinnedApprovalWaits(t *testing.T) {
	ours := func(age time.Duration) func(*certificatesv1.CertificateSigningRequest) {
		return nodetest.Judged(certificatesv1.CertificateApproved, csr.ReasonKubeletClient, "", age)
	}
	byOthers := nodetest.Judged(certificatesv1.CertificateApproved, "LooksGood", "", 0)
	for name, c := range map[string]struct {
		request *certificatesv1.CertificateSigningRequest
		edit    func(*lifecycle.Facts)
		want    bool
	}{
		"just approved":      {nodetest.Request("pin", 1, nodetest.Minutes(1), ours(0)), nodetest.Pins("pin"), true},
		"15 seconds ago":     {nodetest.Request("pin", 1, nodetest.Minutes(1), ours(lifecycle.JoinSoon)), nodetest.Pins("pin"), false},
		"by someone else":    {nodetest.Request("pin", 1, nodetest.Minutes(1), byOthers), nodetest.Pins("pin"), false},
		"another key":        {nodetest.Request("thief", 1, nodetest.Minutes(1), ours(0)), nodetest.Pins("pin"), false},
		"nothing is pinned":  {nodetest.Request("pin", 1, nodetest.Minutes(1), ours(0)), nodetest.Unchanged, false},
		"recorded":           {nodetest.Request("pin", 1, nodetest.Minutes(1), ours(0)), nodetest.Edits(nodetest.Pins("pin"), nodetest.Records(nodetest.ApprovedDecision("pin", 1, 0))), false},
		"not decided on yet": {nodetest.Request("pin", 1, nodetest.Minutes(1)), nodetest.Pins("pin"), false},
	} {
		f := nodetest.Awaited(1, nodetest.Young)
		c.edit(f)
		f.Requests = []*certificatesv1.CertificateSigningRequest{c.request}
		if until, waits := f.RecordWaits(c.request, nodetest.Now); waits != c.want || waits && !until.Equal(nodetest.Now.Add(lifecycle.JoinSoon)) {
			t.Errorf("%s: %t until %s", name, waits, until)
		}
	}
}
