// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// The newest token was deleted by hand and its predecessor is still there: an id must not be given twice, since the claim
// on a key goes by it.
func TestAnIDIsNotGivenTwice(t *testing.T) {
	f := awaited(1, due)
	f.NodeBootstrap.Status = statusOf(2, young)
	claim := approvedDecision("csr-a", 2, minutes(5)) // the key of a machine that has been wiped since
	claim.IssuedTime = nil
	f.NodeBootstrap.Status.Certificates = []v1alpha1.CertificateDecision{claim}
	p := decide(f, now)
	if got := outlineOf(&p).mint; got != "#3" {
		t.Errorf("the next token would be %s, and #2 was one before", got)
	}
	carryOut(f, &p)
	f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-b", 2, 0)}
	if p := decide(f, now); len(p.Decisions) > 0 && p.Decisions[0].Record.Verdict == v1alpha1.VerdictDenied {
		t.Errorf("a machine with the published kubeconfig is denied: %s", p.Decisions[0].Result.Message)
	}
}

// A reissue: the predecessor is distrusted, and the token that status tells of was deleted by hand.
func TestAReissueDoesNotGiveAnIDTwice(t *testing.T) {
	f := awaited(1, due)
	f.NodeBootstrap.Status = statusOf(2, young)
	askReissue(f)
	p := decide(f, now)
	if got := outlineOf(&p).mint; got != "#3" {
		t.Errorf("the reissued token would be %s, and #2 was one before", got)
	}
}

// A token that was published, and that a crash hid from the status, is revoked, and another crash follows: its id must not be
// given again, since the API server accepts the old token for ten seconds more, as the user that the new one would be.
func TestIDOfATokenThatTheStatusDoesNotTellOfIsNotGivenAgain(t *testing.T) {
	f := fresh()
	f.addToken(1, young)
	askReissue(f)
	p := decide(f, now)
	if got := outlineOf(&p); got.deleteToken != "#1" || got.mint != "#2" {
		t.Fatalf("the plan is %+v", got)
	}
	claim(f, &p)
	revoke(f, &p)
	if p = decide(f, now); outlineOf(&p).mint != "#2" {
		t.Errorf("after a crash the plan is %+v", outlineOf(&p))
	}
}

// A token that the status tells of is no reason to write it.
func TestATokenThatTheStatusTellsOfIsDeletedAtOnce(t *testing.T) {
	f := joinedBefore()
	f.TokenSecrets = awaited(1, young).TokenSecrets
	f.NodeBootstrap.Status.LastTokenID = nthID(1)
	p := decide(f, now)
	if outlineOf(&p).deleteToken != "#1" || p.Claimed(f, now) != nil {
		t.Errorf("the plan is %+v, and the status is written first", outlineOf(&p))
	}
}
