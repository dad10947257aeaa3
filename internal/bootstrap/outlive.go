// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// Kubernetes cannot revoke a certificate. What this file finds are certificates that are out although the operator revokes, or has
// revoked, what they were issued for.

// outlivesToken reports whether a request has its certificate and a plan deletes its token before the node has joined with it.
// An expired token is not revoked, and the machine may still join.
func (p *Plan) outlivesToken(f *Facts, r *certificatesv1.CertificateSigningRequest, now time.Time) bool {
	_, approved := approvedAt(r)
	return approved && issued(r) && p.Phase != Joined && slices.ContainsFunc(p.DeleteTokens, func(s *corev1.Secret) bool {
		t, ok := ParseToken(s)
		return ok && t.ID == TokenIDOfUser(r.Spec.Username) && t.Live(now) && (f.NodeBootstrap == nil || !f.spent(t))
	})
}

// noteOutliving finds the certificates that outlive what the plan revokes.
func (p *Plan) noteOutliving(f *Facts, now time.Time) {
	for _, r := range f.Requests {
		if p.outlivesToken(f, r, now) {
			p.Outliving = append(p.Outliving, r)
		}
	}
	if f.NodeBootstrap == nil {
		return
	}
	for _, d := range f.NodeBootstrap.Status.Certificates { // the condition ends with the certificate
		if d.ExpirationTime != nil && now.Before(d.ExpirationTime.Time) {
			p.RequeueBy(d.ExpirationTime.Time)
		}
	}
}

// recordOutliving notes when certificates expire that outlive what is revoked. It is stored before the token is deleted.
func (p *Plan) recordOutliving(record []v1alpha1.CertificateDecision) (_ []v1alpha1.CertificateDecision, changed bool) {
	for _, r := range p.Outliving {
		at, _ := approvedAt(r)
		d := entry(r, v1alpha1.VerdictApproved, approvalReason(r), at)
		i := decisionOn(record, d)
		switch {
		case i < 0:
			d.IssuedTime, d.ExpirationTime = &at, expiry(r)
			record, changed = appendDecisions(record, d), true
		case record[i].ExpirationTime == nil:
			record = slices.Clone(record)
			record[i].ExpirationTime, changed = expiry(r), true
		}
	}
	return record, changed
}

// recordLate notes certificates that were issued although the operator had denied the request or revoked its token: someone else
// approved the one, the signer was faster than the deletion with the other. It also notes those of keys that were replaced.
func (r *report) recordLate() {
	for _, q := range r.f.Requests {
		i := slices.IndexFunc(r.new.Certificates, func(d v1alpha1.CertificateDecision) bool { return d.UID == q.UID })
		if i < 0 || !issued(q) || r.new.Certificates[i].ExpirationTime != nil {
			continue
		}
		if d := r.new.Certificates[i]; Evidence(d) || r.tooLate(d) || r.replaced(d) {
			r.new.Certificates[i].ExpirationTime = expiry(q)
		}
	}
}

// tooLate reports whether an approved request got its certificate after its token was revoked. The record of a request says so when
// it did not know of the certificate, and the token is neither live nor expired.
func (r *report) tooLate(d v1alpha1.CertificateDecision) bool {
	was := decisionOn(r.old.Certificates, d)
	expired := r.old.Token != nil && r.old.Token.ID == d.TokenID && !r.now.Before(r.old.Token.ExpirationTime.Time)
	return d.Verdict == v1alpha1.VerdictApproved && ofToken(d) && was >= 0 && r.old.Certificates[was].IssuedTime == nil &&
		r.p.Phase != Joined && !expired && r.p.liveToken(d.TokenID) == nil
}

// expiry is when a certificate expires; the latest that is possible if it cannot be parsed.
func expiry(r *certificatesv1.CertificateSigningRequest) *metav1.Time {
	at, err := csr.Expires(r)
	if err != nil {
		approved, _ := approvedAt(r)
		at = approved.Add(csr.MaxLife)
	}
	return &metav1.Time{Time: at.Truncate(time.Second)}
}

// notRevoked reports certificates that are valid and were to be prevented.
func (r *report) notRevoked() {
	var list []v1alpha1.CertificateDecision
	for _, d := range r.new.Certificates {
		if d.ExpirationTime != nil && r.now.Before(d.ExpirationTime.Time) {
			list = append(list, d)
		}
	}
	if list == nil {
		meta.RemoveStatusCondition(&r.new.Conditions, v1alpha1.ConditionCertificateNotRevoked)
		return
	}
	reason, what := r.whyNotRevoked(list)
	r.set(v1alpha1.ConditionCertificateNotRevoked, yes(reason, "%s, and Kubernetes cannot revoke certificates: whoever has the key is system:node:%s "+
		"until it expires. If the key was not the machine's, lock the name out, see docs/troubleshooting.md: %s", what, r.f.Name, expirations(list)))
}

// NewlyOutliving is how many certificates one status reports that were not revoked and an older one does not.
func NewlyOutliving(old, new *v1alpha1.NodeBootstrapStatus) int {
	n := 0
	for _, d := range new.Certificates {
		i := decisionOn(old.Certificates, d)
		if d.ExpirationTime != nil && (i < 0 || old.Certificates[i].ExpirationTime == nil) {
			n++
		}
	}
	return n
}

// DenyBeforeDeletion is the denial that a request gets before it is deleted; nil when it has a verdict, or when its signer is not one
// that the operator decides for. Somebody may approve a request that a finalizer keeps; one that is denied nobody can approve
// (pkg/apis/certificates/validation).
func (p *Plan) DenyBeforeDeletion(r *certificatesv1.CertificateSigningRequest) *Decision {
	if !undecided(r) || !csr.MayDecide(r.Spec.SignerName) {
		return nil
	}
	result := csr.Result{Reason: ReasonTokenRevoked, Message: "the bootstrap token that this request was sent with is revoked"}
	for _, d := range p.Decisions {
		if d.Request == r {
			result = d.Result
		}
	}
	result.Verdict = csr.Deny
	return &Decision{Request: r, Result: result}
}

// ReasonTokenRevoked is the reason for which a request is denied before it is deleted: its token is revoked or unknown.
const ReasonTokenRevoked = "TokenRevoked"
