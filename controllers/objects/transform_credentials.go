// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"bytes"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

const (
	// maxTokenValueBytes is longer than any value in a token of ours: the description with the longest node name.
	maxTokenValueBytes = 512
	// otherKey stands for all keys that do not belong in a token's data. The API server would reject it as a key.
	otherKey = "(other)"
)

// tokenKeys are the keys of a bootstrap token.
var tokenKeys = []string{
	bootstrapapi.BootstrapTokenIDKey, bootstrapapi.BootstrapTokenSecretKey, bootstrapapi.BootstrapTokenDescriptionKey,
	bootstrapapi.BootstrapTokenExpirationKey, bootstrapapi.BootstrapTokenExtraGroupsKey,
	bootstrapapi.BootstrapTokenUsageAuthentication, bootstrapapi.BootstrapTokenUsageSigningKey,
}

// StripSecret drops the content of the Secrets of others, and replaces that of kubeconfigs with digests. A Secret of ours that
// someone edited still differs after it, so that it is restored.
func StripSecret(s *corev1.Secret) { StripSecretOf(s, owned.NodeOf(s)) }

// StripSecretOf is StripSecret for a Secret that is read for a node, whatever its annotation says.
func StripSecretOf(s *corev1.Secret, node string) {
	size := s.Size()
	s.Type = cut(s.Type, maxWordBytes)
	left := bareOwned(&s.ObjectMeta, size)
	switch {
	case node == "" || len(node) > maxNameBytes || !owned.Ours(s, node):
		s.Data, s.Immutable = foreignData(s), nil
		return // it is never updated
	case s.Name == owned.KubeconfigSecretName(node):
		s.Data = kubeconfig.Digest(s.Data)
	default:
		s.Data = tokenData(s.Data)
	}
	left.mark(&s.ObjectMeta)
}

// bareOwned is bareMetadata for a child of a NodeBootstrap. It keeps the controller and the label and annotations that the
// operator sets. A name that is too long for a node is cut to different lengths in the annotation and in the owner, so that the
// Secret never counts as ours.
func bareOwned(m *metav1.ObjectMeta, size int) remainder {
	labels := only(m.Labels, maxWordBytes, owned.ManagedByLabel)
	annotations := only(m.Annotations, maxNameBytes+1, owned.NodeNameAnnotation)
	if made := token.Reissue(m); made != "" {
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[v1alpha1.ReissueRequestedAtAnnotation] = made
	}
	return bareMetadataWithOwners(m, size, labels, annotations, bareOwners(m.OwnerReferences))
}

// bareOwners returns the controller among owners, and one entry for all others.
func bareOwners(owners []metav1.OwnerReference) (bare []metav1.OwnerReference) {
	other := false
	for _, o := range owners {
		if o.Controller == nil || !*o.Controller {
			other = true
			continue
		}
		if len(bare) > 0 { // the API server allows only one
			continue
		}
		bare = append(bare, metav1.OwnerReference{
			APIVersion: cut(o.APIVersion, maxWordBytes), Kind: cut(o.Kind, maxWordBytes), Name: cut(o.Name, maxNameBytes+2),
			UID: cut(o.UID, maxWordBytes), Controller: o.Controller, BlockOwnerDeletion: o.BlockOwnerDeletion,
		})
	}
	if other {
		bare = append(bare, metav1.OwnerReference{Kind: otherEntry})
	}
	return bare
}

// tokenData returns the values of a token of ours, each cut to a length that no correct value has.
func tokenData(data map[string][]byte) map[string][]byte {
	out := make(map[string][]byte, len(tokenKeys))
	for _, key := range tokenKeys {
		if value, ok := data[key]; ok {
			out[key] = cutBytes(value, maxTokenValueBytes)
		}
	}
	if len(data) > len(out) {
		out[otherKey] = nil
	}
	return out
}

// foreignData returns the groups of a token that someone else created: it may be in our groups.
func foreignData(s *corev1.Secret) map[string][]byte {
	groups, ok := s.Data[bootstrapapi.BootstrapTokenExtraGroupsKey]
	if !ok || s.Type != bootstrapapi.SecretTypeBootstrapToken || s.Namespace != token.Namespace {
		return nil
	}
	if len(groups) > maxTokenValueBytes {
		groups = []byte(strings.Join(token.GroupsOfOurs(s), ","))
	}
	return map[string][]byte{bootstrapapi.BootstrapTokenExtraGroupsKey: groups}
}

// cutBytes truncates a long value, and copies it so that the rest can be freed.
func cutBytes(b []byte, most int) []byte {
	if len(b) <= most {
		return b
	}
	return bytes.Clone(b[:most])
}

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
var cutRequest = transform(func(r *certificatesv1.CertificateSigningRequest) {
	finalizers, owners := len(r.Finalizers) > 0, len(r.OwnerReferences) > 0
	size := r.Size()
	csr.KeepIssuedAt(r)
	issued := r.ManagedFields
	left := bareMetadata(&r.ObjectMeta, size, nil, nil)
	if RenewingNode(r) != "" {
		keepRenewal(r)
		return
	}
	if !slices.Contains(r.Spec.Groups, token.Group) && lifecycle.ServingNode(r) == "" {
		r.Spec, r.Status = certificatesv1.CertificateSigningRequestSpec{}, certificatesv1.CertificateSigningRequestStatus{}
		return
	}
	r.ManagedFields = issued
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
})

// keepRenewal keeps of a CSR with which a node has renewed its client certificate who sent it, and the certificate.
func keepRenewal(r *certificatesv1.CertificateSigningRequest) {
	r.Spec = certificatesv1.CertificateSigningRequestSpec{Username: r.Spec.Username, SignerName: r.Spec.SignerName}
	r.Status = certificatesv1.CertificateSigningRequestStatus{Certificate: r.Status.Certificate}
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
			Type: cut(c.Type, maxWordBytes), Status: c.Status,
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
