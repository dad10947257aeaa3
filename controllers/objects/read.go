// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"context"
	"errors"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// FindNodeBootstrap returns a NodeBootstrap; nil if it does not exist or is being deleted.
func FindNodeBootstrap(ctx context.Context, reader client.Reader, name string) (*v1alpha1.NodeBootstrap, error) {
	nb, err := Find(ctx, reader, "", name, &v1alpha1.NodeBootstrap{})
	if err != nil || nb == nil || nb.DeletionTimestamp != nil {
		return nil, err
	}
	return nb, nil
}

// Find reads an object into into, and returns it; nil if it does not exist.
func Find[T any, P interface {
	*T
	client.Object
}](ctx context.Context, reader client.Reader, namespace, name string, into P) (P, error) {
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
