// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

const (
	// indexNode finds what is for a node: token Secrets, and requests of our tokens that name it.
	indexNode = "node"
	// indexToken finds requests by the id of the token that sent them.
	indexToken = "token"
)

// CacheOptions restricts what the operator holds in memory to what it decides on, which is also all that it may read.
func CacheOptions(namespace string) cache.Options {
	managed := labels.SelectorFromSet(labels.Set{bootstrap.ManagedByLabel: bootstrap.ManagedBy})
	secrets := map[string]cache.Config{bootstrap.TokenNamespace: {LabelSelector: managed, Transform: stripSecret}}
	// Here also those of others, without their data: one may have a name that is needed.
	secrets[namespace] = cache.Config{Transform: stripSecret}
	configMaps := map[string]cache.Config{
		metav1.NamespacePublic: {FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, bootstrapapi.ConfigMapClusterInfo)},
		namespace:              {FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, rootCAConfigMap)},
	}
	return cache.Options{
		ReaderFailOnMissingInformer: true,
		DefaultTransform:            cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Secret{}:             {Namespaces: secrets},
			&corev1.ConfigMap{}:          {Namespaces: configMaps},
			&rbacv1.ClusterRoleBinding{}: {Transform: stripBinding},
			&certificatesv1.CertificateSigningRequest{}: {
				Field:     fields.OneTermEqualSelector("spec.signerName", certificatesv1.KubeAPIServerClientKubeletSignerName),
				Transform: cutRequest,
			},
		},
	}
}

// stripSecret keeps the content of other people's Secrets out of memory.
func stripSecret(o any) (any, error) {
	if s, ok := o.(*corev1.Secret); ok {
		s.ManagedFields = nil
		if bootstrap.NodeOfChild(s) == "" || !bootstrap.Ours(s, bootstrap.NodeOfChild(s)) {
			s.Data = nil
		}
	}
	return o, nil
}

// cutRequest keeps of a request just enough to see that it is too large: Kubernetes sets no limit, and whoever has a token
// could fill the memory. On an approval the API server takes the stored request, not ours.
func cutRequest(o any) (any, error) {
	if r, ok := o.(*certificatesv1.CertificateSigningRequest); ok {
		r.ManagedFields = nil
		if len(r.Spec.Request) > csr.MaxRequestBytes {
			r.Spec.Request = bytes.Clone(r.Spec.Request[:csr.MaxRequestBytes+1])
		}
	}
	return o, nil
}

// stripBinding keeps of other people's bindings the name alone.
func stripBinding(o any) (any, error) {
	if b, ok := o.(*rbacv1.ClusterRoleBinding); ok {
		b.ManagedFields = nil
		if !slices.Contains(bootstrap.BindingNames, b.Name) {
			b.Labels, b.Annotations, b.Subjects = nil, nil, nil
		}
	}
	return o, nil
}

// AddIndexes teaches a cache the indexes that the reconcilers read by.
func AddIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	for _, i := range []struct {
		object client.Object
		name   string
		values client.IndexerFunc
	}{
		{&corev1.Secret{}, indexNode, func(o client.Object) []string { return nonEmpty(bootstrap.NodeOfChild(o)) }},
		{&certificatesv1.CertificateSigningRequest{}, indexToken, func(o client.Object) []string {
			return nonEmpty(bootstrap.TokenIDOfUser(o.(*certificatesv1.CertificateSigningRequest).Spec.Username))
		}},
		{&certificatesv1.CertificateSigningRequest{}, indexNode, func(o client.Object) []string {
			return nonEmpty(requestedNode(o.(*certificatesv1.CertificateSigningRequest)))
		}},
	} {
		if err := indexer.IndexField(ctx, i.object, i.name, i.values); err != nil {
			return fmt.Errorf("indexing %T by %s: %w", i.object, i.name, err)
		}
	}
	return nil
}

// requestedNode is the node that a request names, if a token of ours sent it: the API server writes the groups.
func requestedNode(r *certificatesv1.CertificateSigningRequest) string {
	if !slices.Contains(r.Spec.Groups, bootstrap.Group) {
		return ""
	}
	return csr.RequestedNode(r)
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}
