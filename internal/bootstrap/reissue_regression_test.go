// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// A reissue is asked for when the credential is not trusted any more. The token that was renewed is as old a one.
func TestReissueRevokesThePredecessorToo(t *testing.T) {
	f := awaited(2, young)
	f.addToken(1, due)
	askReissue(f)
	testPlans(t, map[string]planned{
		"due, the predecessor lives": {f, nil, outline{phase: Awaited, reissue: true, mint: "#3", deleteToken: "#2 #1"}},
	})
}

func TestReissueIsNotHandledWithThePredecessor(t *testing.T) {
	f := awaited(2, young)
	f.addToken(1, due)
	askReissue(f)
	noCluster(f)
	p := decide(f, now)
	carryOut(f, &p)
	if s := f.NodeBootstrap.Status; s.LastHandledReissueAt != "" || s.Token != nil {
		t.Errorf("the reissue counts as handled (%q) with the token %+v, an older one", s.LastHandledReissueAt, s.Token)
	}
}

// The first pass could not delete the token: the second must still know that it is not to be trusted.
func TestReissueSurvivesAFailedRevocation(t *testing.T) {
	f := awaited(1, young)
	askReissue(f)
	p := decide(f, now)
	f.NodeBootstrap.Status = *Report(f, &p, &Outcome{Err: errWrite}, now) // apply stopped at the delete
	testPlans(t, map[string]planned{
		"the old token is still there": {f, nil, outline{phase: Awaited, reissue: true, mint: "#2", deleteToken: "#1"}},
	})
}

// The first token was published, and the operator crashed before the status told of it. Then it leaked, and a reissue was
// asked for: it must not pass for the one that was made for the reissue.
func TestReissueRevokesATokenThatTheStatusDoesNotTellOf(t *testing.T) {
	for name, lastTold := range map[string]string{"the first": "", "a later one": nthID(1)} {
		f := fresh()
		n := 1
		if lastTold != "" {
			n = 2
		}
		f.addToken(n, young)
		f.Kubeconfig = kubeconfigSecret(n)
		f.NodeBootstrap.Status.LastTokenID = lastTold
		askReissue(f)
		p := decide(f, now)
		if o := outlineOf(&p); o.token != "" || o.mint == "" || o.deleteToken == "" {
			t.Errorf("%s: it lives on: %+v", name, o)
		}
	}
}

// The status cannot be stored for a while: the token that was made for the reissue must not be replaced in each pass.
func TestReissueIsMintedForOnce(t *testing.T) {
	f := awaited(1, young)
	askReissue(f)
	p := decide(f, now)
	status := f.NodeBootstrap.Status
	carryOut(f, &p)
	f.NodeBootstrap.Status = status
	testPlans(t, map[string]planned{
		"the second pass": {f, nil, outline{phase: Awaited, reissue: true, token: "#2"}},
	})
}

// Somebody edits the Secret of an old token: restoring it must not make it look as if it was made for a reissue.
func TestRestoringATokenDoesNotRenewIt(t *testing.T) {
	nb := nodeBootstrap()
	nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "again"}
	for name, have := range map[string]*corev1.Secret{"from before": tokenSecret(1, young), "made for it": tokenSecretOf(nb, 1, young)} {
		before := have.Annotations[v1alpha1.ReissueRequestedAtAnnotation]
		have.Labels = nil
		parsed, _ := ParseToken(have)
		if got := parsed.repaired(nb); got == nil || got.Annotations[v1alpha1.ReissueRequestedAtAnnotation] != before {
			t.Errorf("%s: restored as %v, and it was made for %q", name, got, before)
		}
	}
}

// An id that a decision or a request names is not given again, even if the status does not tell of the token.
func TestAnIDThatARequestNamesIsNotGivenAgain(t *testing.T) {
	for name, trace := range map[string]func(*Facts){
		"a request":  func(f *Facts) { f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 2, 0)} },
		"a decision": records(approvedDecision("csr-a", 2, minutes(5))),
		"a request that was issued, after the status was lost": func(f *Facts) {
			f.FormerTokenIDs = []string{nthID(2), nthID(1)}
			f.NodeBootstrap.Status.LastTokenID = ""
		},
	} {
		f := awaited(1, young)
		f.TokenSecrets = nil
		trace(f)
		p := decide(f, now)
		if got := outlineOf(&p).mint; got != "#3" {
			t.Errorf("%s: the next token is %s", name, got)
		}
	}
}
