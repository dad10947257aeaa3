// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

const (
	// indexNode finds what is for a node: Secrets but its kubeconfig's, and requests of our tokens that name it.
	indexNode = "node"
	// strayTokens is the value of indexNode of tokens in the operator's groups that say of no NodeBootstrap that they are its own.
	// It is the name of no node.
	strayTokens = "/"
	// indexToken finds requests by the id of the token that sent them.
	indexToken = "token"
	// indexServing finds requests for serving certificates by the node that sent them.
	indexServing = "serving"
	// indexKey finds NodeBootstraps by the keys that client certificates were approved for in their node's name.
	indexKey = "key"
	// indexAddress finds NodeBootstraps by the addresses that they declare as their node's own, besides its name.
	indexAddress = "address"
	// indexServer finds NodeBootstraps by the hosts at which their nodes reach the API server.
	indexServer = "server"
	// indexUser finds ClusterRoleBindings by the bootstrap tokens' users that they name.
	indexUser = "user"
)

// CacheOptions restricts what the operator holds in memory to what it decides on, which is also all that it may read.
func CacheOptions(namespace string) cache.Options {
	// By the type, which cannot be changed: another client may remove the label of a token.
	tokens := fields.OneTermEqualSelector("type", string(bootstrapapi.SecretTypeBootstrapToken))
	secrets := map[string]cache.Config{bootstrap.TokenNamespace: {FieldSelector: tokens, Transform: transformSecret}}
	// Here also those of others, without their data: one may have a name that is needed.
	secrets[namespace] = cache.Config{Transform: transformSecret}
	configMaps := map[string]cache.Config{
		metav1.NamespacePublic: {FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, bootstrapapi.ConfigMapClusterInfo)},
		namespace:              {FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, rootCAConfigMap)},
	}
	ofAPIServer := map[string]cache.Config{
		metav1.NamespaceDefault: {FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, apiServerService)},
	}
	return cache.Options{
		ReaderFailOnMissingInformer: true,
		// Each reconcile reads a dozen objects and changes none.
		DefaultUnsafeDisableDeepCopy: ptr.To(true),
		DefaultTransform:             cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.NodeBootstrap{}:    {Transform: transformNodeBootstrap},
			nodeMetadata():               {Transform: stripNode},
			&corev1.Secret{}:             {Namespaces: secrets},
			&corev1.ConfigMap{}:          {Namespaces: configMaps, Transform: stripConfigMap},
			&rbacv1.ClusterRoleBinding{}: {Transform: stripBinding},
			// Of all signers: a token that is used for another one is in wrong hands.
			&certificatesv1.CertificateSigningRequest{}: {Transform: cutRequest},
			&corev1.Service{}:            {Namespaces: ofAPIServer, Transform: stripService},
			&discoveryv1.EndpointSlice{}: {Namespaces: ofAPIServer, Transform: stripEndpointSlice},
		},
	}
}

// AddIndexes teaches a cache the indexes that the reconcilers read by.
func AddIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	for _, i := range []struct {
		object client.Object
		name   string
		values client.IndexerFunc
	}{
		{&corev1.Secret{}, indexNode, func(o client.Object) []string {
			if bootstrap.Stray(o.(*corev1.Secret)) {
				return []string{strayTokens}
			}
			node := bootstrap.NodeOfChild(o)
			if o.GetName() == bootstrap.KubeconfigSecretName(node) { // it is found by its name
				return nil
			}
			return nonEmpty(node)
		}},
		{&certificatesv1.CertificateSigningRequest{}, indexToken, func(o client.Object) []string {
			return nonEmpty(bootstrap.TokenIDOfUser(o.(*certificatesv1.CertificateSigningRequest).Spec.Username))
		}},
		{&certificatesv1.CertificateSigningRequest{}, indexNode, func(o client.Object) []string {
			return nonEmpty(requestedNode(o.(*certificatesv1.CertificateSigningRequest)))
		}},
		{&certificatesv1.CertificateSigningRequest{}, indexServing, func(o client.Object) []string {
			return nonEmpty(servingNode(o.(*certificatesv1.CertificateSigningRequest)))
		}},
		{&v1alpha1.NodeBootstrap{}, indexAddress, func(o client.Object) []string {
			return csr.DeclaredAddresses(o.(*v1alpha1.NodeBootstrap).Spec.ServingCertificate.Addresses)
		}},
		{&v1alpha1.NodeBootstrap{}, indexKey, func(o client.Object) []string {
			return bootstrap.ClaimedKeys(o.(*v1alpha1.NodeBootstrap))
		}},
		{&v1alpha1.NodeBootstrap{}, indexServer, func(o client.Object) []string {
			return bootstrap.ServerHosts(o.(*v1alpha1.NodeBootstrap))
		}},
		{&rbacv1.ClusterRoleBinding{}, indexUser, func(o client.Object) []string {
			var users []string
			for _, s := range o.(*rbacv1.ClusterRoleBinding).Subjects {
				users = append(users, nonEmpty(tokenUser(s))...)
			}
			return users
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

// servingNode is the node that has sent a request for a serving certificate; empty when it is another kind of request.
func servingNode(r *certificatesv1.CertificateSigningRequest) string {
	node, ok := strings.CutPrefix(r.Spec.Username, "system:node:")
	if !ok || r.Spec.SignerName != certificatesv1.KubeletServingSignerName {
		return ""
	}
	return node
}

// tokenUser is the user of a subject if it is a bootstrap token's, or everyToken.
func tokenUser(s rbacv1.Subject) string {
	if s.Kind == everyTokenKind {
		return everyToken
	}
	if s.Kind != rbacv1.UserKind || bootstrap.TokenIDOfUser(s.Name) == "" {
		return ""
	}
	return s.Name
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}
