// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
)

// CSRs that someone else settled before the operator saw them, for example while it did not run. They can still be evidence of misuse:
// the sender has the token, and the token is still live.

// settledElsewhere begins a message that reports such a CSR.
const settledElsewhere = "someone else "

// howSettled is how someone else settled a CSR without an approval, for a message, with the verdict for the log entry.
func howSettled(r *certificatesv1.CertificateSigningRequest) (string, v1alpha1.Verdict) {
	switch {
	case csr.Issued(r): // a signer that does not wait for an approval
		return settledElsewhere + "issued a certificate without an approval", v1alpha1.VerdictApproved
	case csr.Condition(r, certificatesv1.CertificateDenied) != nil:
		return settledElsewhere + "denied it first", v1alpha1.VerdictDenied
	default:
		return settledElsewhere + "marked it as failed first", v1alpha1.VerdictDenied
	}
}

// IsSettledElsewhere reports whether isSettledByOthers recorded a decision.
func IsSettledElsewhere(d v1alpha1.CertificateDecision) bool {
	return (decisions.Evidence(d) || d.Reason == csr.ReasonKeyReplaced) && strings.HasPrefix(d.Message, settledElsewhere)
}

// WithoutDecisions are the CSRs without a decision in the plan. The decided ones are stored before the report, or left to the next
// reconcile.
func (p *Plan) WithoutDecisions(requests []*certificatesv1.CertificateSigningRequest) []*certificatesv1.CertificateSigningRequest {
	decided := sets.New[types.UID]()
	for _, d := range p.Decisions {
		decided.Insert(d.Request.UID)
	}
	return slices.DeleteFunc(slices.Clone(requests), func(r *certificatesv1.CertificateSigningRequest) bool { return decided.Has(r.UID) })
}
