// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
)

// gatherServing adds the node's CSRs for serving certificates, and who reserves or declares their addresses.
func (r *Reconciler) gatherServing(ctx context.Context, f *lifecycle.Facts) error {
	if len(f.NodeBootstrap.Spec.ServingCertificate.Addresses) == 0 {
		return nil
	}
	var list certificatesv1.CertificateSigningRequestList
	if err := r.Client.List(ctx, &list, client.MatchingFields{objects.IndexServing: f.Name}); err != nil {
		return fmt.Errorf("listing the requests for serving certificates of %s: %w", f.Name, err)
	}
	for i := range list.Items {
		f.ServingRequests = append(f.ServingRequests, &list.Items[i])
	}
	if lifecycle.AllDecided(f.ServingRequests) {
		return nil
	}
	return r.gatherAddresses(ctx, f)
}

// gatherAddresses adds who reserves or declares the addresses in the pending CSRs.
func (r *Reconciler) gatherAddresses(ctx context.Context, f *lifecycle.Facts) error {
	var err error
	if f.ReservedAddresses, err = r.reservedAddresses(ctx, f); err != nil {
		return err
	}
	f.DeclaredElsewhere, err = r.declaredElsewhere(ctx, f)
	return err
}

// reservedAddresses returns all addresses of the API server.
func (r *Reconciler) reservedAddresses(ctx context.Context, f *lifecycle.Facts) ([]csr.Reservation, error) {
	out, err := r.Discovery.Reserved(ctx)
	if err != nil {
		return nil, err
	}
	// The node's own NodeBootstrap may come from an uncached read, while the cache shows an older one.
	for _, host := range kubeconfig.ServerHosts(f.NodeBootstrap) {
		out = append(out, kubeconfig.ReservedByNodeBootstrap(host, f.Name))
	}
	service, err := objects.Find(ctx, r.Client, metav1.NamespaceDefault, kubeconfig.APIServerService, &corev1.Service{})
	if err != nil {
		return nil, err
	}
	slice, err := objects.Find(ctx, r.Client, metav1.NamespaceDefault, kubeconfig.APIServerService, &discoveryv1.EndpointSlice{})
	if err != nil {
		return nil, err
	}
	out = append(out, kubeconfig.ReservedByService(service, slice)...)
	known := sets.New[string]()
	for _, one := range out {
		known.Insert(csr.HostKey(one.Host))
	}
	for _, key := range lifecycle.AddressesToDecide(f.ServingRequests) {
		if known.Has(key) { // usually most NodeBootstraps have the same server
			continue
		}
		names, err := r.namesBy(ctx, objects.IndexServer, key)
		if err != nil {
			return nil, err
		}
		if len(names) > 0 {
			out = append(out, kubeconfig.ReservedByNodeBootstrap(key, names[0]))
		}
	}
	return out, nil
}

// namesBy returns the names of the NodeBootstraps that an index has for a value, sorted, since the cache has no order.
func (r *Reconciler) namesBy(ctx context.Context, index, value string) ([]string, error) {
	var list v1alpha1.NodeBootstrapList
	if err := r.Client.List(ctx, &list, client.MatchingFields{index: value}); err != nil {
		return nil, fmt.Errorf("listing the NodeBootstraps with the %s %q: %w", index, value, err)
	}
	var out []string
	for i := range list.Items {
		out = append(out, list.Items[i].Name)
	}
	slices.Sort(out)
	return out, nil
}

// declaredElsewhere returns the addresses in a node's CSRs that other NodeBootstraps declare. A node's name needs no
// declaration.
func (r *Reconciler) declaredElsewhere(ctx context.Context, f *lifecycle.Facts) (map[string]string, error) {
	out := map[string]string{}
	for _, key := range lifecycle.AddressesToDecide(f.ServingRequests) {
		names, err := r.namesBy(ctx, objects.IndexAddress, key)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if name != f.Name {
				out[key] = name
			}
		}
		if key == f.Name {
			continue
		}
		named, err := objects.Find(ctx, r.Client, "", key, &v1alpha1.NodeBootstrap{})
		if err != nil {
			return nil, err
		}
		if named != nil {
			out[key] = named.Name
		}
	}
	return out, nil
}

// servingStillHolds gathers the facts for a serving certificate again, and reports whether they still allow its approval. The
// node's own NodeBootstrap comes from an uncached read, since its server and addresses may have changed since the decision.
// Reservations of others come from the cache: an approval a moment earlier would be final as well.
func (r *Reconciler) servingStillHolds(ctx context.Context, decided, current *v1alpha1.NodeBootstrap, request *certificatesv1.CertificateSigningRequest) (bool, error) {
	f := &lifecycle.Facts{
		Name: current.Name, Namespace: r.Namespace, NodeBootstrap: current,
		ServingRequests: []*certificatesv1.CertificateSigningRequest{request},
	}
	var err error
	if f.Cluster, f.ClusterProblem, err = r.Discovery.Resolve(ctx, current.Spec.Cluster, r.Clock.Now()); err != nil {
		return false, err
	}
	if err := r.gatherAddresses(ctx, f); err != nil {
		return false, err
	}
	return lifecycle.SupportsServing(decided, f, request), nil
}
