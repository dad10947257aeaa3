// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// carryOut changes facts as the operator changes a cluster when no error occurs, and stores the status.
func carryOut(f *lifecycle.Facts, p *lifecycle.Plan) *status.Outcome {
	nodetest.Claim(f, p)
	return finish(f, p)
}

// finish is carryOut after the claim. The status is a report on the facts before the plan was carried out.
func finish(f *lifecycle.Facts, p *lifecycle.Plan) *status.Outcome {
	o := &status.Outcome{Token: p.Token, Revoked: true, Acceptance: status.Accepted}
	var minted *corev1.Secret
	if p.MintReason != "" {
		minted = token.NewSecret(f.NodeBootstrap, token.NextID(f.NodeBootstrap.UID, p.LastTokenID), nodetest.Canary, nodetest.Now.Add(f.NodeBootstrap.Spec.TokenTTL()))
		minted.CreationTimestamp = nodetest.Ago(0)
		t, _ := token.Parse(minted)
		o.Token = &t
	}
	text := f.Kubeconfig
	if o.Token != nil && p.Problem == nil {
		text = nodetest.Must(kubeconfig.NewSecret(f.NodeBootstrap, f.Namespace, f.Cluster, *o.Token))
	}
	o.Published = o.Token != nil && kubeconfig.Carries(text, *o.Token)
	if f.NodeBootstrap != nil {
		f.NodeBootstrap.Status = *status.Report(f, p, o, nodetest.Now)
	}
	f.Kubeconfig = text
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

// reconcile decides on facts, carries the plan out, and collects the events, at the claim and at the end.
func reconcile(f *lifecycle.Facts) (lifecycle.Plan, *status.Outcome, []status.Event) {
	p := nodetest.Decide(f, nodetest.Now)
	if f.NodeBootstrap == nil {
		return p, carryOut(f, &p), nil
	}
	before := f.NodeBootstrap.Status.DeepCopy()
	nodetest.Claim(f, &p)
	claimed := f.NodeBootstrap.Status.DeepCopy()
	o := finish(f, &p)
	return p, o, append(status.Events(before, claimed), status.Events(claimed, &f.NodeBootstrap.Status)...)
}

// revoke is the second step.
func revoke(f *lifecycle.Facts, p *lifecycle.Plan) {
	f.TokenSecrets = slices.DeleteFunc(slices.Clone(f.TokenSecrets), func(s *corev1.Secret) bool {
		return slices.ContainsFunc(p.DeleteTokens, func(d lifecycle.TokenDeletion) bool { return d.Secret == s })
	})
	f.Requests = slices.DeleteFunc(slices.Clone(f.Requests), func(r *certificatesv1.CertificateSigningRequest) bool {
		return slices.ContainsFunc(p.DeleteRequests, func(d lifecycle.RequestDeletion) bool { return d.Request == r })
	})
	if p.DeleteKubeconfig != nil {
		f.Kubeconfig = nil
	}
}

// carryOutVerdicts is the third step.
func carryOutVerdicts(p *lifecycle.Plan) {
	for _, d := range p.Decisions {
		switch d.Result.Verdict {
		case csr.Approve:
			nodetest.Approved(0)(d.Request)
		case csr.Deny:
			nodetest.Decided(certificatesv1.CertificateDenied, 0)(d.Request)
		case csr.Leave, csr.Wait: // only recorded
			continue
		}
		nodetest.Reason(d.Result.Reason)(d.Request)
	}
}
