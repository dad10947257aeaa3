// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"encoding/json"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// carryOut does to facts what the operator does to a cluster, when nothing goes wrong, and stores the status.
func carryOut(f *Facts, p *Plan) *Outcome {
	f.TokenSecrets = slices.DeleteFunc(slices.Clone(f.TokenSecrets), func(s *corev1.Secret) bool { return slices.Contains(p.DeleteTokens, s) })
	f.Requests = slices.DeleteFunc(slices.Clone(f.Requests), func(r *certificatesv1.CertificateSigningRequest) bool {
		return slices.Contains(p.DeleteRequests, r)
	})
	if p.DeleteKubeconfig != nil {
		f.Kubeconfig = nil
	}
	o := &Outcome{Token: p.Token, Acceptance: Accepted}
	if p.MintAfter != nil {
		s := TokenSecret(f.NodeBootstrap, NextTokenID(f.NodeBootstrap.UID, *p.MintAfter), canary, now.Add(f.NodeBootstrap.Spec.TokenTTL()))
		s.CreationTimestamp = ago(0)
		f.TokenSecrets = append(f.TokenSecrets, s)
		t, _ := ParseToken(s)
		o.Token = &t
	}
	for _, repaired := range p.RepairTokens {
		i := slices.IndexFunc(f.TokenSecrets, func(s *corev1.Secret) bool { return s.Name == repaired.Name })
		f.TokenSecrets[i] = repaired
	}
	if o.Token != nil && p.Problem == nil {
		f.Kubeconfig = must(KubeconfigSecret(f.NodeBootstrap, f.Namespace, f.Cluster, *o.Token))
	}
	o.Published = o.Token != nil && Carries(f.Kubeconfig, *o.Token)
	for _, d := range p.Decisions {
		condition := certificatesv1.CertificateApproved
		if d.Result.Verdict == csr.Deny {
			condition = certificatesv1.CertificateDenied
		}
		decided(condition, 0)(d.Request)
	}
	if f.NodeBootstrap != nil {
		f.NodeBootstrap.Status = *WithClaims(&f.NodeBootstrap.Status, p.Claims(f.NodeBootstrap))
		f.NodeBootstrap.Status = *Report(f, p, o, now)
	}
	return o
}

// A choice is one thing that may be so or so in a cluster.
type choice []func(*Facts)

func as(*Facts) {} // as it is

// choices make up the states that a cluster may be found in: after a crash, an edit, a restore from a backup.
var choices = []choice{
	{as, func(f *Facts) { f.NodeBootstrap = nil }},
	{ // tokens
		as,
		func(f *Facts) { f.addToken(1, young) },
		func(f *Facts) { f.addToken(1, due) },
		func(f *Facts) { f.addToken(1, old) },
		func(f *Facts) { f.addToken(2, young); f.addToken(1, due) },
		func(f *Facts) { f.addToken(2, due); f.addToken(1, old) },
		func(f *Facts) { f.addToken(3, young); f.addToken(1, 3*young); f.addToken(2, 2*young) },
		func(f *Facts) { f.addToken(1, young); f.TokenSecrets[0].Data["token-secret"] = nil },
		func(f *Facts) { f.addToken(1, young); f.TokenSecrets[0].OwnerReferences[0].UID = formerUID },
		func(f *Facts) { f.addToken(1, young); delete(f.TokenSecrets[0].Data, "auth-extra-groups") },
		func(f *Facts) { f.addToken(1, young); delete(f.TokenSecrets[0].Data, "expiration") },
	},
	{ // what the status says
		as,
		func(f *Facts) { setStatus(f, statusOf(1, young)) },
		func(f *Facts) { setStatus(f, statusOf(2, young)) },
		func(f *Facts) { setStatus(f, joinedBefore().NodeBootstrap.Status) },
	},
	{as, noCluster},
	{as, func(f *Facts) { f.Kubeconfig = kubeconfigSecret(1) }, func(f *Facts) { f.Kubeconfig = foreignKubeconfig() }},
	{as, func(f *Facts) { f.Node = nodeMade(old) }, func(f *Facts) { f.Node = nodeMade(0) }},
	{as, func(f *Facts) { f.NodeReported = true }},
	{as, func(f *Facts) { f.LeaseRenewed = now }},
	{ // requests
		as,
		with(request("csr-a", 1, minutes(1))),
		with(request("csr-a", 1, minutes(1), forNode("worker-2")), request("csr-b", 1, 0), request("csr-c", 1, 0)),
		with(request("csr-a", 1, minutes(1), approved(minutes(1)))),
		with(request("csr-a", 1, minutes(1), approved(minutes(1)), withCertificate)),
		with(request("csr-a", 7, minutes(1), approved(minutes(1)))),
		with(request("csr-a", 7, minutes(1)), request("csr-b", 2, 0)),
	},
	{as, onNodeBootstrap(approval(v1alpha1.ApprovalManual)), onNodeBootstrap(approval(v1alpha1.ApprovalClusterWide))},
	{as, onNodeBootstrap(deadlineAfter(time.Minute))},
	{as, onNodeBootstrap(askReissue), onNodeBootstrap(func(f *Facts) {
		askReissue(f)
		f.NodeBootstrap.Status.LastHandledReissueAt = reissueAt
	})},
}

func setStatus(f *Facts, s v1alpha1.NodeBootstrapStatus) {
	if f.NodeBootstrap != nil {
		f.NodeBootstrap.Status = s
	}
}

func onNodeBootstrap(edit func(*Facts)) func(*Facts) {
	return func(f *Facts) {
		if f.NodeBootstrap != nil {
			edit(f)
		}
	}
}

// states calls f with a seed for each of many of the states, evenly chosen, since there are half a million.
func states(count int, f func(seed int, facts *Facts)) {
	all := 1
	for _, c := range choices {
		all *= len(c)
	}
	const prime = 1_299_709
	for i := range count {
		seed := i * prime % all
		f(seed, state(seed))
	}
}

// state is the facts of a seed.
func state(seed int) *Facts {
	f := fresh()
	for _, c := range choices {
		c[seed%len(c)](f)
		seed /= len(c)
	}
	f.Requests = slices.Clone(f.Requests)
	for i, r := range f.Requests { // what carries out a plan writes to them
		f.Requests[i] = r.DeepCopy()
	}
	return f
}

func asJSON(v any) string { return string(must(json.Marshal(v))) }
