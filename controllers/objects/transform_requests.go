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
	// maxConditions is more conditions than there are types that mean something.
	maxConditions = 8
	// maxMessageBytes is as long as the message of a verdict of ours may be.
	maxMessageBytes = 1024
)

// cutRequest keeps of other people's requests which ones there are, and of ours what is decided on: Kubernetes sets no limits,
// and whoever may ask could fill the memory. Labels and annotations are none of the requester's business, since admission
// policies set them; of finalizers and owners it is kept that there are any.
//
// On an approval the API server takes the stored spec, and the metadata that it is sent: see updateApproval.
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
	if len(r.Status.Certificate) > maxCertificateBytes { // that it was issued is all that it tells
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

// cutConditions are a few conditions, among them the first of each type that decides, with short texts. It reports whether they
// are all, as they were.
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
