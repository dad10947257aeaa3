// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"net/url"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
)

// apiServerService is the Service of the API server, and its EndpointSlice, in the namespace default.
const apiServerService = "kubernetes"

// gatherServing adds the node's requests for serving certificates, and what is known of the addresses in them.
func (r *NodeReconciler) gatherServing(ctx context.Context, f *bootstrap.Facts) error {
	if len(f.NodeBootstrap.Spec.ServingCertificate.Addresses) == 0 {
		return nil
	}
	var list certificatesv1.CertificateSigningRequestList
	if err := r.Client.List(ctx, &list, client.MatchingFields{indexServing: f.Name}); err != nil {
		return fmt.Errorf("listing the requests for serving certificates of %s: %w", f.Name, err)
	}
	for i := range list.Items {
		f.ServingRequests = append(f.ServingRequests, &list.Items[i])
	}
	if bootstrap.AllDecided(f.ServingRequests) {
		return nil
	}
	var err error
	if f.ReservedAddresses, err = r.reservedAddresses(ctx, f); err != nil {
		return err
	}
	f.DeclaredElsewhere, err = r.declaredElsewhere(ctx, f)
	return err
}

// reservedAddresses are those at which the API server is reached.
func (r *NodeReconciler) reservedAddresses(ctx context.Context, f *bootstrap.Facts) ([]string, error) {
	var out []string
	for _, server := range []string{f.Cluster.Server, f.NodeBootstrap.Spec.Cluster.Server, f.NodeBootstrap.Status.Server} {
		if u, err := url.Parse(server); err == nil && u.Hostname() != "" {
			out = append(out, u.Hostname())
		}
	}
	service, err := find(ctx, r.Client, metav1.NamespaceDefault, apiServerService, &corev1.Service{})
	if err != nil {
		return nil, err
	}
	if service != nil {
		out = append(out, service.Spec.ClusterIPs...)
	}
	slice, err := find(ctx, r.Client, metav1.NamespaceDefault, apiServerService, &discoveryv1.EndpointSlice{})
	if err != nil || slice == nil {
		return out, err
	}
	for _, e := range slice.Endpoints {
		out = append(out, e.Addresses...)
	}
	return out, nil
}

// declaredElsewhere are the addresses in a node's requests that other NodeBootstraps declare as their own. A node's name is its
// own without being declared.
func (r *NodeReconciler) declaredElsewhere(ctx context.Context, f *bootstrap.Facts) (map[string]string, error) {
	out := map[string]string{}
	for _, key := range bootstrap.AddressesToDecide(f.ServingRequests) {
		var list v1alpha1.NodeBootstrapList
		if err := r.Client.List(ctx, &list, client.MatchingFields{indexAddress: key}); err != nil {
			return nil, fmt.Errorf("listing the NodeBootstraps that declare %q: %w", key, err)
		}
		for i := range list.Items {
			if other := &list.Items[i]; other.Name != f.Name {
				out[key] = other.Name
			}
		}
		if key == f.Name {
			continue
		}
		named, err := find(ctx, r.Client, "", key, &v1alpha1.NodeBootstrap{})
		if err != nil {
			return nil, err
		}
		if named != nil {
			out[key] = named.Name
		}
	}
	return out, nil
}
