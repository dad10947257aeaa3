// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

const (
	// maxCertificateBytes is several times the size of a kubelet's certificate, with its chain.
	maxCertificateBytes = 16 << 10
	// maxConditions is more than the number of condition types that matter.
	maxConditions = 8
	// maxMessageBytes is the maximum length of the message of our verdicts.
	maxMessageBytes = 1024
)

// cutRequest keeps of the CSRs of others only the identity, and of ours the fields that decisions depend on: Kubernetes sets no
// size limits, and any requester could fill the memory. Labels and annotations are dropped, since admission policies set them.
// Of finalizers and owners it keeps only whether any exist.
//
// On an approval the API server keeps the stored spec, but takes the metadata from the request: see updateApproval in
// controllers/node.
func cutRequest(o any) (any, error) {
	r, ok := o.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return o, nil
	}
	finalizers, owners := len(r.Finalizers) > 0, len(r.OwnerReferences) > 0
	left := bareMetadata(&r.ObjectMeta, r.Size(), nil, nil)
	if !slices.Contains(r.Spec.Groups, token.Group) && ServingNode(r) == "" {
		r.Spec, r.Status = certificatesv1.CertificateSigningRequestSpec{}, certificatesv1.CertificateSigningRequestStatus{}
		return o, nil
	}
	if finalizers {
		r.Finalizers = []string{otherEntry}
	}
	if owners {
		r.OwnerReferences = []metav1.OwnerReference{{Kind: otherEntry}}
	}
	csr.KeepNeeded(&r.Spec, token.Group, token.ClusterWideGroup)
	if len(r.Status.Certificate) > maxCertificateBytes { // only whether it was issued matters
		r.Status.Certificate = cutBytes(r.Status.Certificate, 1)
	}
	conditions, all := cutConditions(r.Status.Conditions)
	r.Status.Conditions = conditions
	if !all {
		left = max(left, something)
	}
	left.mark(&r.ObjectMeta)
	return o, nil
}

// cutConditions returns a bounded number of conditions with short texts, among them the first Approved, Denied and Failed. It
// reports whether it left nothing out.
func cutConditions(conditions []certificatesv1.CertificateSigningRequestCondition) ([]certificatesv1.CertificateSigningRequestCondition, bool) {
	all := len(conditions) <= maxConditions
	var out []certificatesv1.CertificateSigningRequestCondition
	for i, c := range conditions {
		if !all && !isFirstVerdict(conditions, i) {
			continue
		}
		out = append(out, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.RequestConditionType(cut(string(c.Type), maxWordBytes)), Status: c.Status,
			Reason: cut(c.Reason, maxWordBytes), Message: cut(c.Message, maxMessageBytes),
			LastUpdateTime: c.LastUpdateTime, LastTransitionTime: c.LastTransitionTime,
		})
	}
	return out, all && slices.Equal(out, conditions)
}

func isFirstVerdict(conditions []certificatesv1.CertificateSigningRequestCondition, i int) bool {
	t := conditions[i].Type
	if t != certificatesv1.CertificateApproved && t != certificatesv1.CertificateDenied && t != certificatesv1.CertificateFailed {
		return false
	}
	return !slices.ContainsFunc(conditions[:i], func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == t })
}
