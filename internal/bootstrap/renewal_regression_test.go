// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A longer ttl makes a young token due at once, while its predecessor still lives: three must never live together.
func TestRenewalLeavesOnePredecessor(t *testing.T) {
	f := awaited(2, 10*time.Minute)
	f.addToken(1, due)
	f.NodeBootstrap.Spec.Token.TTL = &metav1.Duration{Duration: 8760 * time.Hour}
	testPlans(t, map[string]planned{
		"renewal due, a predecessor lives": {f, nil, outline{phase: Awaited, token: "#2", mint: "#3", deleteToken: "#1"}},
	})
}

// Tokens of one second are in the order of their chain, in whatever order they are listed.
func TestTokensOfOneSecondKeepTheirOrder(t *testing.T) {
	for _, order := range [][]int{{1, 2, 3}, {1, 3, 2}, {2, 1, 3}, {2, 3, 1}, {3, 1, 2}, {3, 2, 1}} {
		f := fresh()
		for _, n := range order {
			f.addToken(n, young)
		}
		if got := f.keep(now); len(got) != 2 || got[1].ID != nthID(3) {
			t.Errorf("listed as %v: kept %v, want #2 %s and #3 %s", order, got, nthID(2), nthID(3))
		}
	}
}

// Tokens that are no chain, since an id in between was someone else's, must not change places from list to list.
func TestTokensWithoutAChainKeepTheirOrder(t *testing.T) {
	secrets := []*corev1.Secret{tokenSecret(1, young), tokenSecret(9, young)}
	f := fresh()
	f.TokenSecrets = secrets
	first := f.keep(now)[1].ID
	slices.Reverse(secrets)
	if again := f.keep(now)[1].ID; again != first {
		t.Errorf("the newest is %s and then %s: the kubeconfig would flap", first, again)
	}
}

// Where ids in between are gone, the creation tells which token is the newer one.
func TestTokensWithoutAChainGoByTheirCreation(t *testing.T) {
	for newest, older := range map[int]int{1: 9, 9: 1} {
		f := fresh()
		f.addToken(newest, young)
		f.addToken(older, 2*young)
		if got := f.keep(now); len(got) != 2 || got[1].ID != nthID(newest) {
			t.Errorf("kept %v, want #%d %s as the newest", got, newest, nthID(newest))
		}
	}
}

// A process that was paused in front of it stores a token whose successor is there by then. It is no predecessor that a
// machine may have been given: it goes, and the kubeconfig keeps the newer one.
func TestATokenStoredAfterItsSuccessorGoes(t *testing.T) {
	f := awaited(2, young)
	f.addToken(1, young/2)
	testPlans(t, map[string]planned{
		"the older one is the younger": {f, nil, outline{phase: Awaited, token: "#2", deleteToken: "#1"}},
	})
}
