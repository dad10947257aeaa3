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
	p := Decide(f, now)
	if got := outlineOf(&p).mint; got != "#3" {
		t.Errorf("the next token would be %s, and #2 was one before", got)
	}
	carryOut(f, &p)
	f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-b", 2, 0)}
	if p := Decide(f, now); len(p.Decisions) > 0 && p.Decisions[0].Record.Verdict == v1alpha1.VerdictDenied {
		t.Errorf("a machine with the published kubeconfig is denied: %s", p.Decisions[0].Result.Message)
	}
}

// A reissue: the predecessor is distrusted, and the token that status tells of was deleted by hand.
func TestAReissueDoesNotGiveAnIDTwice(t *testing.T) {
	f := awaited(1, due)
	f.NodeBootstrap.Status = statusOf(2, young)
	askReissue(f)
	p := Decide(f, now)
	if got := outlineOf(&p).mint; got != "#3" {
		t.Errorf("the reissued token would be %s, and #2 was one before", got)
	}
}
