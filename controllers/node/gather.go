// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/controllers/writes"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// gather reads the objects of a node; gatherCluster reads the rest. An absent object is a value. After a failed read, gather
// returns an error with the facts read so far.
func (r *Reconciler) gather(ctx context.Context, name string) (*lifecycle.Facts, error) {
	f := &lifecycle.Facts{Name: name, Namespace: r.Namespace, ClusterWideForbidden: !r.AllowClusterWide}
	var err error
	if f.NodeBootstrap, err = objects.FindNodeBootstrap(ctx, r.Client, name); err != nil {
		return f, err
	}
	if f.TokenSecrets, err = r.tokenSecrets(ctx, name, f.NodeBootstrap); err != nil {
		return f, err
	}
	if f.NodeBootstrap != nil {
		f.UpgradeStatus()
	}
	if f.Kubeconfig, err = objects.Find(ctx, r.Client, r.Namespace, owned.KubeconfigSecretName(name), &corev1.Secret{}); err != nil {
		return f, err
	}
	f.Requests, err = r.tokenCSRs(ctx, f)
	return f, err
}

// gatherCluster adds the facts that matter only while a NodeBootstrap exists.
func (r *Reconciler) gatherCluster(ctx context.Context, f *lifecycle.Facts) error {
	if f.NodeBootstrap == nil {
		return nil
	}
	err := r.wholeNodeBootstrap(ctx, f)
	if err != nil {
		return err
	}
	if f.PinnedElsewhere, err = r.pinnedElsewhere(ctx, f.NodeBootstrap); err != nil {
		return err
	}
	if f.KeysElsewhere, err = r.keysElsewhere(ctx, f.NodeBootstrap, lifecycle.KeysToDecide(f.Requests)); err != nil {
		return err
	}
	if f.Cluster, f.ClusterProblem, err = r.Discovery.Resolve(ctx, f.NodeBootstrap.Spec.Cluster, r.Clock.Now()); err != nil {
		return err
	}

	bindings := map[string]*rbacv1.ClusterRoleBinding{}
	for _, name := range rbac.BindingNames {
		if bindings[name], err = objects.Find(ctx, r.Client, "", name, &rbacv1.ClusterRoleBinding{}); err != nil {
			return err
		}
	}
	f.BindingsProblem = rbac.ProblemFor(f.NodeBootstrap, bindings)
	r.gatherBindingsProblem(f)

	if f.Bypass, err = r.Detector.Bypass(ctx, f.NodeBootstrap); err != nil {
		return err
	}
	if err := r.gatherServing(ctx, f); err != nil {
		return err
	}
	if f.Node, err = objects.Find(ctx, r.Client, "", f.Name, objects.NodeMetadata()); err != nil {
		return err
	}
	if f.Renewals, err = r.renewals(ctx, f.Name); err != nil {
		return err
	}
	live := f.NeedsLive()
	return r.gatherUncached(ctx, f, live || f.NeedsReady(r.Clock.Now()), live || f.NeedsLease(r.Clock.Now()))
}

// renewals returns the CSRs with which a node has renewed its client certificate.
func (r *Reconciler) renewals(ctx context.Context, node string) ([]*certificatesv1.CertificateSigningRequest, error) {
	var list certificatesv1.CertificateSigningRequestList
	if err := r.Client.List(ctx, &list, client.MatchingFields{objects.IndexRenewal: node}); err != nil {
		return nil, fmt.Errorf("listing the requests with which %s has renewed its certificate: %w", node, err)
	}
	var out []*certificatesv1.CertificateSigningRequest
	for i := range list.Items {
		out = append(out, &list.Items[i])
	}
	return out, nil
}

// gatherBindingsProblem adds why the shared bindings are not as they should be, if another writer or a failed write is the
// cause.
func (r *Reconciler) gatherBindingsProblem(f *lifecycle.Facts) {
	for _, name := range rbac.BindingNames {
		if !rbac.Needs(f.NodeBootstrap, name) {
			continue
		}
		i, failure := r.Writes.Interference(writes.BindingName(name), r.Clock.Now()), r.Writes.Failure(writes.BindingName(name))
		switch {
		case i != nil && !i.Harmless():
			f.BindingsProblem = i.Problem()
			return
		case failure != nil && f.BindingsProblem != nil && f.BindingsProblem.Reason == v1alpha1.ReasonBindingsPending:
			f.BindingsProblem = &problem.Problem{Reason: v1alpha1.ReasonWriteFailed, Message: fmt.Sprintf("%v; this is tried again", failure)}
		}
	}
}

// gatherUncached reads the Node's status, or the Lease, or both: they show whether a kubelet runs as the node. Neither is in the cache.
func (r *Reconciler) gatherUncached(ctx context.Context, f *lifecycle.Facts, readNode, readLease bool) error {
	if !readNode && !readLease {
		return nil
	}
	reads := r.semaphores.get().uncachedNodes
	if err := reads.Acquire(ctx, 1); err != nil {
		return err
	}
	defer reads.Release(1)
	if readNode {
		node, err := objects.Find(ctx, r.Uncached, "", f.Name, &corev1.Node{})
		if err != nil {
			return err
		}
		if node != nil && node.UID == f.Node.UID {
			f.NodeConditions = node.Status.Conditions
		}
		f.NodeReported = node != nil && node.Status.NodeInfo.KubeletVersion != ""
	}
	if !readLease {
		return nil
	}
	lease, err := objects.Find(ctx, r.Uncached, corev1.NamespaceNodeLease, f.Name, &coordinationv1.Lease{})
	if err == nil && lease != nil {
		f.LeaseRenewed = lifecycle.LeaseRenewed(lease)
	}
	return err
}

// wholeNodeBootstrap reads the CA of a large NodeBootstrap, which is not in the cache: a bundle can have 64 KiB, and each
// NodeBootstrap its own.
func (r *Reconciler) wholeNodeBootstrap(ctx context.Context, f *lifecycle.Facts) error {
	if !objects.IsLarge(f.NodeBootstrap) {
		return nil
	}
	whole, err := objects.FindNodeBootstrap(ctx, r.Uncached, f.Name)
	if err != nil {
		return err
	}
	if whole == nil || !objects.SameVersion(whole, f.NodeBootstrap) {
		return objects.ErrBehind(v1alpha1.GroupVersion.WithResource("nodebootstraps").GroupResource(), f.Name)
	}
	shown := f.NodeBootstrap.DeepCopy()
	shown.Spec.Cluster.CABundle = whole.Spec.Cluster.CABundle
	f.NodeBootstrap = shown
	return nil
}

// tokenSecrets returns the Secrets in the cache and the one that the status names: the cache may be stale, and a live token
// must not be missed.
func (r *Reconciler) tokenSecrets(ctx context.Context, node string, nb *v1alpha1.NodeBootstrap) ([]*corev1.Secret, error) {
	cached, err := r.cachedTokens(ctx, node, nb)
	if err != nil || nb == nil || nb.Status.Token == nil {
		return cached, err
	}
	named := token.SecretName(nb.Status.Token.ID)
	if slices.ContainsFunc(cached, func(s *corev1.Secret) bool { return s.Name == named }) {
		return cached, nil
	}
	s, err := r.uncachedSecret(ctx, node, token.Namespace, named)
	if s != nil && (owned.Ours(s, node) || token.Stray(s) && token.Gave(nb, nb.Status.Token.ID)) {
		cached = append(cached, s)
	}
	return cached, err
}

// uncachedSecret reads a Secret for a node from the API server, and keeps only what the cache would keep.
func (r *Reconciler) uncachedSecret(ctx context.Context, node, namespace, name string) (*corev1.Secret, error) {
	s, err := objects.Find(ctx, r.Uncached, namespace, name, &corev1.Secret{})
	if s != nil {
		objects.StripSecretOf(s, node)
	}
	return s, err
}

// cachedTokens returns the Secrets whose metadata names the node, and those without metadata whose id is of a token of its
// NodeBootstrap: another client removed their metadata, and the plan deletes them.
func (r *Reconciler) cachedTokens(ctx context.Context, node string, nb *v1alpha1.NodeBootstrap) ([]*corev1.Secret, error) {
	list := func(value string, is func(*corev1.Secret) bool) ([]*corev1.Secret, error) {
		var list corev1.SecretList
		err := r.Client.List(ctx, &list, client.InNamespace(token.Namespace), client.MatchingFields{objects.IndexNode: value})
		if err != nil {
			return nil, fmt.Errorf("listing the token Secrets of %s: %w", value, err)
		}
		var out []*corev1.Secret
		for i := range list.Items {
			if s := &list.Items[i]; is(s) {
				out = append(out, s)
			}
		}
		return out, nil
	}
	own, err := list(node, func(s *corev1.Secret) bool { return owned.Ours(s, node) })
	if err != nil || nb == nil {
		return own, err
	}
	stray, err := list(objects.StrayTokens, func(s *corev1.Secret) bool { return token.Gave(nb, token.IDOfSecret(s.Name)) })
	return append(own, stray...), err
}

// tokenCSRs returns the CSRs that were sent with tokens that the node has or had, and those that name the node and were sent
// with deleted tokens in our group.
func (r *Reconciler) tokenCSRs(ctx context.Context, f *lifecycle.Facts) ([]*certificatesv1.CertificateSigningRequest, error) {
	ids := f.KnownTokenIDs()
	var out []*certificatesv1.CertificateSigningRequest
	for id := range ids {
		var list certificatesv1.CertificateSigningRequestList
		if err := r.Client.List(ctx, &list, client.MatchingFields{objects.IndexToken: id}); err != nil {
			return nil, fmt.Errorf("listing the requests sent with the token %s: %w", id, err)
		}
		for i := range list.Items {
			out = append(out, &list.Items[i])
		}
	}
	var list certificatesv1.CertificateSigningRequestList
	if err := r.Client.List(ctx, &list, client.MatchingFields{objects.IndexNode: f.Name}); err != nil {
		return nil, fmt.Errorf("listing the requests that name %s: %w", f.Name, err)
	}
	gone := map[string]bool{}
	for i := range list.Items {
		request := &list.Items[i]
		id := token.IDOfUser(request.Spec.Username)
		if id != "" && !ids.Has(id) {
			f.FormerTokenIDs = append(f.FormerTokenIDs, id)
		}
		if id == "" || ids.Has(id) || csr.Settled(request) { // a user in our group that is not a bootstrap token is unknown
			continue
		}
		if _, asked := gone[id]; !asked {
			var err error
			if gone[id], err = r.tokenAbsent(ctx, id); err != nil {
				return nil, err
			}
		}
		if gone[id] {
			out = append(out, request)
		}
	}
	return out, nil
}

// tokenAbsent reports whether no token of an id exists. A token of another node usually is in the cache, unless it is too new.
func (r *Reconciler) tokenAbsent(ctx context.Context, id string) (bool, error) {
	for _, reader := range []client.Reader{r.Client, r.Uncached} {
		secret, err := objects.Find(ctx, reader, token.Namespace, token.SecretName(id), &corev1.Secret{})
		if err != nil || secret != nil {
			return false, err
		}
	}
	return true, nil
}
