// SPDX-License-Identifier: Apache-2.0

package decisions

import (
	"cmp"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// Log enters a decision into the log, which keeps the newest entries of each kind. A dropped entry does not come back.
func Log(s *v1alpha1.NodeBootstrapStatus, d v1alpha1.CertificateDecision) (changed bool) {
	if i := Find(s.Certificates, d.UID); i >= 0 {
		if changed = s.Certificates[i].Verdict != d.Verdict; changed {
			s.Certificates[i] = d
		}
		return changed
	}
	at := len(s.Certificates)
	for at > 0 && s.Certificates[at-1].Time.After(d.Time.Time) {
		at--
	}
	s.Certificates = slices.Insert(s.Certificates, at, d)
	most, oldest, kind := MaxTokenEntries, -1, 0
	if OfServing(d) {
		most = MaxServingEntries
	}
	for i, o := range s.Certificates {
		if OfServing(o) != OfServing(d) {
			continue
		}
		kind++
		if oldest < 0 || byTime(o, s.Certificates[oldest]) < 0 {
			oldest = i
		}
	}
	if kind <= most {
		return true
	}
	dropped := s.Certificates[oldest].UID
	s.Certificates = slices.Delete(s.Certificates, oldest, oldest+1)
	return dropped != d.UID
}

func byTime(a, b v1alpha1.CertificateDecision) int {
	return cmp.Or(a.Time.Compare(b.Time.Time), strings.Compare(a.Name, b.Name))
}

// Find is the index of the decision on a CSR in a log, or -1.
func Find(log []v1alpha1.CertificateDecision, uid types.UID) int {
	return slices.IndexFunc(log, func(d v1alpha1.CertificateDecision) bool { return d.UID == uid })
}

// New are the entries in the log of a status that an older status does not have.
func New(old, new *v1alpha1.NodeBootstrapStatus) []v1alpha1.CertificateDecision {
	return slices.DeleteFunc(slices.Clone(new.Certificates), func(d v1alpha1.CertificateDecision) bool { return Find(old.Certificates, d.UID) >= 0 })
}

// OfServing reports whether an entry is for a serving certificate.
func OfServing(d v1alpha1.CertificateDecision) bool {
	return d.SignerName == certificatesv1.KubeletServingSignerName && d.TokenID == ""
}

// OfThisNode reports whether a log entry is about a client certificate in the node's name.
func OfThisNode(d v1alpha1.CertificateDecision) bool {
	return d.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName && !Misuse(d.Reason)
}

// entry is the log entry of a decided CSR.
func entry(r *certificatesv1.CertificateSigningRequest, verdict v1alpha1.Verdict, reason string, at metav1.Time) v1alpha1.CertificateDecision {
	key, _ := csr.Fingerprint(r)
	return v1alpha1.CertificateDecision{
		Name: r.Name, UID: r.UID, SignerName: r.Spec.SignerName, TokenID: token.IDOfUser(r.Spec.Username),
		KeyFingerprint: key, Verdict: verdict, Reason: reason, Time: at,
	}
}

// maxMessage bounds the message of a decision, in characters. The CRD has the same limit.
const maxMessage = 256

// Shortened cuts a message to maxMessage characters.
func Shortened(message string) string {
	runes := []rune(strings.ToValidUTF8(message, ""))
	if len(runes) <= maxMessage {
		return string(runes)
	}
	const dots = "..."
	return string(runes[:maxMessage-len(dots)]) + dots
}

// RecordIssued enters which of the node's CSRs have their certificate, whoever approved them, in the order of their creation. It also enters
// those that the operator approved without a record, since their key is pinned.
func RecordIssued(s *v1alpha1.NodeBootstrapStatus, requests []*certificatesv1.CertificateSigningRequest) {
	for _, r := range slices.SortedFunc(slices.Values(requests), csr.ByCreation) {
		at, approved := csr.ApprovedAt(r)
		issued, i := csr.Issued(r), Find(s.Certificates, r.UID)
		switch {
		case !approved || !issued && !ApprovedByUs(r):
		case i < 0:
			recordApproved(s, r, at, issued)
		case issued && s.Certificates[i].IssuedTime == nil:
			s.Certificates[i].IssuedTime = &at
		}
	}
}

// recordApproved enters an approval that the log does not have: of a pinned key, by someone else, or from before the NodeBootstrap was
// deleted and created again.
func recordApproved(s *v1alpha1.NodeBootstrapStatus, r *certificatesv1.CertificateSigningRequest, at metav1.Time, issued bool) {
	reason := ReasonApprovedElsewhere
	if ApprovedByUs(r) {
		reason = csr.ReasonKubeletClient
	}
	d := entry(r, v1alpha1.VerdictApproved, reason, at)
	if t := LiveToken(s, d.TokenID); t != nil && len(t.CSRs) >= MaxCSRsPerToken && slices.Contains(s.KeyFingerprints, d.KeyFingerprint) {
		return // anyone with the token can send copies of a CSR with a pinned key
	}
	if issued {
		d.IssuedTime = &at
	}
	Record(s, d)
}

// ApprovedByUs reports whether the operator approved a CSR, by its condition.
func ApprovedByUs(r *certificatesv1.CertificateSigningRequest) bool {
	c := csr.Condition(r, certificatesv1.CertificateApproved)
	return c != nil && c.Reason == csr.ReasonKubeletClient
}

// RecordOvertaken corrects the decisions on CSRs that were to be denied or ignored, and that someone else approved first: a certificate
// is issued, and the status must say so. The reason stays if it is evidence, or that of a second key.
func RecordOvertaken(s *v1alpha1.NodeBootstrapStatus, requests []*certificatesv1.CertificateSigningRequest) {
	for _, r := range requests {
		i := Find(s.Certificates, r.UID)
		if _, approved := csr.ApprovedAt(r); !approved || i < 0 || s.Certificates[i].Verdict == v1alpha1.VerdictApproved {
			continue
		}
		d := s.Certificates[i]
		d.Verdict = v1alpha1.VerdictApproved
		if !Evidence(d) && d.Reason != csr.ReasonKeyReplaced {
			d.Reason = ReasonApprovedElsewhere
		}
		Record(s, d)
	}
}

// Decisions of other clients on the node's CSRs, as the conditions of the CSRs report them.

// RecordDenied enters the CSRs for client certificates that were sent with a live token and that someone else has denied, in the order of
// the denials. The operator records its own denials before it carries them out. For one token it enters at most MaxDecisionsPerToken.
func RecordDenied(s *v1alpha1.NodeBootstrapStatus, requests []*certificatesv1.CertificateSigningRequest) {
	var found []v1alpha1.CertificateDecision
	for _, r := range requests {
		if d, ok := deniedElsewhere(r); ok {
			found = append(found, d)
		}
	}
	slices.SortFunc(found, byTime)
	for _, d := range found {
		if t := LiveToken(s, d.TokenID); t != nil && Decided(t.CSRs, d.UID) == nil && len(t.CSRs) < MaxDecisionsPerToken {
			Record(s, d)
		}
	}
}

func deniedElsewhere(r *certificatesv1.CertificateSigningRequest) (v1alpha1.CertificateDecision, bool) {
	c := csr.Condition(r, certificatesv1.CertificateDenied)
	if c == nil || r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName || DeniedByUs(r) {
		return v1alpha1.CertificateDecision{}, false
	}
	d := entry(r, v1alpha1.VerdictDenied, ReasonDeniedElsewhere, csr.ConditionTime(c))
	d.Message = Shortened(c.Message)
	return d, true
}

// DeniedByUs reports whether the operator denied a CSR, by its condition: the log has the decision too, but a full log drops denials.
func DeniedByUs(r *certificatesv1.CertificateSigningRequest) bool {
	c := csr.Condition(r, certificatesv1.CertificateDenied)
	return c != nil && (csr.DeniesClient(c.Reason) || c.Reason == ReasonTokenRevoked)
}

// RecordServing enters the CSRs for serving certificates that any client decided since a time into the log.
func RecordServing(s *v1alpha1.NodeBootstrapStatus, requests []*certificatesv1.CertificateSigningRequest, since time.Time) {
	var found []v1alpha1.CertificateDecision
	for _, r := range requests {
		if d, ok := servingDecision(r); ok && !d.Time.Time.Before(since) {
			found = append(found, d)
		}
	}
	slices.SortFunc(found, byTime) // a cache lists them in any order
	for _, d := range found[max(0, len(found)-MaxServingEntries):] {
		Log(s, d)
	}
}

// servingDecision is the decision in the conditions of a CSR.
func servingDecision(r *certificatesv1.CertificateSigningRequest) (v1alpha1.CertificateDecision, bool) {
	if c := csr.Condition(r, certificatesv1.CertificateApproved); c != nil {
		reason := ReasonApprovedElsewhere
		if c.Reason == csr.ReasonKubeletServing {
			reason = c.Reason
		}
		return entry(r, v1alpha1.VerdictApproved, reason, csr.ConditionTime(c)), true
	}
	if c := csr.Condition(r, certificatesv1.CertificateDenied); c != nil {
		reason := ReasonDeniedElsewhere
		if csr.DeniesServing(c.Reason) {
			reason = c.Reason
		}
		d := entry(r, v1alpha1.VerdictDenied, reason, csr.ConditionTime(c))
		d.Message = Shortened(c.Message)
		return d, true
	}
	return v1alpha1.CertificateDecision{}, false
}
