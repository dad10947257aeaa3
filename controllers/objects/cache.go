// SPDX-License-Identifier: Apache-2.0

// Package objects configures the cache: which objects it holds, which of their fields, and its indexes. It also reads objects.
package objects

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

const (
	// IndexNode finds Secrets by their node, except kubeconfigs, and CSRs of our tokens by the node that they name.
	IndexNode = "node"
	// StrayTokens is the value of IndexNode for tokens in the operator's groups that no NodeBootstrap owns. It is not a valid
	// node name.
	StrayTokens = "/"
	// IndexToken finds CSRs by the id of the token that they were sent with.
	IndexToken = "token"
	// IndexServing finds CSRs for serving certificates by the node that sent them.
	IndexServing = "serving"
	// IndexRenewal finds CSRs with which a node has renewed its client certificate by the node.
	IndexRenewal = "renewal"
	// IndexKey finds NodeBootstraps by the keys of their nodes: those that are approved, and the pinned one.
	IndexKey = "key"
	// IndexAddress finds NodeBootstraps by the addresses that they declare for their node, except its name.
	IndexAddress = "address"
	// IndexServer finds NodeBootstraps by the hosts at which their nodes reach the API server.
	IndexServer = "server"
	// IndexUser finds ClusterRoleBindings by the users of bootstrap tokens that they name.
	IndexUser = "user"
)

// CacheOptions restricts the cache to the objects that the operator needs, which are also all that it may read.
func CacheOptions(namespace string) cache.Options {
	// Select by type, which is immutable: another client can remove the label of a token.
	tokens := fields.OneTermEqualSelector("type", string(bootstrapapi.SecretTypeBootstrapToken))
	secrets := map[string]cache.Config{token.Namespace: {FieldSelector: tokens, Transform: transformSecret}}
	// Also those of others, without their data: one may have a name that the operator needs.
	secrets[namespace] = cache.Config{Transform: transformSecret}
	configMaps := map[string]cache.Config{
		metav1.NamespacePublic: {FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, bootstrapapi.ConfigMapClusterInfo)},
		namespace:              {FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, RootCAConfigMap)},
	}
	ofAPIServer := map[string]cache.Config{
		metav1.NamespaceDefault: {FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, kubeconfig.APIServerService)},
	}
	return cache.Options{
		ReaderFailOnMissingInformer: true,
		// Each reconcile reads a dozen objects and modifies none.
		DefaultUnsafeDisableDeepCopy: ptr.To(true),
		DefaultTransform:             cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.NodeBootstrap{}:    {Transform: transformNodeBootstrap},
			NodeMetadata():               {Transform: stripNode},
			&corev1.Secret{}:             {Namespaces: secrets},
			&corev1.ConfigMap{}:          {Namespaces: configMaps, Transform: stripConfigMap},
			&rbacv1.ClusterRoleBinding{}: {Transform: stripBinding},
			// Of all signers: a token that is used for another signer was misused.
			&certificatesv1.CertificateSigningRequest{}: {Transform: cutRequest},
			&corev1.Service{}:            {Namespaces: ofAPIServer, Transform: stripService},
			&discoveryv1.EndpointSlice{}: {Namespaces: ofAPIServer, Transform: stripEndpointSlice},
		},
	}
}

// AddIndexes adds the indexes that the reconcilers use.
func AddIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	for _, i := range []index{
		indexBy(IndexNode, oneValue(indexedNode)),
		indexBy(IndexToken, oneValue(func(r *certificatesv1.CertificateSigningRequest) string { return token.IDOfUser(r.Spec.Username) })),
		indexBy(IndexNode, oneValue(lifecycle.RequestedNode)),
		indexBy(IndexServing, oneValue(lifecycle.ServingNode)),
		indexBy(IndexRenewal, oneValue(RenewingNode)),
		indexBy(IndexAddress, func(nb *v1alpha1.NodeBootstrap) []string {
			return csr.DeclaredAddresses(nb.Spec.ServingCertificate.Addresses)
		}),
		indexBy(IndexKey, lifecycle.KeysOf),
		indexBy(IndexServer, kubeconfig.ServerHosts),
		indexBy(IndexUser, tokenUsers),
	} {
		if err := indexer.IndexField(ctx, i.object, i.name, i.values); err != nil {
			return fmt.Errorf("indexing %T by %s: %w", i.object, i.name, err)
		}
	}
	return nil
}

type index struct {
	object client.Object
	name   string
	values client.IndexerFunc
}

func indexBy[T any, P pointer[T]](name string, values func(P) []string) index {
	return index{P(new(T)), name, func(o client.Object) []string { return values(o.(P)) }}
}

// oneValue adapts a function with one value, which is empty for objects that are not in the index.
func oneValue[P any](value func(P) string) func(P) []string {
	return func(o P) []string {
		if v := value(o); v != "" {
			return []string{v}
		}
		return nil
	}
}

func indexedNode(s *corev1.Secret) string {
	node := owned.NodeOf(s)
	switch {
	case token.Stray(s):
		return StrayTokens
	case s.Name == owned.KubeconfigSecretName(node): // found by name
		return ""
	}
	return node
}

// RenewingNode returns the node that has renewed its client certificate with a CSR; empty for other CSRs, and until it has the certificate.
func RenewingNode(r *certificatesv1.CertificateSigningRequest) string {
	node, ok := strings.CutPrefix(r.Spec.Username, "system:node:")
	if !ok || r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName || len(node) > maxWordBytes ||
		!csr.Issued(r) || len(r.Status.Certificate) > maxCertificateBytes {
		return ""
	}
	return node
}

func tokenUsers(b *rbacv1.ClusterRoleBinding) []string {
	var users []string
	for _, s := range b.Subjects {
		if user := tokenUser(s); user != "" {
			users = append(users, user)
		}
	}
	return users
}

// tokenUser returns the user of a subject if it is a bootstrap token's, or EveryToken.
func tokenUser(s rbacv1.Subject) string {
	if s.Kind == everyTokenKind {
		return EveryToken
	}
	if s.Kind != rbacv1.UserKind || token.IDOfUser(s.Name) == "" {
		return ""
	}
	return s.Name
}

const (
	// RootCAConfigMap is published in every namespace by kube-controller-manager (its root-ca-certificate-publisher).
	RootCAConfigMap = "kube-root-ca.crt"
	// RootCAKey is the key of the CA in it.
	RootCAKey = "ca.crt"
)

// NewScheme returns a scheme with all types that the operator reads and writes.
func NewScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	types := runtime.NewSchemeBuilder(clientgoscheme.AddToScheme, v1alpha1.AddToScheme)
	if err := types.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("registering types: %w", err)
	}
	return scheme, nil
}

// SharedBinding matches the bindings with the operator's names, whoever created them.
var SharedBinding = predicate.NewPredicateFuncs(func(o client.Object) bool {
	return slices.Contains(rbac.BindingNames, o.GetName())
})

// FindNodeBootstrap returns a NodeBootstrap; nil if it does not exist or is being deleted.
func FindNodeBootstrap(ctx context.Context, reader client.Reader, name string) (*v1alpha1.NodeBootstrap, error) {
	nb, err := Find(ctx, reader, "", name, &v1alpha1.NodeBootstrap{})
	if err != nil || nb == nil || nb.DeletionTimestamp != nil {
		return nil, err
	}
	return nb, nil
}

// pointer is the type of a pointer to an object.
type pointer[T any] interface {
	*T
	client.Object
}

// Find reads an object into into, and returns it; nil if it does not exist.
func Find[T any, P pointer[T]](ctx context.Context, reader client.Reader, namespace, name string, into P) (P, error) {
	err := reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, into)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %T %s: %w", *into, client.ObjectKey{Namespace: namespace, Name: name}, err)
	}
	return into, nil
}

// NodeMetadata returns an empty Node for reading only the metadata.
func NodeMetadata() *metav1.PartialObjectMetadata {
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Node"))
	return m
}

// ErrBehind returns a conflict: the cache shows an older version of an object.
func ErrBehind(resource schema.GroupResource, name string) error {
	return apierrors.NewConflict(resource, name, errors.New("the cache is behind"))
}

// SameVersion reports whether two objects are the same one in the same version.
func SameVersion(a, b metav1.Object) bool {
	return a.GetUID() == b.GetUID() && a.GetResourceVersion() == b.GetResourceVersion()
}

// ReadByName reads a cluster-scoped object of a kind that the operator may list and not get.
func ReadByName(ctx context.Context, reader client.Reader, list client.ObjectList, name string) error {
	if err := reader.List(ctx, list, client.MatchingFields{metav1.ObjectNameField: name}); err != nil {
		return fmt.Errorf("reading %s in %T: %w", name, list, err)
	}
	return nil
}

// StartTogether starts all informers at once. Otherwise controllers start one after the other, and controller-runtime checks
// only every 0.1 s whether one has synced.
func StartTogether(ctx context.Context, c cache.Cache) error {
	for _, o := range []client.Object{
		&v1alpha1.NodeBootstrap{}, &corev1.Secret{}, &corev1.ConfigMap{}, &certificatesv1.CertificateSigningRequest{}, NodeMetadata(),
		&rbacv1.ClusterRoleBinding{}, &corev1.Service{}, &discoveryv1.EndpointSlice{},
	} {
		if _, err := c.GetInformer(ctx, o, cache.BlockUntilSynced(false)); err != nil {
			return fmt.Errorf("setting up the cache for %T: %w", o, err)
		}
	}
	return nil
}
