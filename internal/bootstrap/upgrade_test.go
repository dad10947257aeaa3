// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// boundTo are the keys that a token is bound to, by the status among facts.
func boundTo(f *Facts, n int) []string {
	var out []string
	for _, c := range f.decidedWith(nthID(n)) {
		if bindsKey(c) {
			out = append(out, c.KeyFingerprint)
		}
	}
	return out
}

// A node that was waiting under an earlier version goes on waiting with its tokens, the predecessor too.
func TestUpgradeOfANodeThatWaits(t *testing.T) {
	f := awaited(2, young)
	f.TokenSecrets = append(f.TokenSecrets, tokenSecret(1, due))
	p := decide(f, now)
	if len(p.Keep) != 2 || p.Token == nil || p.Token.ID != nthID(2) || len(p.DeleteTokens) > 0 || p.MintAfter != nil {
		t.Errorf("got %+v", outlineOf(&p))
	}
	if s := f.NodeBootstrap.Status; len(s.Tokens) != 2 || s.Tokens[0].ID != nthID(1) || s.Tokens[1].ID != nthID(2) {
		t.Errorf("the tokens are %s", asJSON(s.Tokens))
	}
}

// The keys that were approved under an earlier version bind their tokens, and no other key is approved.
func TestUpgradeOfAClaim(t *testing.T) {
	f := awaited(1, young)
	mine := approvedDecision("csr-a", 1, minutes(5))
	mine.IssuedTime = nil
	records(mine)(f)
	f.Requests = append(f.Requests, request("csr-b", 1, minutes(1)))
	p := decide(f, now)
	if got := outlineOf(&p).verdicts; got != "csr-b: Denied" {
		t.Errorf("the verdicts are %q", got)
	}
	if keys := boundTo(f, 1); !slices.Equal(keys, []string{mine.KeyFingerprint}) || !Claims(f.NodeBootstrap, mine.KeyFingerprint) {
		t.Errorf("the token is bound to %v, the node to %v", keys, f.NodeBootstrap.Status.KeyFingerprints)
	}
	if first := f.NodeBootstrap.Status.FirstApprovalTime; first == nil || !first.Time.Equal(mine.Time.Time) {
		t.Errorf("the first approval is at %v", first)
	}
}

// An approval that an earlier version claimed and did not carry out is carried out.
func TestUpgradeOfAClaimThatWasNotCarriedOut(t *testing.T) {
	f := awaited(1, young)
	r := request("csr-a", 1, minutes(1))
	mine := approvedDecision("csr-a", 1, minutes(1))
	mine.IssuedTime, mine.KeyFingerprint = nil, must(csr.Fingerprint(r))
	records(mine)(f)
	f.Requests = append(f.Requests, r)
	live := f.NodeBootstrap.DeepCopy()
	p := decide(f, now)
	if got := outlineOf(&p).verdicts; got != "csr-a: Approved" || p.Claimed(f, now) != nil {
		t.Fatalf("the verdicts are %q", got)
	}
	if !Supports(f.NodeBootstrap, live, f.TokenSecrets[0], p.Decisions[0], now) {
		t.Error("the approval does not rest on the claim that is stored")
	}
}

// After an alarm under an earlier version a token that a key was approved with stays, and another one does not.
func TestUpgradeOfAMisusedToken(t *testing.T) {
	for name, tt := range map[string]struct {
		log  []v1alpha1.CertificateDecision
		kept int
	}{
		"with a key": {[]v1alpha1.CertificateDecision{approvedDecision("csr-a", 1, minutes(5)), deniedDecision("csr-b", 1, minutes(4))}, 1},
		"without":    {[]v1alpha1.CertificateDecision{deniedDecision("csr-b", 1, minutes(4))}, 0},
	} {
		f := awaited(1, young)
		edits(raised(csr.ReasonSecondKey), records(tt.log...))(f)
		p := decide(f, now)
		if len(p.Keep) != tt.kept || p.MintAfter != nil || len(p.DeleteTokens) != 1-tt.kept {
			t.Errorf("%s: got %+v", name, outlineOf(&p))
		}
	}
}

// A node that had joined under an earlier version stays joined, its key stays its own, and nothing is written.
func TestUpgradeOfAJoinedNode(t *testing.T) {
	f := joinedBefore()
	before := f.NodeBootstrap.Status.DeepCopy()
	p := decide(f, now)
	o := Outcome{Revoked: true}
	if p.Phase != Joined || !Claims(f.NodeBootstrap, "SHA256:00") {
		t.Errorf("got %+v", outlineOf(&p))
	}
	if s := Report(f, &p, &o, now); s.NodeUID != before.NodeUID || len(s.Tokens) > 0 || s.AwaitingSince != nil {
		t.Errorf("got %s", asJSON(s))
	}
}

// A token that the node had joined with, and whose Node was deleted since, is good for nothing.
func TestUpgradeLeavesOutTheTokenOfAFormerWait(t *testing.T) {
	f := awaited(1, young)
	f.NodeBootstrap.Status.AwaitingSince = new(ago(minutes(10)))
	records(approvedDecision("csr-a", 1, minutes(20)))(f)
	if p := decide(f, now); len(p.Keep) > 0 || len(p.DeleteTokens) != 1 || *p.MintAfter != nthID(1) {
		t.Errorf("got %+v", outlineOf(&p))
	}
}

// A certificate that was issued to a token which has expired since still proves that the node has joined.
func TestUpgradeOfACertificateOfARenewedToken(t *testing.T) {
	f := awaited(2, young)
	f.NodeBootstrap.Status.AwaitingSince = new(ago(3 * time.Hour))
	records(approvedDecision("csr-a", 1, 2*time.Hour))(f)
	f.Node, f.LeaseRenewed = nodeMade(4*time.Hour), now
	if p := decide(f, now); p.Phase != Joined {
		t.Errorf("got %+v", outlineOf(&p))
	}
}

// What an earlier version reported as not revoked stays reported.
func TestUpgradeOfCertificatesThatWereNotRevoked(t *testing.T) {
	f := awaited(1, young)
	d := approvedDecision("csr-a", 1, minutes(5))
	d.ExpirationTime = &metav1.Time{Time: now.Add(time.Hour)}
	records(d)(f)
	f.TokenSecrets = []*corev1.Secret{tokenSecret(1, young)}
	decide(f, now)
	if got := f.NodeBootstrap.Status.UnrevokedCertificates; len(got) != 1 || got[0].Name != "csr-a" || !got[0].ExpirationTime.Time.Equal(now.Add(time.Hour)) {
		t.Errorf("got %s", asJSON(got))
	}
}
