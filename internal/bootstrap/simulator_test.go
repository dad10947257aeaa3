// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"encoding/json"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// carryOut does to facts what the operator does to a cluster, when nothing goes wrong, and stores the status.
func carryOut(f *Facts, p *Plan) *Outcome {
	claim(f, p)
	return finish(f, p)
}

// finish is carryOut after the claim. The status is a report on the facts as they were read.
func finish(f *Facts, p *Plan) *Outcome {
	o := &Outcome{Token: p.Token, Acceptance: Accepted}
	var minted *corev1.Secret
	if p.MintAfter != nil {
		minted = TokenSecret(f.NodeBootstrap, NextTokenID(f.NodeBootstrap.UID, *p.MintAfter), canary, now.Add(f.NodeBootstrap.Spec.TokenTTL()))
		minted.CreationTimestamp = ago(0)
		t, _ := ParseToken(minted)
		o.Token = &t
	}
	kubeconfig := f.Kubeconfig
	if o.Token != nil && p.Problem == nil {
		kubeconfig = must(KubeconfigSecret(f.NodeBootstrap, f.Namespace, f.Cluster, *o.Token))
	}
	o.Published = o.Token != nil && Carries(kubeconfig, *o.Token)
	if f.NodeBootstrap != nil {
		f.NodeBootstrap.Status = *Report(f, p, o, now)
	}
	f.Kubeconfig = kubeconfig
	revoke(f, p)
	carryOutVerdicts(p)
	if minted != nil {
		f.TokenSecrets = append(f.TokenSecrets, minted)
	}
	for _, repaired := range p.RepairTokens {
		i := slices.IndexFunc(f.TokenSecrets, func(s *corev1.Secret) bool { return s.Name == repaired.Name })
		f.TokenSecrets[i] = repaired
	}
	return o
}

// pass decides on facts and carries the plan out, and collects what people are told, at the claim and at the end.
func pass(f *Facts) (Plan, *Outcome, []Event) {
	p := decide(f, now)
	if f.NodeBootstrap == nil {
		return p, carryOut(f, &p), nil
	}
	before := f.NodeBootstrap.Status.DeepCopy()
	claim(f, &p)
	claimed := f.NodeBootstrap.Status.DeepCopy()
	o := finish(f, &p)
	return p, o, append(Events(before, claimed), Events(claimed, &f.NodeBootstrap.Status)...)
}

// claim is the first step of carrying out a plan: the operator may crash after it, and after each further one.
func claim(f *Facts, p *Plan) {
	if f.NodeBootstrap == nil {
		return
	}
	if claimed := p.Claimed(f, now); claimed != nil {
		f.NodeBootstrap.Status = *claimed
	}
}

// revoke is the second step.
func revoke(f *Facts, p *Plan) {
	f.TokenSecrets = slices.DeleteFunc(slices.Clone(f.TokenSecrets), func(s *corev1.Secret) bool { return slices.Contains(p.DeleteTokens, s) })
	f.Requests = slices.DeleteFunc(slices.Clone(f.Requests), func(r *certificatesv1.CertificateSigningRequest) bool {
		return slices.Contains(p.DeleteRequests, r)
	})
	if p.DeleteKubeconfig != nil {
		f.Kubeconfig = nil
	}
}

// carryOutVerdicts is the third step.
func carryOutVerdicts(p *Plan) {
	for _, d := range p.Decisions {
		switch d.Result.Verdict {
		case csr.Approve:
			approved(0)(d.Request)
		case csr.Deny:
			decided(certificatesv1.CertificateDenied, 0)(d.Request)
		case csr.Leave, csr.Wait: // was only to be written down
			continue
		}
		reason(d.Result.Reason)(d.Request)
	}
}

func asJSON(v any) string { return string(must(json.Marshal(v))) }

func liveTokens(f *Facts) int {
	live := 0
	for _, s := range f.TokenSecrets {
		if made, ok := ParseToken(s); ok && made.Live(now) {
			live++
		}
	}
	return live
}
