// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"slices"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// manyStates are enough for every pair of choices to be met many times, in about a second.
const manyStates = 5_000

func TestDecideHoldsToItsRules(t *testing.T) {
	rules := map[string]func(*Facts, *Plan) bool{
		"a token is kept or deleted, not both": func(f *Facts, p *Plan) bool {
			for _, kept := range p.kept {
				if slices.Contains(p.DeleteTokens, kept.Object) {
					return false
				}
			}
			return len(p.kept)+len(p.DeleteTokens) == len(f.TokenSecrets)
		},
		"only what is kept is repaired": func(_ *Facts, p *Plan) bool {
			return !slices.ContainsFunc(p.RepairTokens, func(s *corev1.Secret) bool {
				return !slices.ContainsFunc(p.kept, func(k Token) bool { return k.Object.Name == s.Name })
			})
		},
		"nothing is minted while there is a problem": func(_ *Facts, p *Plan) bool { return p.Problem == nil || p.MintAfter == nil },
		"nothing is left without a NodeBootstrap or after joining": func(f *Facts, p *Plan) bool {
			return p.Phase != Gone && p.Phase != Joined ||
				len(p.DeleteTokens) == len(f.TokenSecrets) && p.MintAfter == nil && p.Token == nil && len(p.Decisions) == 0 &&
					!slices.ContainsFunc(f.Requests, func(r *certificatesv1.CertificateSigningRequest) bool {
						return !issued(r) && requestCondition(r, "Denied") == nil && !slices.Contains(p.DeleteRequests, r)
					})
		},
		"what is not ours stays": func(f *Facts, p *Plan) bool {
			return p.DeleteKubeconfig == nil || Ours(p.DeleteKubeconfig, f.Name)
		},
		"a kubeconfig stays while a token does": func(_ *Facts, p *Plan) bool {
			return p.Phase != Awaited || p.Token == nil && p.MintAfter == nil || p.DeleteKubeconfig == nil
		},
		"one key is approved for a token": func(f *Facts, p *Plan) bool {
			byToken := map[string]string{}
			for _, d := range p.Decisions {
				if d.Result.Verdict != csr.Approve {
					continue
				}
				if have, ok := byToken[d.Record.TokenID]; ok && have != d.Record.KeyFingerprint {
					return false
				}
				byToken[d.Record.TokenID] = d.Record.KeyFingerprint
			}
			return len(p.Decisions) == 0 || f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalNode
		},
		"what is decided on is of a kept token, for this node": func(f *Facts, p *Plan) bool {
			for _, d := range p.Decisions {
				if p.liveToken(d.Record.TokenID) == nil || d.Result.Verdict == csr.Approve && csr.RequestedNode(d.Request) != f.Name {
					return false
				}
			}
			return true
		},
		"it waits for what it does not do now": func(_ *Facts, p *Plan) bool { return p.Token == nil || p.Again.After(now) },
	}
	states(manyStates, func(seed int, f *Facts) {
		p := Decide(f, now)
		for name, holds := range rules {
			if !holds(f, &p) {
				t.Errorf("seed %d, %s: %+v", seed, name, outlineOf(&p))
			}
		}
	})
}

// settle carries plans out until they are empty. The second pass may find a node joined that the first one made the
// status for; a third must not be needed.
func settle(t *testing.T, seed int, f *Facts) (Plan, *Outcome) {
	t.Helper()
	var p Plan
	var o *Outcome
	var outlines []outline
	for range 3 {
		p = Decide(f, now)
		o = carryOut(f, &p)
		outlines = append(outlines, outlineOf(&p))
	}
	last := outlines[2]
	if done := (outline{phase: last.phase, problem: last.problem, token: last.token, reissue: last.problem != "" && last.reissue}); last != done {
		t.Errorf("seed %d: it does not end: %+v", seed, outlines)
	}
	return p, o
}

// What has been done leads to where nothing is left to do, from whatever state the cluster was found in.
func TestDecideEndsWhereNothingIsLeftToDo(t *testing.T) {
	states(manyStates, func(seed int, f *Facts) {
		p, o := settle(t, seed, f)
		if f.NodeBootstrap == nil {
			if len(f.TokenSecrets) > 0 {
				t.Errorf("seed %d: a token is left without a NodeBootstrap", seed)
			}
			return
		}
		live := 0
		for _, s := range f.TokenSecrets {
			if made, ok := ParseToken(s); ok && made.Live(now) {
				live++
			}
		}
		switch {
		case p.Phase == Awaited && p.Problem == nil && (live < 1 || live > 2 || !o.Published),
			p.Phase == Joined && live > 0, p.Phase == DeadlineExceeded && live > 0:
			t.Errorf("seed %d: %d tokens are live at the end: %+v", seed, live, outlineOf(&p))
		}
		before := f.NodeBootstrap.Status.DeepCopy()
		after := Report(f, &p, o, now)
		if got, want := asJSON(after), asJSON(before); got != want {
			t.Errorf("seed %d: the status flaps from\n%s to\n%s", seed, want, got)
		}
		if events := Events(before, after); len(events) > 0 {
			t.Errorf("seed %d: told again: %v", seed, events)
		}
	})
}

func TestStatusAndEventsGiveNothingAway(t *testing.T) {
	states(manyStates, func(_ int, f *Facts) {
		if f.NodeBootstrap == nil {
			return
		}
		before := f.NodeBootstrap.Status.DeepCopy()
		p := Decide(f, now)
		carryOut(f, &p)
		leaks(t, "the status", asJSON(f.NodeBootstrap.Status))
		leaks(t, "an event", asJSON(Events(before, &f.NodeBootstrap.Status)))
		for _, d := range p.Decisions {
			leaks(t, "a verdict", d.Result.Message)
		}
	})
}
