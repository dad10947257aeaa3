// SPDX-License-Identifier: Apache-2.0

package bootstrap

import "testing"

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
	p := Decide(f, now)
	carryOut(f, &p)
	if s := f.NodeBootstrap.Status; s.LastHandledReissueAt != "" || s.Token != nil {
		t.Errorf("the reissue counts as handled (%q) with the token %+v, an older one", s.LastHandledReissueAt, s.Token)
	}
}

// The first pass could not delete the token: the second must still know that it is not to be trusted.
func TestReissueSurvivesAFailedRevocation(t *testing.T) {
	f := awaited(1, young)
	askReissue(f)
	p := Decide(f, now)
	f.NodeBootstrap.Status = *Report(f, &p, &Outcome{Err: errWrite}, now) // apply stopped at the delete
	testPlans(t, map[string]planned{
		"the old token is still there": {f, nil, outline{phase: Awaited, reissue: true, mint: "#2", deleteToken: "#1"}},
	})
}
