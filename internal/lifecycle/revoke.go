// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// Reasons for creating or revoking a token that no condition has.
const (
	// ReasonRenewed is the reason of a token whose predecessor expires soon.
	ReasonRenewed = "Renewed"
	// ReasonNodeBootstrapDeleted is the reason of a token that is revoked because the NodeBootstrap that it was created for no longer
	// exists.
	ReasonNodeBootstrapDeleted = "NodeBootstrapDeleted"
	// ReasonOwnerRemoved is the reason of a token that is revoked because its Secret no longer says which NodeBootstrap it belongs to.
	ReasonOwnerRemoved = "OwnerRemoved"
	// ReasonReplaced is the reason of a token that is revoked because another one replaced it, or its Secret was spoiled.
	ReasonReplaced = "Replaced"
)

// TokenDeletion is a token's Secret to be deleted, with the reason for the log.
type TokenDeletion struct {
	Secret *corev1.Secret
	Reason string
}

// RequestDeletion is a CSR to be deleted, with the reason for the log.
type RequestDeletion struct {
	Request *certificatesv1.CertificateSigningRequest
	Reason  string
	// Denial is the verdict that the CSR gets before it is deleted; nil for none.
	Denial *Decision
}

// deleteCredential deletes everything that belongs to a credential.
func (p *Plan) deleteCredential(f *Facts, phase Phase) {
	p.Phase = phase
	for _, s := range f.TokenSecrets {
		p.deleteToken(f, s, time.Time{})
	}
	p.deleteKubeconfig(f)
	p.decideRequests(f, time.Time{}) // no token is left, so the time does not matter
}

func (p *Plan) deleteKubeconfig(f *Facts) {
	if f.Kubeconfig != nil && owned.Ours(f.Kubeconfig, f.Name) {
		p.DeleteKubeconfig = f.Kubeconfig
	}
}

func (p *Plan) deleteToken(f *Facts, s *corev1.Secret, now time.Time) {
	p.DeleteTokens = append(p.DeleteTokens, TokenDeletion{s, p.whyRevoked(f, s, now)})
}

// whyRevoked is the reason for revoking the token of a Secret, for the log.
func (p *Plan) whyRevoked(f *Facts, s *corev1.Secret, now time.Time) string {
	nb := f.NodeBootstrap
	t, ok := token.Parse(s)
	switch {
	case nb == nil:
		return ReasonNodeBootstrapDeleted
	case p.Phase == Joined:
		return v1alpha1.ReasonJoined
	case owned.NodeOf(s) == "":
		return ReasonOwnerRemoved
	case !owned.By(s, nb):
		return ReasonNodeBootstrapDeleted
	case ok && !t.Live(now):
		return csr.ReasonTokenExpired
	case p.Misuse == nil && !f.Trusts(t):
		return v1alpha1.ReasonReissued
	case f.ClusterWideRefused():
		return v1alpha1.ReasonClusterWideNotAllowed
	case p.Misuse != nil || meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionTokenMisused):
		return v1alpha1.ReasonTokenMisused
	default:
		return ReasonReplaced
	}
}

// tokenRevoked is the result for a CSR that is deleted because its token is.
var tokenRevoked = csr.Result{Reason: decisions.ReasonTokenRevoked, Message: "the bootstrap token that this request was sent with is revoked"}

// deleteRequest deletes a CSR. If it waits for a verdict, and the operator may decide for its signer, it is denied first: a CSR that a
// finalizer keeps could still be approved; a denied one cannot (pkg/apis/certificates/validation).
func (p *Plan) deleteRequest(r *certificatesv1.CertificateSigningRequest, why csr.Result) {
	d := RequestDeletion{Request: r, Reason: why.Reason}
	if csr.Undecided(r) && csr.MayDecide(r.Spec.SignerName) {
		why.Verdict = csr.Deny
		d.Denial = &Decision{Request: r, Result: why}
	}
	p.DeleteRequests = append(p.DeleteRequests, d)
}

// noteTokenIDs makes the status name a token before it is deleted: after a crash in between, the next token would get its id, and the
// API server accepts a deleted token for ten seconds more.
func (p *Plan) noteTokenIDs(f *Facts) {
	if f.NodeBootstrap == nil {
		return
	}
	p.LastTokenID = f.lastTokenID()
	last := f.NodeBootstrap.Status.LastTokenID
	for _, t := range f.tokens() {
		deleted := slices.ContainsFunc(p.DeleteTokens, func(d TokenDeletion) bool { return d.Secret == t.Object })
		if deleted && token.Follows(f.NodeBootstrap.UID, t.ID, last) {
			p.Unrecorded, last = t.ID, t.ID
		}
	}
}

// noteOutliving finds the certificates whose tokens the plan revokes: Kubernetes cannot revoke a certificate.
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

// outlivesToken reports whether a CSR has its certificate and a plan deletes its token before the node has joined with it. An expired
// token is not revoked, and the machine can still join.
func (p *Plan) outlivesToken(f *Facts, r *certificatesv1.CertificateSigningRequest, now time.Time) bool {
	_, approved := csr.ApprovedAt(r)
	return approved && csr.Issued(r) && p.Phase != Joined && slices.ContainsFunc(p.DeleteTokens, func(d TokenDeletion) bool {
		t, ok := token.Parse(d.Secret)
		return ok && t.ID == token.IDOfUser(r.Spec.Username) && t.Live(now) && (f.NodeBootstrap == nil || f.current(t))
	})
}
