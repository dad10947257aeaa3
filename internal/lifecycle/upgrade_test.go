// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
)

// boundTo are the keys that a token is bound to, by the status in the facts.
func boundTo(f *lifecycle.Facts, n int) []string {
	var out []string
	for _, c := range f.DecidedWith(nodetest.NthID(n)) {
		if decisions.BindsKey(c) {
			out = append(out, c.KeyFingerprint)
		}
	}
	return out
}

// A node that was awaited under an earlier version stays awaited with its tokens, including the predecessor.
func TestUpgradeOfANodeThatWaits(t *testing.T) {
	f := nodetest.Awaited(2, nodetest.Young)
	f.TokenSecrets = append(f.TokenSecrets, nodetest.TokenSecret(1, nodetest.Due))
	p := nodetest.Decide(f, nodetest.Now)
	if len(p.Keep) != 2 || p.Token == nil || p.Token.ID != nodetest.NthID(2) || len(p.DeleteTokens) > 0 || p.MintReason != "" {
		t.Errorf("got %+v", nodetest.OutlineOf(&p))
	}
	if s := f.NodeBootstrap.Status; len(s.Tokens) != 2 || s.Tokens[0].ID != nodetest.NthID(1) || s.Tokens[1].ID != nodetest.NthID(2) {
		t.Errorf("the tokens are %s", nodetest.AsJSON(s.Tokens))
	}
}

// The keys that were approved under an earlier version bind their tokens, and no other key is approved.
func TestUpgradeOfAClaim(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	mine := nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(5))
	mine.IssuedTime = nil
	nodetest.Records(mine)(f)
	f.Requests = append(f.Requests, nodetest.Request("csr-b", 1, nodetest.Minutes(1)))
	p := nodetest.Decide(f, nodetest.Now)
	if got := nodetest.OutlineOf(&p).Verdicts; got != "csr-b: Denied" {
		t.Errorf("the verdicts are %q", got)
	}
	if keys := boundTo(f, 1); !slices.Equal(keys, []string{mine.KeyFingerprint}) || !lifecycle.Claims(f.NodeBootstrap, mine.KeyFingerprint) {
		t.Errorf("the token is bound to %v, the node to %v", keys, f.NodeBootstrap.Status.KeyFingerprints)
	}
	if first := f.NodeBootstrap.Status.FirstApprovalTime; first == nil || !first.Time.Equal(mine.Time.Time) {
		t.Errorf("the first approval is at %v", first)
	}
}

// After an alarm under an earlier version a token that a key was approved with stays, and another one does not.
func TestUpgradeOfAMisusedToken(t *testing.T) {
	for name, tt := range map[string]struct {
		log  []v1alpha1.CertificateDecision
		kept int
	}{
		"with a key": {[]v1alpha1.CertificateDecision{nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(5)), nodetest.DeniedDecision("csr-b", 1, nodetest.Minutes(4))}, 1},
		"without":    {[]v1alpha1.CertificateDecision{nodetest.DeniedDecision("csr-b", 1, nodetest.Minutes(4))}, 0},
	} {
		f := nodetest.Awaited(1, nodetest.Young)
		nodetest.Edits(nodetest.Raised(csr.ReasonSecondKey), nodetest.Records(tt.log...))(f)
		p := nodetest.Decide(f, nodetest.Now)
		if len(p.Keep) != tt.kept || p.MintReason != "" || len(p.DeleteTokens) != 1-tt.kept {
			t.Errorf("%s: got %+v", name, nodetest.OutlineOf(&p))
		}
	}
}

// A token that the node had joined with, and whose Node was deleted later, is let go.
func TestUpgradeLeavesOutTheTokenOfAFormerWait(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	f.NodeBootstrap.Status.AwaitingSince = new(nodetest.Ago(nodetest.Minutes(10)))
	nodetest.Records(nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(20)))(f)
	if p := nodetest.Decide(f, nodetest.Now); len(p.Keep) > 0 || len(p.DeleteTokens) != 1 || p.LastTokenID != nodetest.NthID(1) {
		t.Errorf("got %+v", nodetest.OutlineOf(&p))
	}
}

// A certificate that was issued to a token which has expired still proves that the node has joined.
func TestUpgradeOfACertificateOfARenewedToken(t *testing.T) {
	f := nodetest.Awaited(2, nodetest.Young)
	f.NodeBootstrap.Status.AwaitingSince = new(nodetest.Ago(3 * time.Hour))
	nodetest.Records(nodetest.ApprovedDecision("csr-a", 1, 2*time.Hour))(f)
	f.Node, f.LeaseRenewed = nodetest.NodeMade(4*time.Hour), nodetest.Now
	if p := nodetest.Decide(f, nodetest.Now); p.Phase != lifecycle.Joined {
		t.Errorf("got %+v", nodetest.OutlineOf(&p))
	}
}

// Unrevoked certificates that an earlier version reported stay reported.
func TestUpgradeOfCertificatesThatWereNotRevoked(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	d := nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(5))
	d.ExpirationTime = &metav1.Time{Time: nodetest.Now.Add(time.Hour)}
	nodetest.Records(d)(f)
	f.TokenSecrets = []*corev1.Secret{nodetest.TokenSecret(1, nodetest.Young)}
	nodetest.Decide(f, nodetest.Now)
	if got := f.NodeBootstrap.Status.UnrevokedCertificates; len(got) != 1 || got[0].Name != "csr-a" || !got[0].ExpirationTime.Time.Equal(nodetest.Now.Add(time.Hour)) {
		t.Errorf("got %s", nodetest.AsJSON(got))
	}
}
