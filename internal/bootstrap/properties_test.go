// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"slices"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// manyStates are enough for every pair of choices to be met many times, in a second or two.
const manyStates = 2_000

func clusterWide(f *Facts) bool {
	return f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide
}

// alarming reports whether an alarm stands with a plan, that tokens are withdrawn for.
func alarming(f *Facts, p *Plan) bool {
	return f.NodeBootstrap != nil && p.Phase != Joined && !clusterWide(f) && (p.Misuse != nil || f.misused())
}

// unclaimed reports whether no key was approved with a token before this pass.
func unclaimed(f *Facts, tokenID string) bool {
	key, _ := claimOf(f, tokenID)
	return key == ""
}

// ofTokens are the decisions on requests that were sent with a token.
func ofTokens(p *Plan) []Decision {
	return slices.DeleteFunc(slices.Clone(p.Decisions), func(d Decision) bool { return d.Record.UID == "" })
}

// recordedOf are the decisions that are recorded, and those of a plan.
func recordedOf(f *Facts, p *Plan) []v1alpha1.CertificateDecision {
	var out []v1alpha1.CertificateDecision
	if f.NodeBootstrap != nil {
		out = slices.Clone(f.NodeBootstrap.Status.Certificates)
	}
	for _, d := range ofTokens(p) {
		out = append(out, d.Record)
	}
	return out
}

func all[T any](list []T, holds func(T) bool) bool {
	return !slices.ContainsFunc(list, func(v T) bool { return !holds(v) })
}

// rules hold for every plan, whatever the facts.
var rules = map[string]func(*Facts, *Plan) bool{
	"a token is kept or deleted, not both": func(f *Facts, p *Plan) bool {
		for _, kept := range p.Keep {
			if slices.Contains(p.DeleteTokens, kept.Object) {
				return false
			}
		}
		return len(p.Keep)+len(p.DeleteTokens) == len(f.TokenSecrets)
	},
	"only what is kept is repaired": func(_ *Facts, p *Plan) bool {
		return all(p.RepairTokens, func(s *corev1.Secret) bool {
			return slices.ContainsFunc(p.Keep, func(k Token) bool { return k.Object.Name == s.Name })
		})
	},
	"nothing is minted while there is a problem": func(_ *Facts, p *Plan) bool { return p.Problem == nil || p.MintAfter == nil },
	"nothing is left without a NodeBootstrap or after joining": func(f *Facts, p *Plan) bool {
		return p.Phase != Gone && p.Phase != Joined ||
			len(p.DeleteTokens) == len(f.TokenSecrets) && p.MintAfter == nil && p.Token == nil && len(ofTokens(p)) == 0 &&
				(p.Misuse == nil || p.Phase == Joined && p.Misuse.Reason == csr.ReasonSecondKey && f.NodeBootstrap.Status.AwaitingSince != nil) &&
				all(f.Requests, func(r *certificatesv1.CertificateSigningRequest) bool {
					return issued(r) || requestCondition(r, "Denied") != nil || slices.Contains(p.DeleteRequests, r)
				})
	},
	"what is not ours stays": func(f *Facts, p *Plan) bool {
		return p.DeleteKubeconfig == nil || Ours(p.DeleteKubeconfig, f.Name)
	},
	"a kubeconfig stays while a token does, and no longer": func(f *Facts, p *Plan) bool {
		hasOurs := f.Kubeconfig != nil && Ours(f.Kubeconfig, f.Name)
		return (p.DeleteKubeconfig != nil) == (hasOurs && p.Token == nil && p.MintAfter == nil)
	},
	"it waits for what it does not do now": func(_ *Facts, p *Plan) bool { return p.Token == nil || p.RequeueAt.After(now) },

	"one key is approved for a token and as many as may replace it, by approval Node alone": func(f *Facts, p *Plan) bool {
		byToken := map[string][]string{}
		for _, d := range ofTokens(p) {
			if d.Result.Verdict != csr.Approve {
				continue
			}
			keys, seen := byToken[d.Record.TokenID]
			if !seen {
				for _, c := range claimsOf(f, d.Record.TokenID, nil) {
					keys = append(keys, c.key)
				}
			}
			if i := slices.Index(keys, d.Record.KeyFingerprint); i >= 0 && i < 1+f.NodeBootstrap.Spec.ReplacementKeys() {
				continue
			}
			if len(keys) > f.NodeBootstrap.Spec.ReplacementKeys() {
				return false
			}
			byToken[d.Record.TokenID] = append(keys, d.Record.KeyFingerprint)
			if f.NodeBootstrap.Spec.ApprovalMode() != v1alpha1.ApprovalNode || d.Record.Verdict != v1alpha1.VerdictApproved {
				return false
			}
		}
		return true
	},
	"what is approved was sent with a kept token, for this node": func(f *Facts, p *Plan) bool {
		return all(ofTokens(p), func(d Decision) bool {
			return d.Result.Verdict != csr.Approve ||
				p.liveToken(d.Record.TokenID) != nil && f.concerns(d.Request) && TokenIDOfUser(d.Request.Spec.Username) == d.Record.TokenID
		})
	},
	"what is denied was sent with a token that is there": func(f *Facts, p *Plan) bool {
		return all(ofTokens(p), func(d Decision) bool {
			return d.Result.Verdict != csr.Deny || d.Record.Verdict == v1alpha1.VerdictDenied &&
				slices.ContainsFunc(f.TokenSecrets, func(s *corev1.Secret) bool { return s.Name == TokenSecretName(d.Record.TokenID) })
		})
	},
	"what is only written down": func(_ *Facts, p *Plan) bool {
		return all(ofTokens(p), func(d Decision) bool {
			switch _, approved := approvedAt(d.Request); {
			case d.Result.Verdict != csr.Leave:
				return undecided(d.Request) && !slices.Contains(p.DeleteRequests, d.Request)
			case d.Record.Verdict == v1alpha1.VerdictDenied && !undecided(d.Request): // by someone else
				return Misuse(d.Record.Reason) && !deniedByUs(d.Request)
			case d.Record.Verdict == v1alpha1.VerdictDenied:
				return d.Record.Reason == csr.ReasonWrongSigner && slices.Contains(p.DeleteRequests, d.Request)
			case d.Record.Verdict == v1alpha1.VerdictApproved:
				return (approved || issued(d.Request)) && (Misuse(d.Record.Reason) || d.Record.Reason == csr.ReasonKeyReplaced)
			default:
				return d.Record.Verdict == v1alpha1.VerdictIgnored && (d.Record.Reason == ReasonTooManyRequests || d.Record.Reason == ReasonTooManyKeys)
			}
		})
	},
	"another signer's requests are not decided on": func(_ *Facts, p *Plan) bool {
		return all(ofTokens(p), func(d Decision) bool {
			return d.Record.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName || d.Result.Verdict == csr.Leave
		})
	},
	"nothing is decided on or deleted twice": func(_ *Facts, p *Plan) bool {
		seen := map[*certificatesv1.CertificateSigningRequest]bool{}
		for _, d := range p.Decisions {
			if seen[d.Request] {
				return false
			}
			seen[d.Request] = true
		}
		for i, r := range p.DeleteRequests {
			if slices.Contains(p.DeleteRequests[:i], r) || issued(r) {
				return false
			}
		}
		return true
	},
	"eight decisions and no more for a token, and one that says so": func(f *Facts, p *Plan) bool {
		return all([]int{1, 2, 3}, func(n int) bool {
			decided, ignored := map[types.UID]bool{}, map[types.UID]bool{}
			for _, d := range recordedOf(f, p) {
				if d.TokenID == nthID(n) {
					decided[d.UID] = true
				}
				if d.TokenID == nthID(n) && d.Verdict == v1alpha1.VerdictIgnored {
					ignored[d.UID] = true
				}
			}
			return len(decided)-len(ignored) <= maxDecisionsPerToken && len(ignored) <= 1
		})
	},
	"with approval ClusterWide nothing is decided on": func(f *Facts, p *Plan) bool {
		return f.NodeBootstrap == nil || !clusterWide(f) || p.Phase != Withdrawn && all(ofTokens(p), func(d Decision) bool { return d.Result.Verdict == csr.Leave })
	},

	"evidence is recorded": func(_ *Facts, p *Plan) bool {
		evidence := slices.IndexFunc(p.Decisions, func(d Decision) bool { return Misuse(d.Record.Reason) })
		if p.Phase == Joined { // the use of the key that was approved makes what is recorded evidence, or what is deleted now
			return evidence < 0
		}
		if p.Misuse == nil || evidence < 0 {
			return p.Misuse == nil && evidence < 0
		}
		return p.Misuse.Reason == p.Decisions[evidence].Record.Reason
	},
	"no token without a claim survives an alarm, and none is made": func(f *Facts, p *Plan) bool {
		return !alarming(f, p) || p.MintAfter == nil && all(p.Keep, func(t Token) bool { return !unclaimed(f, t.ID) })
	},
	"nothing is approved while an alarm stands for a token without a claim": func(f *Facts, p *Plan) bool {
		return !alarming(f, p) || all(ofTokens(p), func(d Decision) bool {
			return d.Result.Verdict != csr.Approve || !unclaimed(f, d.Record.TokenID)
		})
	},
	"credentials are withdrawn for an alarm, and only then": func(f *Facts, p *Plan) bool {
		return (p.Phase == Withdrawn) == (alarming(f, p) && p.Token == nil)
	},

	"serving certificates are for what is declared alone": func(f *Facts, p *Plan) bool {
		return all(p.Decisions, func(d Decision) bool {
			return d.Record.UID != "" || d.Result.Verdict == csr.Deny ||
				d.Result.Verdict == csr.Approve && all(csr.RequestedAddresses(d.Request), func(a csr.Address) bool {
					return slices.Contains(f.NodeBootstrap.Spec.ServingCertificate.Addresses, a.Key())
				})
		})
	},
	"twenty serving certificates and no more are decided on": func(f *Facts, p *Plan) bool {
		decided := len(p.Decisions) - len(ofTokens(p))
		for _, r := range f.ServingRequests {
			if !undecided(r) {
				decided++
			}
		}
		return decided <= max(maxServingDecisions, len(f.ServingRequests)-len(newestUndecided(f.ServingRequests)))
	},

	"what is claimed is claimed once": func(f *Facts, p *Plan) bool {
		if f.NodeBootstrap == nil {
			return true
		}
		claimed := p.Claimed(f, now)
		if claimed == nil {
			return true
		}
		after := *f
		after.NodeBootstrap = f.NodeBootstrap.DeepCopy()
		after.NodeBootstrap.Status = *claimed
		return len(claimed.Certificates) <= maxTokenEntries+maxServingEntries && len(claimed.Tokens) <= 2 && (p.Misuse == nil || meta.IsStatusConditionTrue(claimed.Conditions, v1alpha1.ConditionTokenMisused)) &&
			p.Claimed(&after, now) == nil
	},
}

func TestDecideHoldsToItsRules(t *testing.T) {
	states(manyStates, func(seed int, f *Facts) {
		p := decide(f, now)
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
	for n := range 3 {
		var before *v1alpha1.NodeBootstrapStatus
		if f.NodeBootstrap != nil {
			before = f.NodeBootstrap.Status.DeepCopy()
		}
		var events []Event
		p, o, events = pass(f)
		outlines = append(outlines, outlineOf(&p))
		if live := liveTokens(f); live > 2 {
			t.Errorf("seed %d: %d tokens live after %+v", seed, live, outlines)
		}
		if before != nil {
			checkAlarm(t, fmt.Sprintf("seed %d, pass %d", seed, n), before, &f.NodeBootstrap.Status, &p, events)
		}
	}
	last := outlines[2]
	done := outline{phase: last.phase, problem: last.problem, token: last.token, reissue: last.problem != "" && last.reissue}
	if p.Serving != nil && p.Serving.Verdict == csr.Wait {
		done.serving = last.serving
	}
	if last != done {
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
		live := liveTokens(f)
		switch {
		case p.Phase == Awaited && p.Problem == nil && !p.MayBeMember && (live < 1 || live > 2 || !o.Published),
			p.Phase != Awaited && live > 0, p.Phase == Withdrawn && f.Kubeconfig != nil && Ours(f.Kubeconfig, f.Name):
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
