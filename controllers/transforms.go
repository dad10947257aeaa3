// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// transforms keep out of memory what nothing is decided on, and hold once what is the same in thousands of objects: what is in a
// cache is never changed. What was transformed may be transformed again, which changes nothing.
type transforms struct {
	mu      sync.Mutex
	strings map[string]string

	// The last ones; they may be large, or of any number.
	labels   map[string]string
	caBundle string
}

func newTransforms() *transforms { return &transforms{strings: map[string]string{}} }

// maxShared bounds the strings that are held once; those that come later are held as often as they come.
const maxShared = 1000

// share makes strings equal to earlier ones the same in memory.
func (t *transforms) share(all ...*string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range all {
		if have, ok := t.strings[*s]; ok {
			*s = have
		} else if len(t.strings) < maxShared {
			t.strings[*s] = *s
		}
	}
}

func (t *transforms) shareLabels(l map[string]string) map[string]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !maps.Equal(t.labels, l) {
		t.labels = l
	}
	return t.labels
}

func (t *transforms) shareCABundle(ca *string) {
	if *ca == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.caBundle == *ca {
		*ca = t.caBundle
	} else {
		t.caBundle = *ca
	}
}

// secret keeps the content of other people's Secrets out of memory, and that of kubeconfigs but for digests.
func (t *transforms) secret(o any) (any, error) {
	s, ok := o.(*corev1.Secret)
	if !ok {
		return o, nil
	}
	s.ManagedFields = nil
	node := bootstrap.NodeOfChild(s)
	if node == "" || !bootstrap.Ours(s, node) {
		s.Data, s.Labels, s.Annotations = ourGroups(s), only(s.Labels, bootstrap.ManagedByLabel), only(s.Annotations, bootstrap.NodeNameAnnotation)
		return o, nil
	}
	if s.Name == bootstrap.KubeconfigSecretName(node) {
		s.Data = bootstrap.Digest(s.Data)
	}
	data := make(map[string][]byte, len(s.Data))
	for key, value := range s.Data {
		t.share(&key)
		data[key] = value
	}
	s.Data, s.Labels = data, t.shareLabels(s.Labels)
	t.share(&s.Namespace, (*string)(&s.Type))
	for i := range s.OwnerReferences {
		t.share(&s.OwnerReferences[i].APIVersion, &s.OwnerReferences[i].Kind)
	}
	return o, nil
}

// ourGroups is what matters of the data of a token that is not ours: whether it is in our groups.
func ourGroups(s *corev1.Secret) map[string][]byte {
	groups := bootstrap.GroupsOfOurs(s)
	if len(groups) == 0 {
		return nil
	}
	return map[string][]byte{bootstrapapi.BootstrapTokenExtraGroupsKey: []byte(strings.Join(groups, ","))}
}

// nodeBootstrap leaves out what GitOps tools and people write for themselves.
func (t *transforms) nodeBootstrap(o any) (any, error) {
	nb, ok := o.(*v1alpha1.NodeBootstrap)
	if !ok {
		return o, nil
	}
	nb.ManagedFields, nb.Labels, nb.Annotations = nil, nil, only(nb.Annotations, v1alpha1.ReissueRequestedAtAnnotation)
	t.share(&nb.Kind, &nb.APIVersion, &nb.Spec.Cluster.Server, &nb.Status.Server, &nb.Status.CAFingerprint)
	for i := range nb.Status.APIServerHosts {
		t.share(&nb.Status.APIServerHosts[i])
	}
	t.shareCABundle(&nb.Spec.Cluster.CABundle)
	if ref := nb.Status.KubeconfigSecretRef; ref != nil {
		t.share(&ref.Namespace)
	}
	for i := range nb.Status.Conditions {
		c := &nb.Status.Conditions[i]
		t.share(&c.Type, (*string)(&c.Status), &c.Reason)
	}
	return o, nil
}

// node leaves a Node's name and which one it is.
func (*transforms) node(o any) (any, error) {
	if n, ok := o.(*metav1.PartialObjectMetadata); ok {
		n.ManagedFields, n.Labels, n.Annotations = nil, nil, nil
	}
	return o, nil
}

// only is a map with one of its keys, or nil.
func only(m map[string]string, key string) map[string]string {
	value, ok := m[key]
	if !ok {
		return nil
	}
	return map[string]string{key: value}
}

// cutRequest keeps of other people's requests the name alone, and of ours just enough to see that one is too large:
// Kubernetes sets no limit, and whoever may ask could fill the memory. On an approval the API server takes the stored
// request, not this one.
func cutRequest(o any) (any, error) {
	if r, ok := o.(*certificatesv1.CertificateSigningRequest); ok {
		r.ManagedFields = nil
		if !slices.Contains(r.Spec.Groups, bootstrap.Group) && servingNode(r) == "" {
			r.Labels, r.Annotations = nil, nil
			r.Spec, r.Status = certificatesv1.CertificateSigningRequestSpec{}, certificatesv1.CertificateSigningRequestStatus{}
		}
		if len(r.Spec.Request) > csr.MaxRequestBytes {
			r.Spec.Request = bytes.Clone(r.Spec.Request[:csr.MaxRequestBytes+1])
		}
	}
	return o, nil
}

// stripBinding keeps of other people's bindings the name, and the users of bootstrap tokens that they name.
func stripBinding(o any) (any, error) {
	if b, ok := o.(*rbacv1.ClusterRoleBinding); ok {
		b.ManagedFields = nil
		if !slices.Contains(bootstrap.BindingNames, b.Name) {
			b.Labels, b.Annotations = nil, nil
			b.Subjects = slices.DeleteFunc(b.Subjects, func(s rbacv1.Subject) bool { return tokenUser(s) == "" })
		}
	}
	return o, nil
}
