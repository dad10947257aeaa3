// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"slices"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

func clusterWide(f *lifecycle.Facts) bool {
	return f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide
}

// pins reports whether a key is pinned for an awaited node.
func pins(f *lifecycle.Facts, p *lifecycle.Plan) bool {
	return f.NodeBootstrap != nil && p.Phase != lifecycle.Joined && f.NodeBootstrap.Spec.PinnedKey() != ""
}

func isPinned(f *lifecycle.Facts, r *certificatesv1.CertificateSigningRequest) bool {
	key, err := csr.Fingerprint(r)
	return err == nil && key == f.NodeBootstrap.Spec.PinnedKey()
}

// alarming reports whether a plan runs with an alarm that withdraws tokens. With a pinned key none does.
func alarming(f *lifecycle.Facts, p *lifecycle.Plan) bool {
	return f.NodeBootstrap != nil && p.Phase != lifecycle.Joined && !clusterWide(f) && !pins(f, p) && (p.Misuse != nil || f.Misused())
}

// unclaimed reports whether no key was approved with a token before this reconcile.
func unclaimed(f *lifecycle.Facts, tokenID string) bool {
	key, _ := claimOf(f, tokenID)
	return key == ""
}

// ofTokens are the decisions on CSRs that were sent with a token.
func ofTokens(p *lifecycle.Plan) []lifecycle.Decision {
	return slices.DeleteFunc(slices.Clone(p.Decisions), func(d lifecycle.Decision) bool { return d.Record.UID == "" })
}

// recordedOf are the recorded decisions and those of a plan.
func recordedOf(f *lifecycle.Facts, p *lifecycle.Plan) []v1alpha1.CertificateDecision {
	var out []v1alpha1.CertificateDecision
	if f.NodeBootstrap != nil {
		out = slices.Clone(f.NodeBootstrap.Status.Certificates)
	}
	for _, d := range ofTokens(p) {
		out = append(out, d.Record)
	}
	return out
}

// deletes reports whether a plan deletes a CSR.
func deletes(p *lifecycle.Plan, r *certificatesv1.CertificateSigningRequest) bool {
	return slices.ContainsFunc(p.DeleteRequests, func(d lifecycle.RequestDeletion) bool { return d.Request == r })
}

func all[T any](list []T, holds func(T) bool) bool {
	return !slices.ContainsFunc(list, func(v T) bool { return !holds(v) })
}

// rules hold for every plan, whatever the facts.
var rules = map[string]func(*lifecycle.Facts, *lifecycle.Plan) bool{
	"a token is kept or deleted, not both": func(f *lifecycle.Facts, p *lifecycle.Plan) bool {
		for _, kept := range p.Keep {
			if slices.ContainsFunc(p.DeleteTokens, func(d lifecycle.TokenDeletion) bool { return d.Secret == kept.Object }) {
				return false
			}
		}
		return len(p.Keep)+len(p.DeleteTokens) == len(f.TokenSecrets)
	},
	"only kept tokens are repaired": func(_ *lifecycle.Facts, p *lifecycle.Plan) bool {
		return all(p.RepairTokens, func(s *corev1.Secret) bool {
			return slices.ContainsFunc(p.Keep, func(k token.Token) bool { return k.Object.Name == s.Name })
		})
	},
	"nothing is minted while a problem exists": func(_ *lifecycle.Facts, p *lifecycle.Plan) bool { return p.Problem == nil || p.MintReason == "" },
	"nothing is left without a NodeBootstrap or after joining": func(f *lifecycle.Facts, p *lifecycle.Plan) bool {
		return p.Phase != lifecycle.Gone && p.Phase != lifecycle.Joined ||
			len(p.DeleteTokens) == len(f.TokenSecrets) && p.MintReason == "" && p.Token == nil && len(ofTokens(p)) == 0 &&
				(p.Misuse == nil || p.Phase == lifecycle.Joined && p.Misuse.Reason == csr.ReasonSecondKey && f.NodeBootstrap.Status.AwaitingSince != nil) &&
				all(f.Requests, func(r *certificatesv1.CertificateSigningRequest) bool {
					return csr.Issued(r) || csr.Condition(r, "Denied") != nil || deletes(p, r)
				})
	},
	"objects of others stay": func(f *lifecycle.Facts, p *lifecycle.Plan) bool {
		return p.DeleteKubeconfig == nil || owned.Ours(p.DeleteKubeconfig, f.Name)
	},
	"a kubeconfig stays while a token does, and no longer": func(f *lifecycle.Facts, p *lifecycle.Plan) bool {
		hasOurs := f.Kubeconfig != nil && owned.Ours(f.Kubeconfig, f.Name)
		return (p.DeleteKubeconfig != nil) == (hasOurs && p.Token == nil && p.MintReason == "")
	},
	"it requeues for what it does later": func(_ *lifecycle.Facts, p *lifecycle.Plan) bool {
		return p.Token == nil || p.RequeueAt.After(nodetest.Now)
	},

	"one key is approved for a token and as many as may replace it, only by approval Node": func(f *lifecycle.Facts, p *lifecycle.Plan) bool {
		byToken := map[string][]string{}
		for _, d := range ofTokens(p) {
			if d.Result.Verdict != csr.Approve || pins(f, p) && isPinned(f, d.Request) {
				continue
			}
			keys, seen := byToken[d.Record.TokenID]
			if !seen {
				for _, c := range lifecycle.ClaimsOf(f, d.Record.TokenID, nil) {
					keys = append(keys, c.Key())
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
	"approved CSRs were sent with a kept token, for this node": func(f *lifecycle.Facts, p *lifecycle.Plan) bool {
		return all(ofTokens(p), func(d lifecycle.Decision) bool {
			return d.Result.Verdict != csr.Approve ||
				p.LiveToken(d.Record.TokenID) != nil && f.Concerns(d.Request) && token.IDOfUser(d.Request.Spec.Username) == d.Record.TokenID
		})
	},
	"denied CSRs were sent with an existing token": func(f *lifecycle.Facts, p *lifecycle.Plan) bool {
		return all(ofTokens(p), func(d lifecycle.Decision) bool {
			return d.Result.Verdict != csr.Deny || d.Record.Verdict == v1alpha1.VerdictDenied &&
				slices.ContainsFunc(f.TokenSecrets, func(s *corev1.Secret) bool { return s.Name == token.SecretName(d.Record.TokenID) })
		})
	},
	"some decisions are only recorded": func(_ *lifecycle.Facts, p *lifecycle.Plan) bool {
		return all(ofTokens(p), func(d lifecycle.Decision) bool {
			switch _, approved := csr.ApprovedAt(d.Request); {
			case d.Result.Verdict != csr.Leave:
				return csr.Undecided(d.Request) && !deletes(p, d.Request)
			case d.Record.Verdict == v1alpha1.VerdictDenied && !csr.Undecided(d.Request): // by someone else
				return decisions.Misuse(d.Record.Reason) && !decisions.DeniedByUs(d.Request)
			case d.Record.Verdict == v1alpha1.VerdictDenied:
				return d.Record.Reason == csr.ReasonWrongSigner && deletes(p, d.Request)
			case d.Record.Verdict == v1alpha1.VerdictApproved:
				return (approved || csr.Issued(d.Request)) && (decisions.Misuse(d.Record.Reason) || d.Record.Reason == csr.ReasonKeyReplaced)
			default:
				return d.Record.Verdict == v1alpha1.VerdictIgnored && (d.Record.Reason == decisions.ReasonTooManyRequests || d.Record.Reason == decisions.ReasonTooManyKeys)
			}
		})
	},
	"another signer's CSRs are not decided": func(_ *lifecycle.Facts, p *lifecycle.Plan) bool {
		return all(ofTokens(p), func(d lifecycle.Decision) bool {
			return d.Record.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName || d.Result.Verdict == csr.Leave
		})
	},
	"nothing is decided or deleted twice": func(_ *lifecycle.Facts, p *lifecycle.Plan) bool {
		seen := map[*certificatesv1.CertificateSigningRequest]bool{}
		for _, d := range p.Decisions {
			if seen[d.Request] {
				return false
			}
			seen[d.Request] = true
		}
		deleted := map[*certificatesv1.CertificateSigningRequest]bool{}
		for _, d := range p.DeleteRequests {
			if deleted[d.Request] || csr.Issued(d.Request) {
				return false
			}
			deleted[d.Request] = true
		}
		return true
	},
	"eight decisions and no more for a token, and one that records it, apart from the pinned key": func(f *lifecycle.Facts, p *lifecycle.Plan) bool {
		return all([]int{1, 2, 3}, func(n int) bool {
			decided, ignored := map[types.UID]bool{}, map[types.UID]bool{}
			for _, d := range recordedOf(f, p) {
				if pins(f, p) && d.Verdict == v1alpha1.VerdictApproved && d.KeyFingerprint == f.NodeBootstrap.Spec.PinnedKey() {
					continue
				}
				if d.TokenID == nodetest.NthID(n) {
					decided[d.UID] = true
				}
				if d.TokenID == nodetest.NthID(n) && d.Verdict == v1alpha1.VerdictIgnored {
					ignored[d.UID] = true
				}
			}
			return len(decided)-len(ignored) <= decisions.MaxDecisionsPerToken && len(ignored) <= 1
		})
	},
	"with approval ClusterWide nothing is decided": func(f *lifecycle.Facts, p *lifecycle.Plan) bool {
		return f.NodeBootstrap == nil || !clusterWide(f) || p.Phase != lifecycle.Withdrawn && all(ofTokens(p), func(d lifecycle.Decision) bool { return d.Result.Verdict == csr.Leave })
	},

	"evidence is recorded": func(_ *lifecycle.Facts, p *lifecycle.Plan) bool {
		evidence := slices.IndexFunc(p.Decisions, func(d lifecycle.Decision) bool { return decisions.Misuse(d.Record.Reason) })
		if p.Phase == lifecycle.Joined { // the use of the approved key turns a recorded decision, or a CSR deleted now, into evidence
			return evidence < 0
		}
		if p.Misuse == nil || evidence < 0 {
			return p.Misuse == nil && evidence < 0
		}
		return p.Misuse.Reason == p.Decisions[evidence].Record.Reason
	},
	"no token without a claim survives an alarm, and none is created": func(f *lifecycle.Facts, p *lifecycle.Plan) bool {
		return !alarming(f, p) || p.MintReason == "" && all(p.Keep, func(t token.Token) bool { return !unclaimed(f, t.ID) })
	},
	"nothing is approved while an alarm is raised for a token without a claim": func(f *lifecycle.Facts, p *lifecycle.Plan) bool {
		return !alarming(f, p) || all(ofTokens(p), func(d lifecycle.Decision) bool {
			return d.Result.Verdict != csr.Approve || !unclaimed(f, d.Record.TokenID)
		})
	},
	"credentials are withdrawn for an alarm, and only then": func(f *lifecycle.Facts, p *lifecycle.Plan) bool {
		return (p.Phase == lifecycle.Withdrawn) == (alarming(f, p) && p.Token == nil)
	},

	"with a pinned key, nothing else is approved": func(f *lifecycle.Facts, p *lifecycle.Plan) bool {
		return !pins(f, p) || all(ofTokens(p), func(d lifecycle.Decision) bool {
			return d.Pinned == (d.Result.Verdict == csr.Approve) && (!d.Pinned || isPinned(f, d.Request) && len(f.PinnedElsewhere) == 0)
		})
	},
	"with a pinned key, nothing is revoked for misuse": func(f *lifecycle.Facts, p *lifecycle.Plan) bool {
		return !pins(f, p) || p.Phase != lifecycle.Withdrawn && all(f.Keep(nodetest.Now), func(t token.Token) bool {
			return p.LiveToken(t.ID) != nil || p.MintReason != "" // only renewal replaces a predecessor
		})
	},
	"the pinned key is approved, unless a person approves, it is pinned twice, or another node has it": func(f *lifecycle.Facts, p *lifecycle.Plan) bool {
		mayApprove := pins(f, p) && len(f.PinnedElsewhere) == 0 && f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalNode && len(f.KeysElsewhere) == 0
		return all(f.Requests, func(r *certificatesv1.CertificateSigningRequest) bool {
			sound := f.Concerns(r) && csr.Undecided(r) && r.Spec.ExpirationSeconds == nil
			if !mayApprove || !sound || !isPinned(f, r) || p.LiveToken(token.IDOfUser(r.Spec.Username)) == nil {
				return true
			}
			return slices.ContainsFunc(p.Decisions, func(d lifecycle.Decision) bool {
				return d.Request == r && d.Pinned && d.Result.Verdict == csr.Approve && d.Record.Verdict == v1alpha1.VerdictApproved
			})
		})
	},

	"serving certificates are only for declared addresses": func(f *lifecycle.Facts, p *lifecycle.Plan) bool {
		return all(p.Decisions, func(d lifecycle.Decision) bool {
			return d.Record.UID != "" || d.Result.Verdict == csr.Deny ||
				d.Result.Verdict == csr.Approve && all(csr.RequestedAddresses(d.Request), func(a csr.Address) bool {
					return slices.Contains(f.NodeBootstrap.Spec.ServingCertificate.Addresses, a.Key())
				})
		})
	},
	"twenty serving certificates and no more are decided on": func(f *lifecycle.Facts, p *lifecycle.Plan) bool {
		decided := len(p.Decisions) - len(ofTokens(p))
		for _, r := range f.ServingRequests {
			if !csr.Undecided(r) {
				decided++
			}
		}
		return decided <= max(lifecycle.MaxServingDecisions, len(f.ServingRequests)-len(lifecycle.NewestUndecided(f.ServingRequests)))
	},

	"what is claimed is claimed once": func(f *lifecycle.Facts, p *lifecycle.Plan) bool {
		if f.NodeBootstrap == nil {
			return true
		}
		claimed := status.Claimed(p, f, nodetest.Now)
		if claimed == nil {
			return true
		}
		after := *f
		after.NodeBootstrap = f.NodeBootstrap.DeepCopy()
		after.NodeBootstrap.Status = *claimed
		return len(claimed.Certificates) <= decisions.MaxTokenEntries+decisions.MaxServingEntries && len(claimed.Tokens) <= 2 && (p.Misuse == nil || meta.IsStatusConditionTrue(claimed.Conditions, v1alpha1.ConditionTokenMisused)) &&
			status.Claimed(p, &after, nodetest.Now) == nil
	},
}

func TestDecideHoldsToItsRules(t *testing.T) {
	nodetest.States(nodetest.ManyStates, func(seed int, f *lifecycle.Facts) {
		p := nodetest.Decide(f, nodetest.Now)
		for name, holds := range rules {
			if !holds(f, &p) {
				t.Errorf("seed %d, %s: %+v", seed, name, nodetest.OutlineOf(&p))
			}
		}
	})
}

// After a crash that follows the claim, the decisions are the same, whatever happened to the token.
func TestClaimsSurviveTheirToken(t *testing.T) {
	for seed := range nodetest.ManyStates / 4 {
		f := nodetest.State(seed)
		if f.NodeBootstrap == nil {
			continue
		}
		p := nodetest.Decide(f, nodetest.Now)
		nodetest.Claim(f, &p)
		f.TokenSecrets = []*corev1.Secret{}
		again := nodetest.Decide(f, nodetest.Now)
		if n := len(ofTokens(&again)); n > 0 || again.Misuse != nil {
			t.Errorf("seed %d: no token is left, but %d CSRs are decided: %+v", seed, n, nodetest.OutlineOf(&again))
		}
		if was := nodetest.AlarmOf(&f.NodeBootstrap.Status); was != nil && !f.ReissueDue() && !clusterWide(f) && !pins(f, &again) && again.Phase == lifecycle.Awaited {
			t.Errorf("seed %d: an alarm is raised, but the plan has a token: %+v", seed, nodetest.OutlineOf(&again))
		}
	}
}
