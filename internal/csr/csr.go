// SPDX-License-Identifier: Apache-2.0

// Package csr gives the verdict on a CertificateSigningRequest: on one for a kubelet's client certificate that was sent with a node's
// bootstrap token ([Evaluate]), and on one for a kubelet's serving certificate that the node sent ([EvaluateServing]).
//
// It is pure. It approves what a stock kubelet sends, byte for byte in its subject, and nothing that it does not recognize. The rules are
// those of Kubernetes (pkg/controller/certificates/approver/sarapprove.go, pkg/apis/certificates/helpers.go), and two more: the name is
// the one that the token is for, and the addresses are the node's.
package csr

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Verdict is what to do with a CSR.
type Verdict int

const (
	// Leave means: the operator does not decide this CSR.
	Leave Verdict = iota
	// Approve means: the CSR is what the kubelet of the node sends.
	Approve
	// Deny means: the operator decides this CSR, and it has a defect that does not fix itself.
	Deny
	// Wait means: the operator decides this CSR, and it has no defect but cannot be approved now. That can change.
	Wait
)

// Reasons of a verdict on any CSR.
const (
	// ReasonNotOurs is the reason when the CSR was not sent with the token, or not by the node, that it is checked for.
	ReasonNotOurs = "NotOurs"
	// ReasonWrongUsages is the reason when the usages are not those of a kubelet's certificate for this type of key.
	ReasonWrongUsages = "WrongUsages"
	// ReasonWrongDuration is the reason when the requested duration is longer than a year.
	ReasonWrongDuration = "WrongDuration"
	// ReasonTooLarge is the reason when the CSR is larger than any that a kubelet sends.
	ReasonTooLarge = "TooLarge"
	// ReasonMalformed is the reason when spec.request is not exactly one PEM block with a certificate request.
	ReasonMalformed = "Malformed"
	// ReasonBadSignature is the reason when the CSR is not signed with its own key, or with an algorithm that is not allowed.
	ReasonBadSignature = "BadSignature"
	// ReasonWrongKey is the reason when the key's algorithm or size is not on the list.
	ReasonWrongKey = "WrongKey"
	// ReasonWrongSubject is the reason when the subject is not the node's: usually another node's name.
	ReasonWrongSubject = "WrongSubject"
	// ReasonUnexpectedAttributes is the reason when the CSR requests anything that a kubelet does not request, or has finalizers or owner
	// references.
	ReasonUnexpectedAttributes = "UnexpectedAttributes"
)

// Result is a verdict and why.
type Result struct {
	Verdict Verdict
	// Reason is one of the constants of this package.
	Reason string
	// Message says what the CSR requests, what was expected and what to do.
	Message string
	// Check is the name of the check with the objection; empty if none has one.
	Check string
	// KeyFingerprint is SHA256:<hex> of the DER SubjectPublicKeyInfo; empty when no key could be read.
	KeyFingerprint string
}

// evaluation is a CSR while it is checked.
type evaluation struct {
	csr *certificatesv1.CertificateSigningRequest
	// node is the node that the CSR must be for.
	node string
	// client and serving have the other facts; one of them is nil.
	client  *Request
	serving *ServingRequest
	// parsed is set by the check that parses the CSR.
	parsed *x509.CertificateRequest
}

// A check is one requirement. requirements has a sentence on each.
type check struct {
	// name is that of the function.
	name string
	// objection returns nil if the CSR has what the check requires.
	objection func(*evaluation) *Result
}

// run is the verdict of the first check with an objection, otherwise approved.
func (e *evaluation) run(checks []check, approved Result) Result {
	result := approved
	for _, check := range checks {
		if objection := check.objection(e); objection != nil {
			result = *objection
			result.Check = check.name
			break
		}
	}
	if e.parsed != nil {
		result.KeyFingerprint = fingerprint(e.parsed)
	}
	return result
}

func fingerprint(parsed *x509.CertificateRequest) string {
	return fmt.Sprintf("SHA256:%x", sha256.Sum256(parsed.RawSubjectPublicKeyInfo))
}

// Fingerprint is SHA256:<hex> of the DER SubjectPublicKeyInfo in a CSR. It fails if the CSR cannot be parsed.
func Fingerprint(r *certificatesv1.CertificateSigningRequest) (string, error) {
	parsed, err := Parse(r)
	if err != nil {
		return "", err
	}
	return fingerprint(parsed), nil
}

// Expires is when the certificate that was issued for a CSR expires. It fails if that is not a certificate in PEM.
func Expires(r *certificatesv1.CertificateSigningRequest) (time.Time, error) {
	_, end, err := Validity(r)
	return end, err
}

// Validity is from when to when the certificate is valid that was issued for a CSR. It fails if that is not a certificate in PEM.
func Validity(r *certificatesv1.CertificateSigningRequest) (start, end time.Time, err error) {
	block, _ := pem.Decode(r.Status.Certificate)
	if block == nil {
		return start, end, fmt.Errorf("the certificate of the request %s is not PEM", r.Name)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return start, end, fmt.Errorf("parsing the certificate of the request %s: %w", r.Name, err)
	}
	return certificate.NotBefore, certificate.NotAfter, nil
}

// MayDecide reports whether the operator may approve and deny CSRs for a signer: those for kubelets' certificates (controllers/rbac.go).
func MayDecide(signer string) bool {
	return signer == certificatesv1.KubeAPIServerClientKubeletSignerName || signer == certificatesv1.KubeletServingSignerName
}

// MaxLife is the longest life of a certificate that a CSR may request. If a CSR requests none, kube-controller-manager uses
// --cluster-signing-duration, which is a year by default.
const MaxLife = maxDurationSeconds * time.Second

// RequestedNode is the node that a CSR names in its subject, valid or not; empty if it names none. It selects the node to reconcile, and
// proves nothing.
func RequestedNode(r *certificatesv1.CertificateSigningRequest) string {
	parsed, err := Parse(r)
	if err != nil {
		return ""
	}
	node, ok := strings.CutPrefix(parsed.Subject.CommonName, nodeUserPrefix)
	if !ok {
		return ""
	}
	return node
}

// Parse reads the certificate request in a CSR, unchecked and of a bounded size.
func Parse(r *certificatesv1.CertificateSigningRequest) (*x509.CertificateRequest, error) {
	if len(r.Spec.Request) > MaxRequestBytes {
		return nil, fmt.Errorf("the request %s has more than %d bytes", r.Name, MaxRequestBytes)
	}
	block, _ := pem.Decode(r.Spec.Request)
	if block == nil {
		return nil, fmt.Errorf("the request %s is not PEM", r.Name)
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parsing the request %s: %w", r.Name, err)
	}
	return parsed, nil
}

// Condition returns the condition of a type; nil if the CSR has none.
func Condition(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequestCondition {
	i := slices.IndexFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == t })
	if i < 0 {
		return nil
	}
	return &r.Status.Conditions[i]
}

// Issued reports whether a CSR has its certificate.
func Issued(r *certificatesv1.CertificateSigningRequest) bool { return len(r.Status.Certificate) > 0 }

// IssuedAt is when the API server stored the certificate of a CSR, by metadata.managedFields; nil if it has none, or that is not known.
func IssuedAt(r *certificatesv1.CertificateSigningRequest) *metav1.Time {
	if !Issued(r) {
		return nil
	}
	for _, m := range r.ManagedFields {
		if m.Subresource == statusSubresource && m.Time != nil && (m.FieldsV1 == nil || strings.Contains(m.FieldsV1.GetRawString(), `"f:certificate"`)) {
			return m.Time
		}
	}
	return nil
}

const statusSubresource = "status"

// KeepIssuedAt reduces metadata.managedFields of a CSR to what IssuedAt needs.
func KeepIssuedAt(r *certificatesv1.CertificateSigningRequest) {
	at := IssuedAt(r)
	r.ManagedFields = nil
	if at != nil {
		r.ManagedFields = []metav1.ManagedFieldsEntry{{Subresource: statusSubresource, Time: at}}
	}
}

// ApprovedAt returns when a CSR was approved, and whether it was.
func ApprovedAt(r *certificatesv1.CertificateSigningRequest) (metav1.Time, bool) {
	c := Condition(r, certificatesv1.CertificateApproved)
	if c == nil {
		return metav1.Time{}, false
	}
	return ConditionTime(c), true
}

// IsApproved reports whether a CSR was approved.
func IsApproved(r *certificatesv1.CertificateSigningRequest) bool {
	return Condition(r, certificatesv1.CertificateApproved) != nil
}

// ConditionTime is when a verdict was stored, by the API server's clock: "kubectl certificate approve" sets lastUpdateTime by
// the clock of whoever runs it, and leaves lastTransitionTime to the API server.
func ConditionTime(c *certificatesv1.CertificateSigningRequestCondition) metav1.Time {
	if c.LastTransitionTime.IsZero() {
		return c.LastUpdateTime
	}
	return c.LastTransitionTime
}

// Undecided reports whether a CSR has no verdict yet.
func Undecided(r *certificatesv1.CertificateSigningRequest) bool {
	return Condition(r, certificatesv1.CertificateApproved) == nil &&
		Condition(r, certificatesv1.CertificateDenied) == nil &&
		Condition(r, certificatesv1.CertificateFailed) == nil
}

// Settled reports whether a CSR is final: it has its certificate, was denied, or failed.
func Settled(r *certificatesv1.CertificateSigningRequest) bool {
	return Issued(r) || Condition(r, certificatesv1.CertificateDenied) != nil || Condition(r, certificatesv1.CertificateFailed) != nil
}

// NewestFirst orders CSRs by their creation, and by name within a second.
func NewestFirst(requests []*certificatesv1.CertificateSigningRequest) []*certificatesv1.CertificateSigningRequest {
	return slices.SortedFunc(slices.Values(requests), func(a, b *certificatesv1.CertificateSigningRequest) int { return -ByCreation(a, b) })
}

// ByCreation orders CSRs by their creation, and by name within a second.
func ByCreation(a, b *certificatesv1.CertificateSigningRequest) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
}
