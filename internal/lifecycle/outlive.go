// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// Kubernetes cannot revoke a certificate. This file finds certificates that were issued with a token that the operator revokes or has
// revoked.

// outlivesToken reports whether a CSR has its certificate and a plan deletes its token before the node has joined with it. An expired
// token is not revoked, and the machine can still join.
func (p *Plan) outlivesToken(f *Facts, r *certificatesv1.CertificateSigningRequest, now time.Time) bool {
	_, approved := csr.ApprovedAt(r)
	return approved && csr.Issued(r) && p.Phase != Joined && slices.ContainsFunc(p.DeleteTokens, func(s *corev1.Secret) bool {
		t, ok := token.Parse(s)
		return ok && t.ID == token.IDOfUser(r.Spec.Username) && t.Live(now) && (f.NodeBootstrap == nil || f.current(t))
	})
}

// noteOutliving finds the certificates whose tokens the plan revokes.
func (p *Plan) noteOutliving(f *Facts, now time.Time) {
	for _, r := range f.Requests {
		if p.outlivesToken(f, r, now) {
			p.Outliving = append(p.Outliving, r)
		}
	}
	if f.NodeBootstrap == nil {
		return
	}
	for _, c := range f.NodeBootstrap.Status.UnrevokedCertificates { // the condition ends with the certificate
		if now.Before(c.ExpirationTime.Time) {
			p.RequeueBy(c.ExpirationTime.Time)
		}
	}
}

// DenyBeforeDeletion is the denial that a CSR gets before it is deleted; nil if it has a verdict, or if the operator may not decide for
// its signer. A CSR that a finalizer keeps could still be approved; a denied one cannot (pkg/apis/certificates/validation).
func (p *Plan) DenyBeforeDeletion(r *certificatesv1.CertificateSigningRequest) *Decision {
	if !csr.Undecided(r) || !csr.MayDecide(r.Spec.SignerName) {
		return nil
	}
	result := csr.Result{Reason: decisions.ReasonTokenRevoked, Message: "the bootstrap token that this request was sent with is revoked"}
	for _, d := range p.Decisions {
		if d.Request == r {
			result = d.Result
		}
	}
	result.Verdict = csr.Deny
	return &Decision{Request: r, Result: result}
}
