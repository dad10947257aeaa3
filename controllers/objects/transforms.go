// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"maps"
	"slices"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// The transforms of the cache drop everything that no decision depends on: whatever others put into an object, a bounded number
// of bytes is kept. Values that thousands of objects share are held once, since cached objects are never modified. Transforming
// an object again changes nothing.

// intern makes equal strings share their memory.
func intern[S ~string](all ...*S) {
	for _, s := range all {
		*s = unique.Make(*s).Value()
	}
}

// ownLabels are the labels of the operator's Secrets. The map is shared, and never modified.
var ownLabels = map[string]string{owned.ManagedByLabel: owned.ManagedBy}

// transformSecret is StripSecret, and shares the memory of common values.
func transformSecret(o any) (any, error) {
	s, ok := o.(*corev1.Secret)
	if !ok {
		return o, nil
	}
	StripSecret(s)
	if maps.Equal(s.Labels, ownLabels) {
		s.Labels = ownLabels
	}
	intern(&s.Namespace)
	intern(&s.Type)
	for i := range s.OwnerReferences {
		intern(&s.OwnerReferences[i].APIVersion, &s.OwnerReferences[i].Kind)
	}
	return o, nil
}

// transformNodeBootstrap is StripNodeBootstrap, and shares the memory of common values.
func transformNodeBootstrap(o any) (any, error) {
	nb, ok := o.(*v1alpha1.NodeBootstrap)
	if !ok {
		return o, nil
	}
	StripNodeBootstrap(nb)
	intern(&nb.Kind, &nb.APIVersion, &nb.Spec.Cluster.Server, &nb.Spec.Cluster.CABundle, &nb.Status.Server, &nb.Status.CAFingerprint)
	for i := range nb.Status.APIServerHosts {
		intern(&nb.Status.APIServerHosts[i])
	}
	if ref := nb.Status.KubeconfigSecretRef; ref != nil {
		intern(&ref.Namespace)
	}
	for i := range nb.Status.Conditions {
		c := &nb.Status.Conditions[i]
		intern(&c.Type, &c.Reason)
		intern(&c.Status)
	}
	return o, nil
}

// StripNodeBootstrap drops the metadata that GitOps tools and people add. The schema bounds the spec, and the operator bounds
// the status that it writes; longer values that someone else wrote into the status are cut.
func StripNodeBootstrap(nb *v1alpha1.NodeBootstrap) {
	var annotations map[string]string
	if reissue := token.Reissue(nb); reissue != "" {
		annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: reissue}
	}
	size := metadataSize(&nb.ObjectMeta) + len(nb.Spec.Cluster.CABundle)
	if bareMetadata(&nb.ObjectMeta, size, nil, annotations) == much { // a status update erases no metadata, so only the size matters
		much.mark(&nb.ObjectMeta)
		nb.Spec.Cluster.CABundle = "" // wholeNodeBootstrap reads it
	}
	s := &nb.Status
	s.LastHandledReissueAt = token.NormalReissue(s.LastHandledReissueAt)
	s.Server, s.CAFingerprint = cut(s.Server, maxServerBytes), cut(s.CAFingerprint, maxWordBytes)
	s.LastTokenID, s.NodeUID = cut(s.LastTokenID, maxWordBytes), types.UID(cut(string(s.NodeUID), maxWordBytes))
	if s.Token != nil {
		s.Token.ID = cut(s.Token.ID, maxWordBytes)
	}
	if ref := s.KubeconfigSecretRef; ref != nil {
		ref.Namespace, ref.Name = cut(ref.Namespace, maxWordBytes), cut(ref.Name, maxWordBytes)
	}
	for i := range s.APIServerHosts {
		s.APIServerHosts[i] = cut(s.APIServerHosts[i], maxServerBytes)
	}
	if len(s.Conditions) > maxStatusConditions {
		s.Conditions = slices.Clone(s.Conditions[:maxStatusConditions])
	}
	for i := range s.Conditions {
		c := &s.Conditions[i]
		c.Type, c.Reason, c.Message = cut(c.Type, maxWordBytes), cut(c.Reason, maxWordBytes), cut(c.Message, status.MaxConditionMessage)
	}
	for i := range s.Certificates {
		d := &s.Certificates[i]
		d.Name, d.UID, d.SignerName = cut(d.Name, maxWordBytes), types.UID(cut(string(d.UID), maxWordBytes)), cut(d.SignerName, maxServerBytes)
		d.TokenID, d.KeyFingerprint, d.Reason = cut(d.TokenID, maxWordBytes), cut(d.KeyFingerprint, maxWordBytes), cut(d.Reason, maxWordBytes)
		d.Message = cut(d.Message, maxServerBytes)
	}
	stripTokens(s)
	for i := range s.Keys {
		k := &s.Keys[i]
		k.TokenID, k.KeyFingerprint, k.Name = cut(k.TokenID, maxWordBytes), cut(k.KeyFingerprint, maxWordBytes), cut(k.Name, maxWordBytes)
	}
}

func stripTokens(s *v1alpha1.NodeBootstrapStatus) {
	for i := range s.Tokens {
		t := &s.Tokens[i]
		t.ID = cut(t.ID, maxWordBytes)
		for i := range t.CSRs {
			c := &t.CSRs[i]
			c.Name, c.UID, c.KeyFingerprint = cut(c.Name, maxWordBytes), types.UID(cut(string(c.UID), maxWordBytes)), cut(c.KeyFingerprint, maxWordBytes)
			c.Reason = cut(c.Reason, maxWordBytes)
		}
	}
	if k := s.ReplacedKey; k != nil {
		k.TokenID, k.KeyFingerprint, k.Name = cut(k.TokenID, maxWordBytes), cut(k.KeyFingerprint, maxWordBytes), cut(k.Name, maxWordBytes)
	}
	for i := range s.KeyFingerprints {
		s.KeyFingerprints[i] = cut(s.KeyFingerprints[i], maxWordBytes)
	}
	for i := range s.UnrevokedCertificates {
		c := &s.UnrevokedCertificates[i]
		c.Name, c.UID, c.KeyFingerprint = cut(c.Name, maxWordBytes), types.UID(cut(string(c.UID), maxWordBytes)), cut(c.KeyFingerprint, maxWordBytes)
		c.Reason = cut(c.Reason, maxWordBytes)
	}
}

const (
	// maxServerBytes is the maximum length of a URL in the schema.
	maxServerBytes = 2048
	// maxStatusConditions is more than the number of condition types.
	maxStatusConditions = 16
)

// stripNode keeps a Node's name and identity.
func stripNode(o any) (any, error) {
	if n, ok := o.(*metav1.PartialObjectMetadata); ok {
		if bareMetadata(&n.ObjectMeta, metadataSize(&n.ObjectMeta), nil, nil) == much {
			much.mark(&n.ObjectMeta)
		}
	}
	return o, nil
}

// stripConfigMap keeps the one key that is read, and cuts its value just above the maximum size, so that a too long value is
// still rejected.
func stripConfigMap(o any) (any, error) {
	if c, ok := o.(*corev1.ConfigMap); ok {
		bareMetadata(&c.ObjectMeta, c.Size(), nil, nil)
		key, most := RootCAKey, kubeconfig.MaxCABytes+1
		if c.Name == bootstrapapi.ConfigMapClusterInfo {
			key, most = bootstrapapi.KubeConfigKey, kubeconfig.MaxClusterInfoBytes+1
		}
		c.Data, c.BinaryData, c.Immutable = only(c.Data, most, key), nil, nil
	}
	return o, nil
}

// stripService and stripEndpointSlice keep all addresses, since no node may get a serving certificate for them. Only one object
// of each kind is cached.
func stripService(o any) (any, error) {
	if s, ok := o.(*corev1.Service); ok {
		bareMetadata(&s.ObjectMeta, s.Size(), nil, nil)
		s.Spec = corev1.ServiceSpec{
			ClusterIP: s.Spec.ClusterIP, ClusterIPs: s.Spec.ClusterIPs, ExternalIPs: s.Spec.ExternalIPs,
			ExternalName: s.Spec.ExternalName, LoadBalancerIP: s.Spec.LoadBalancerIP,
		}
		s.Status.Conditions = nil
		for i := range s.Status.LoadBalancer.Ingress {
			s.Status.LoadBalancer.Ingress[i].Ports = nil
		}
	}
	return o, nil
}

func stripEndpointSlice(o any) (any, error) {
	if s, ok := o.(*discoveryv1.EndpointSlice); ok {
		bareMetadata(&s.ObjectMeta, s.Size(), nil, nil)
		s.Ports = nil
		for i := range s.Endpoints {
			s.Endpoints[i] = discoveryv1.Endpoint{Addresses: s.Endpoints[i].Addresses}
		}
	}
	return o, nil
}

const (
	// maxTokenUsers is how many users of bootstrap tokens are kept of a binding. A binding that names more counts as naming
	// every token.
	maxTokenUsers = 100
	// EveryToken is the user that stands for more than maxTokenUsers users. everyTokenKind is its kind, which the API server
	// would reject.
	EveryToken, everyTokenKind = "(every token)", "(every token)"
	// maxSubjects bounds the subjects that are kept of the shared bindings, each of which should have one.
	maxSubjects = 4
)

// stripBinding keeps of the bindings of others only the name and the users of bootstrap tokens.
func stripBinding(o any) (any, error) {
	b, ok := o.(*rbacv1.ClusterRoleBinding)
	if !ok {
		return o, nil
	}
	if slices.Contains(rbac.BindingNames, b.Name) {
		stripSharedBinding(b)
		return o, nil
	}
	bareMetadata(&b.ObjectMeta, b.Size(), nil, nil)
	b.RoleRef, b.Subjects = rbacv1.RoleRef{}, tokenSubjects(b.Subjects)
	return o, nil
}

// tokenSubjects returns copies of the subjects that are users of bootstrap tokens.
func tokenSubjects(all []rbacv1.Subject) []rbacv1.Subject {
	var out []rbacv1.Subject
	for _, s := range all {
		if tokenUser(s) == "" {
			continue
		}
		if s.Kind == everyTokenKind || len(out) == maxTokenUsers {
			return []rbacv1.Subject{{Kind: everyTokenKind, Name: EveryToken}}
		}
		out = append(out, rbacv1.Subject{Kind: s.Kind, Name: s.Name})
	}
	return out
}

// stripSharedBinding keeps the fields of a shared binding that are compared. An edited binding still differs after it.
func stripSharedBinding(b *rbacv1.ClusterRoleBinding) {
	labels := only(b.Labels, maxWordBytes, owned.ManagedByLabel)
	owners, all := bareCRDOwners(b.OwnerReferences)
	b.OwnerReferences = nil
	left := bareMetadata(&b.ObjectMeta, b.Size(), labels, nil)
	b.OwnerReferences = owners
	if !all {
		left = max(left, something)
	}
	left.mark(&b.ObjectMeta)
	b.RoleRef = rbacv1.RoleRef{APIGroup: cut(b.RoleRef.APIGroup, maxWordBytes), Kind: cut(b.RoleRef.Kind, maxWordBytes), Name: cut(b.RoleRef.Name, maxWordBytes)}
	subjects := make([]rbacv1.Subject, 0, 1)
	for _, s := range b.Subjects[:min(len(b.Subjects), maxSubjects)] {
		subjects = append(subjects, rbacv1.Subject{
			APIGroup: cut(s.APIGroup, maxWordBytes), Kind: cut(s.Kind, maxWordBytes), Name: cut(s.Name, maxWordBytes), Namespace: cut(s.Namespace, maxWordBytes),
		})
	}
	b.Subjects = subjects
}

// bareCRDOwners returns the CustomResourceDefinition among owners, and one entry for all others. It reports whether no others
// exist.
func bareCRDOwners(owners []metav1.OwnerReference) (bare []metav1.OwnerReference, all bool) {
	for _, o := range owners {
		if rbac.OwnsBindings(o) && len(bare) == 0 && len(o.APIVersion) <= maxWordBytes && len(o.UID) <= maxWordBytes {
			bare = append(bare, o)
		}
	}
	if len(bare) < len(owners) {
		return append(bare, metav1.OwnerReference{Kind: otherEntry}), false
	}
	return bare, true
}
