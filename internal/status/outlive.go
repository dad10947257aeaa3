// SPDX-License-Identifier: Apache-2.0

package status

import (
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// recordOutliving enters the certificates whose tokens the plan revokes. It is stored before the token is deleted.
func recordOutliving(p *lifecycle.Plan, s *v1alpha1.NodeBootstrapStatus) {
	for _, r := range p.Outliving {
		decisions.RecordIssued(s, []*certificatesv1.CertificateSigningRequest{r})
		decisions.RecordUnrevoked(s, r, v1alpha1.ReasonIssuedBeforeRevocation)
	}
}

// unrevoked enters certificates that were issued although the operator had denied the CSR (someone else approved it) or revoked its token
// (the signer was faster than the deletion). It also enters those whose keys were replaced.
func (r *report) unrevoked() {
	for _, q := range r.f.Requests {
		i := decisions.Find(r.new.Certificates, q.UID)
		switch {
		case i < 0 || !csr.Issued(q):
		case decisions.Evidence(r.new.Certificates[i]) || r.tooLate(r.new.Certificates[i]):
			decisions.RecordUnrevoked(r.new, q, v1alpha1.ReasonIssuedBeforeRevocation)
		case r.replaced(q):
			decisions.RecordUnrevoked(r.new, q, v1alpha1.ReasonIssuedBeforeReplacement)
		}
	}
	r.new.UnrevokedCertificates = slices.DeleteFunc(r.new.UnrevokedCertificates, func(c v1alpha1.UnrevokedCertificate) bool {
		return !r.now.Before(c.ExpirationTime.Time)
	})
}

// tooLate reports whether an approved CSR got its certificate after its token was revoked: the log did not have the certificate, and the
// token is neither live nor expired.
func (r *report) tooLate(d v1alpha1.CertificateDecision) bool {
	was := decisions.Find(r.old.Certificates, d.UID)
	expired := r.old.Token != nil && r.old.Token.ID == d.TokenID && !r.now.Before(r.old.Token.ExpirationTime.Time)
	return d.Verdict == v1alpha1.VerdictApproved && !decisions.OfServing(d) && was >= 0 && r.old.Certificates[was].IssuedTime == nil &&
		r.p.Phase != lifecycle.Joined && !expired && r.p.LiveToken(d.TokenID) == nil
}

// replaced reports whether another key was approved after a CSR's own, with the same token.
func (r *report) replaced(q *certificatesv1.CertificateSigningRequest) bool {
	if r.f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide {
		return false
	}
	t := decisions.LiveToken(r.new, token.IDOfUser(q.Spec.Username))
	if t == nil {
		return false
	}
	approved := func(c v1alpha1.DecidedCSR) bool {
		return c.Verdict == v1alpha1.VerdictApproved && c.KeyFingerprint != "" && !decisions.Misuse(c.Reason)
	}
	newest := ""
	for _, c := range t.CSRs {
		if approved(c) {
			newest = c.KeyFingerprint
		}
	}
	c := decisions.Decided(t.CSRs, q.UID)
	return c != nil && approved(*c) && c.KeyFingerprint != newest
}

// notRevoked reports certificates that are valid but should not be.
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

// NewlyUnrevoked is how many unrevoked certificates a status has that an older one does not have.
func NewlyUnrevoked(old, new *v1alpha1.NodeBootstrapStatus) int {
	n := 0
	for _, c := range new.UnrevokedCertificates {
		if !slices.ContainsFunc(old.UnrevokedCertificates, func(o v1alpha1.UnrevokedCertificate) bool { return o.UID == c.UID }) {
			n++
		}
	}
	return n
}
