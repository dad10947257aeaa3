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
	toolscache "k8s.io/client-go/tools/cache"
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

// transform changes the objects of one type.
func transform[T any](change func(*T)) toolscache.TransformFunc {
	return func(o any) (any, error) {
		if object, ok := o.(*T); ok {
			change(object)
		}
		return o, nil
	}
}

// intern makes equal strings share their memory.
func intern[S ~string](all ...*S) {
	for _, s := range all {
		*s = unique.Make(*s).Value()
	}
}

// ownLabels are the labels of the operator's Secrets. The map is shared, and never modified.
var ownLabels = map[string]string{owned.ManagedByLabel: owned.ManagedBy}

// transformSecret is StripSecret, and shares the memory of common values.
var transformSecret = transform(func(s *corev1.Secret) {
	StripSecret(s)
	if maps.Equal(s.Labels, ownLabels) {
		s.Labels = ownLabels
	}
	intern(&s.Namespace)
	intern(&s.Type)
	for i := range s.OwnerReferences {
		intern(&s.OwnerReferences[i].APIVersion, &s.OwnerReferences[i].Kind)
	}
})

// transformNodeBootstrap is StripNodeBootstrap, and shares the memory of common values.
var transformNodeBootstrap = transform(func(nb *v1alpha1.NodeBootstrap) {
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
})

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
	stripStatus(&nb.Status)
}

func stripStatus(s *v1alpha1.NodeBootstrapStatus) {
	s.LastHandledReissueAt = token.NormalReissue(s.LastHandledReissueAt)
	cutAll(maxServerBytes, &s.Server)
	cutAll(maxWordBytes, &s.CAFingerprint, &s.LastTokenID)
	cutAll(maxWordBytes, &s.NodeUID)
	if s.Token != nil {
		cutAll(maxWordBytes, &s.Token.ID)
	}
	if ref := s.KubeconfigSecretRef; ref != nil {
		cutAll(maxWordBytes, &ref.Namespace, &ref.Name)
	}
	for i := range s.APIServerHosts {
		cutAll(maxServerBytes, &s.APIServerHosts[i])
	}
	if len(s.Conditions) > maxStatusConditions {
		s.Conditions = slices.Clone(s.Conditions[:maxStatusConditions])
	}
	for i := range s.Conditions {
		c := &s.Conditions[i]
		cutAll(maxWordBytes, &c.Type, &c.Reason)
		cutAll(status.MaxConditionMessage, &c.Message)
	}
	for i := range s.Certificates {
		d := &s.Certificates[i]
		cutAll(maxWordBytes, &d.Name, &d.TokenID, &d.KeyFingerprint, &d.Reason)
		cutAll(maxWordBytes, &d.UID)
		cutAll(maxServerBytes, &d.SignerName, &d.Message)
	}
	for i := range s.Tokens {
		cutAll(maxWordBytes, &s.Tokens[i].ID)
		for j := range s.Tokens[i].CSRs {
			c := &s.Tokens[i].CSRs[j]
			cutAll(maxWordBytes, &c.Name, &c.KeyFingerprint, &c.Reason)
			cutAll(maxWordBytes, &c.UID)
		}
	}
	for i := range s.Keys {
		stripKey(&s.Keys[i])
	}
	if s.ReplacedKey != nil {
		stripKey(s.ReplacedKey)
	}
	for i := range s.KeyFingerprints {
		cutAll(maxWordBytes, &s.KeyFingerprints[i])
	}
	for i := range s.UnrevokedCertificates {
		c := &s.UnrevokedCertificates[i]
		cutAll(maxWordBytes, &c.Name, &c.KeyFingerprint, &c.Reason)
		cutAll(maxWordBytes, &c.UID)
	}
}

func stripKey(k *v1alpha1.SentKey) { cutAll(maxWordBytes, &k.TokenID, &k.KeyFingerprint, &k.Name) }

const (
	// maxServerBytes is the maximum length of a URL in the schema.
	maxServerBytes = 2048
	// maxStatusConditions is more than the number of condition types.
	maxStatusConditions = 16
)

// stripNode keeps a Node's name and identity.
var stripNode = transform(func(n *metav1.PartialObjectMetadata) {
	if bareMetadata(&n.ObjectMeta, metadataSize(&n.ObjectMeta), nil, nil) == much {
		much.mark(&n.ObjectMeta)
	}
})

// stripConfigMap keeps the one key that is read, and cuts its value just above the maximum size, so that a too long value is
// still rejected.
var stripConfigMap = transform(func(c *corev1.ConfigMap) {
	bareMetadata(&c.ObjectMeta, c.Size(), nil, nil)
	key, most := RootCAKey, kubeconfig.MaxCABytes+1
	if c.Name == bootstrapapi.ConfigMapClusterInfo {
		key, most = bootstrapapi.KubeConfigKey, kubeconfig.MaxClusterInfoBytes+1
	}
	c.Data, c.BinaryData, c.Immutable = only(c.Data, most, key), nil, nil
})

// stripService and stripEndpointSlice keep all addresses, since no node may get a serving certificate for them. Only one object
// of each kind is cached.
var stripService = transform(func(s *corev1.Service) {
	bareMetadata(&s.ObjectMeta, s.Size(), nil, nil)
	s.Spec = corev1.ServiceSpec{
		ClusterIP: s.Spec.ClusterIP, ClusterIPs: s.Spec.ClusterIPs, ExternalIPs: s.Spec.ExternalIPs,
		ExternalName: s.Spec.ExternalName, LoadBalancerIP: s.Spec.LoadBalancerIP,
	}
	s.Status.Conditions = nil
	for i := range s.Status.LoadBalancer.Ingress {
		s.Status.LoadBalancer.Ingress[i].Ports = nil
	}
})

var stripEndpointSlice = transform(func(s *discoveryv1.EndpointSlice) {
	bareMetadata(&s.ObjectMeta, s.Size(), nil, nil)
	s.Ports = nil
	for i := range s.Endpoints {
		s.Endpoints[i] = discoveryv1.Endpoint{Addresses: s.Endpoints[i].Addresses}
	}
})

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
var stripBinding = transform(func(b *rbacv1.ClusterRoleBinding) {
	if slices.Contains(rbac.BindingNames, b.Name) {
		stripSharedBinding(b)
		return
	}
	bareMetadata(&b.ObjectMeta, b.Size(), nil, nil)
	b.RoleRef, b.Subjects = rbacv1.RoleRef{}, tokenSubjects(b.Subjects)
})

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
	bareMetadataWithOwners(&b.ObjectMeta, b.Size(), labels, nil, bareCRDOwners(b.OwnerReferences)).mark(&b.ObjectMeta)
	cutAll(maxWordBytes, &b.RoleRef.APIGroup, &b.RoleRef.Kind, &b.RoleRef.Name)
	b.Subjects = slices.Clone(b.Subjects[:min(len(b.Subjects), maxSubjects)])
	for i := range b.Subjects {
		s := &b.Subjects[i]
		cutAll(maxWordBytes, &s.APIGroup, &s.Kind, &s.Name, &s.Namespace)
	}
}

// bareCRDOwners returns the CustomResourceDefinition among owners, and one entry for all others.
func bareCRDOwners(owners []metav1.OwnerReference) (bare []metav1.OwnerReference) {
	for _, o := range owners {
		if rbac.OwnsBindings(o) && len(bare) == 0 && len(o.APIVersion) <= maxWordBytes && len(o.UID) <= maxWordBytes {
			bare = append(bare, o)
		}
	}
	if len(bare) < len(owners) {
		bare = append(bare, metav1.OwnerReference{Kind: otherEntry})
	}
	return bare
}
