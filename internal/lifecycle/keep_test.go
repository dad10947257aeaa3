// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"slices"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
)

// A reissue: the predecessor is not trusted, and the token that the status names was deleted by hand.
func TestAReissueDoesNotUseAnIDTwice(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Due)
	f.NodeBootstrap.Status = nodetest.StatusOf(2, nodetest.Young)
	nodetest.AskReissue(f)
	p := nodetest.Decide(f, nodetest.Now)
	if got := nodetest.OutlineOf(&p).Mint; got != "#3" {
		t.Errorf("the reissued token would be %s, but #2 was used before", got)
	}
}

// An immutable token, from admission control, is kept unless it must change.
func TestImmutableToken(t *testing.T) {
	f := nodetest.Awaited(1, time.Hour)
	f.TokenSecrets[0].Immutable = new(true)
	if p := nodetest.Decide(f, nodetest.Now); len(p.DeleteTokens) > 0 || p.MintReason != "" || p.Token == nil {
		t.Error("a correct token is replaced")
	}
	f.TokenSecrets[0].Labels = nil
	if p := nodetest.Decide(f, nodetest.Now); len(p.DeleteTokens) > 0 || p.MintReason != "" || len(p.RepairTokens) != 1 {
		t.Error("a token is replaced whose label can be restored")
	}
	f.TokenSecrets[0].Data[bootstrapapi.BootstrapTokenExtraGroupsKey] = []byte("system:bootstrappers:other")
	if p := nodetest.Decide(f, nodetest.Now); len(p.DeleteTokens) != 1 || p.MintReason == "" {
		t.Error("a token that cannot be restored is kept")
	}
}

// The node had joined, its token could not be revoked, and then its Node was deleted: the reinstalled machine has another key, so the
// token is useless to it, and its CSR would raise an alarm.
func TestATokenThatTheNodeJoinedWithIsSpent(t *testing.T) {
	joined := func(since *metav1.Time) *lifecycle.Facts {
		f := nodetest.Awaited(1, nodetest.Young)
		f.NodeBootstrap.Status.AwaitingSince = since
		nodetest.Records(nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(20)))(f)
		return f
	}
	spent := nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#2", DeleteToken: "#1"}
	nodetest.Plans(t, map[string]nodetest.Planned{
		"the reconcile that finds the Node deleted": {Facts: joined(nil), Edit: nil, Want: spent},
		"a later reconcile":                         {Facts: joined(new(nodetest.Ago(nodetest.Minutes(10)))), Edit: nil, Want: spent},
		"it has not joined yet":                     {Facts: joined(new(nodetest.Ago(nodetest.Minutes(30)))), Edit: nil, Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1"}},
		"its certificate is not issued": {Facts: joined(new(nodetest.Ago(nodetest.Minutes(10)))), Edit: func(f *lifecycle.Facts) {
			f.NodeBootstrap.Status.Certificates[0].IssuedTime = nil
		}, Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1"}},
	})
}

// An id that a decision or a CSR names is not used again, even if the status does not name the token.
func TestAnIDThatARequestNamesIsNotGivenAgain(t *testing.T) {
	for name, trace := range map[string]func(*lifecycle.Facts){
		"a request": func(f *lifecycle.Facts) {
			f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 2, 0)}
		},
		"a decision": nodetest.Records(nodetest.ApprovedDecision("csr-a", 2, nodetest.Minutes(5))),
		"a request that was issued, after the status was lost": func(f *lifecycle.Facts) {
			f.FormerTokenIDs = []string{nodetest.NthID(2), nodetest.NthID(1)}
			f.NodeBootstrap.Status.LastTokenID = ""
		},
	} {
		f := nodetest.Awaited(1, nodetest.Young)
		f.TokenSecrets = nil
		trace(f)
		p := nodetest.Decide(f, nodetest.Now)
		if got := nodetest.OutlineOf(&p).Mint; got != "#3" {
			t.Errorf("%s: the next token is %s", name, got)
		}
	}
}

// A longer ttl makes a young token due at once while its predecessor still lives: three tokens must never be live together.
func TestRenewalLeavesOnePredecessor(t *testing.T) {
	f := nodetest.Awaited(2, 10*time.Minute)
	nodetest.AddToken(f, 1, nodetest.Due)
	f.NodeBootstrap.Spec.Token.TTL = &metav1.Duration{Duration: 8760 * time.Hour}
	nodetest.Plans(t, map[string]nodetest.Planned{
		"renewal due, a predecessor lives": {Facts: f, Edit: nil, Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#2", Mint: "#3", DeleteToken: "#1"}},
	})
}

// Tokens created in one second keep the order of their ids, in whatever order they are listed.
func TestTokensOfOneSecondKeepTheirOrder(t *testing.T) {
	for _, order := range [][]int{{1, 2, 3}, {1, 3, 2}, {2, 1, 3}, {2, 3, 1}, {3, 1, 2}, {3, 2, 1}} {
		f := nodetest.Fresh()
		for _, n := range order {
			nodetest.AddToken(f, n, nodetest.Young)
		}
		if got := f.Keep(nodetest.Now); len(got) != 2 || got[1].ID != nodetest.NthID(3) {
			t.Errorf("listed as %v: kept %v, want #2 %s and #3 %s", order, got, nodetest.NthID(2), nodetest.NthID(3))
		}
	}
}

// Tokens whose ids do not follow each other, because another object used an id in between, must keep their order from list to list.
func TestTokensWithoutAChainKeepTheirOrder(t *testing.T) {
	secrets := []*corev1.Secret{nodetest.TokenSecret(1, nodetest.Young), nodetest.TokenSecret(9, nodetest.Young)}
	f := nodetest.Fresh()
	f.TokenSecrets = secrets
	first := f.Keep(nodetest.Now)[1].ID
	slices.Reverse(secrets)
	if again := f.Keep(nodetest.Now)[1].ID; again != first {
		t.Errorf("the newest is %s and then %s: the kubeconfig would flap", first, again)
	}
}

// If ids in between are missing, the creation time decides which token is newer.
func TestTokensWithoutAChainGoByTheirCreation(t *testing.T) {
	for newest, older := range map[int]int{1: 9, 9: 1} {
		f := nodetest.Fresh()
		nodetest.AddToken(f, newest, nodetest.Young)
		nodetest.AddToken(f, older, 2*nodetest.Young)
		if got := f.Keep(nodetest.Now); len(got) != 2 || got[1].ID != nodetest.NthID(newest) {
			t.Errorf("kept %v, want #%d %s as the newest", got, newest, nodetest.NthID(newest))
		}
	}
}

// A paused process stores a token after its successor exists. No machine can have been given it: it is deleted, and the kubeconfig keeps
// the newer one.
func TestATokenStoredAfterItsSuccessorGoes(t *testing.T) {
	f := nodetest.Awaited(2, nodetest.Young)
	nodetest.AddToken(f, 1, nodetest.Young/2)
	nodetest.Plans(t, map[string]nodetest.Planned{
		"the older one is the younger": {Facts: f, Edit: nil, Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#2", DeleteToken: "#1"}},
	})
}
