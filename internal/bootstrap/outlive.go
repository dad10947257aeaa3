// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"cmp"
	"slices"
	"strings"
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
		return ok && t.ID == TokenIDOfUser(r.Spec.Username) && t.Live(now) && (f.NodeBootstrap == nil || f.current(t))
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
	for _, c := range f.NodeBootstrap.Status.UnrevokedCertificates { // the condition ends with the certificate
		if now.Before(c.ExpirationTime.Time) {
			p.RequeueBy(c.ExpirationTime.Time)
		}
	}
}

// recordOutliving enters the certificates that outlive what the plan revokes. It is stored before the token is deleted.
func (p *Plan) recordOutliving(s *v1alpha1.NodeBootstrapStatus) {
	for _, r := range p.Outliving {
		recordIssued(s, []*certificatesv1.CertificateSigningRequest{r})
		recordUnrevoked(s, r, v1alpha1.ReasonIssuedBeforeRevocation)
	}
}

// maxUnrevoked bounds status.unrevokedCertificates, in entries.
const maxUnrevoked = 8

// recordUnrevoked enters a certificate that should not be valid and is.
func recordUnrevoked(s *v1alpha1.NodeBootstrapStatus, r *certificatesv1.CertificateSigningRequest, reason string) {
	if slices.ContainsFunc(s.UnrevokedCertificates, func(c v1alpha1.UnrevokedCertificate) bool { return c.UID == r.UID }) {
		return
	}
	key, _ := csr.Fingerprint(r)
	s.UnrevokedCertificates = append(s.UnrevokedCertificates, v1alpha1.UnrevokedCertificate{
		Name: r.Name, UID: r.UID, KeyFingerprint: key, Reason: reason, ExpirationTime: expiry(r)})
	slices.SortFunc(s.UnrevokedCertificates, func(a, b v1alpha1.UnrevokedCertificate) int {
		return cmp.Or(a.ExpirationTime.Compare(b.ExpirationTime.Time), strings.Compare(a.Name, b.Name))
	})
	s.UnrevokedCertificates = s.UnrevokedCertificates[max(0, len(s.UnrevokedCertificates)-maxUnrevoked):]
}

// unrevoked enters certificates that were issued although the operator had denied the CSR or revoked its token: someone else approved
// the one, the signer was faster than the deletion with the other. It also enters those of keys that were replaced.
func (r *report) unrevoked() {
	for _, q := range r.f.Requests {
		i := decisionOn(r.new.Certificates, q.UID)
		switch {
		case i < 0 || !issued(q):
		case Evidence(r.new.Certificates[i]) || r.tooLate(r.new.Certificates[i]):
			recordUnrevoked(r.new, q, v1alpha1.ReasonIssuedBeforeRevocation)
		case r.replaced(q):
			recordUnrevoked(r.new, q, v1alpha1.ReasonIssuedBeforeReplacement)
		}
	}
	r.new.UnrevokedCertificates = slices.DeleteFunc(r.new.UnrevokedCertificates, func(c v1alpha1.UnrevokedCertificate) bool {
		return !r.now.Before(c.ExpirationTime.Time)
	})
}

// tooLate reports whether an approved CSR got its certificate after its token was revoked: the log did not have the certificate, and
// the token is neither live nor expired.
func (r *report) tooLate(d v1alpha1.CertificateDecision) bool {
	was := decisionOn(r.old.Certificates, d.UID)
	expired := r.old.Token != nil && r.old.Token.ID == d.TokenID && !r.now.Before(r.old.Token.ExpirationTime.Time)
	return d.Verdict == v1alpha1.VerdictApproved && !ofServing(d) && was >= 0 && r.old.Certificates[was].IssuedTime == nil &&
		r.p.Phase != Joined && !expired && r.p.liveToken(d.TokenID) == nil
}

// replaced reports whether a CSR is one whose key was approved with a token that another key was approved with since.
func (r *report) replaced(q *certificatesv1.CertificateSigningRequest) bool {
	if r.f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide {
		return false
	}
	t := liveToken(r.new, TokenIDOfUser(q.Spec.Username))
	if t == nil {
		return false
	}
	approved := func(c v1alpha1.DecidedCSR) bool {
		return c.Verdict == v1alpha1.VerdictApproved && c.KeyFingerprint != "" && !Misuse(c.Reason)
	}
	newest := ""
	for _, c := range t.CSRs {
		if approved(c) {
			newest = c.KeyFingerprint
		}
	}
	c := decidedCSR(t.CSRs, q.UID)
	return c != nil && approved(*c) && c.KeyFingerprint != newest
}

// expiry is when a certificate expires; the latest that is possible if it cannot be parsed.
func expiry(r *certificatesv1.CertificateSigningRequest) metav1.Time {
	at, err := csr.Expires(r)
	if err != nil {
		approved, _ := approvedAt(r)
		at = approved.Add(csr.MaxLife)
	}
	return metav1.NewTime(at.Truncate(time.Second))
}

// notRevoked reports certificates that are valid and should not be.
func (r *report) notRevoked() {
	list := r.new.UnrevokedCertificates
	if len(list) == 0 {
		meta.RemoveStatusCondition(&r.new.Conditions, v1alpha1.ConditionCertificateNotRevoked)
		return
	}
	reason, message := v1alpha1.ReasonIssuedBeforeReplacement, "a certificate was issued for a key in whose place another one was approved"
	var texts []string
	for _, c := range list {
		if c.Reason != reason {
			reason, message = c.Reason, "a certificate was issued before its request could be revoked"
		}
		texts = append(texts, c.Name+" (key "+c.KeyFingerprint+", until "+c.ExpirationTime.UTC().Format(time.RFC3339)+")")
	}
	r.set(v1alpha1.ConditionCertificateNotRevoked, yes(reason, "%s, and Kubernetes cannot revoke certificates: whoever has the key is system:node:%s "+
		"until it expires. If the key was not the machine's, lock the name out, see docs/troubleshooting.md: %s", message, r.f.Name, strings.Join(texts, "; ")))
}

// NewlyUnrevoked is how many certificates that were not revoked are in one status and not in an older one.
func NewlyUnrevoked(old, new *v1alpha1.NodeBootstrapStatus) int {
	n := 0
	for _, c := range new.UnrevokedCertificates {
		if !slices.ContainsFunc(old.UnrevokedCertificates, func(o v1alpha1.UnrevokedCertificate) bool { return o.UID == c.UID }) {
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
