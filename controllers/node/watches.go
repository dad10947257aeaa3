// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// nodeConcurrency is how many nodes are reconciled at a time. Most of that time is waiting for the API server.
const nodeConcurrency = 48

// SetupWithManager sets up watches for everything that a node depends on.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	all := prioritized{EventHandler: handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, _ client.Object) []reconcile.Request { return r.everyNode(ctx) })}
	none := handler.Funcs{} // no reconcile is needed: it is read from the cache when a CSR needs it
	b := ctrl.NewControllerManagedBy(mgr).
		Named("node").
		Watches(&v1alpha1.NodeBootstrap{}, prioritized{handler.EnqueueRequestsFromMapFunc(r.requestsOfNodeBootstrap), isNotOnlyStatus}).
		Watches(&corev1.Secret{}, prioritized{handler.EnqueueRequestsFromMapFunc(r.requestsOfSecret), isDeletion}).
		Watches(&certificatesv1.CertificateSigningRequest{}, prioritized{handler.EnqueueRequestsFromMapFunc(r.requestsOfCSR), awaitsVerdict}).
		WatchesMetadata(&corev1.Node{}, &handler.EnqueueRequestForObject{}, builder.WithPredicates(createdOrDeleted)).
		Watches(&corev1.ConfigMap{}, all, builder.WithPredicates(usedConfigMap)).
		Watches(&corev1.Service{}, none).
		Watches(&discoveryv1.EndpointSlice{}, none).
		Watches(&rbacv1.ClusterRoleBinding{}, all, builder.WithPredicates(objects.SharedBinding)).
		WatchesRawSource(source.Func(func(ctx context.Context, q queue) error {
			if err := r.Discovery.CAFileProblem(r.Clock.Now()); err != nil {
				log.FromContext(ctx).Error(err, "NodeBootstraps without a CA of their own wait until the file is fixed")
			}
			go r.Discovery.WatchCAFile(ctx, func() {
				for _, request := range r.everyNode(ctx) {
					lowPriority(q).Add(request)
				}
			})
			return nil
		})).
		WatchesRawSource(source.Channel(r.Detector.Changed(), all)).
		WithOptions(controller.Options{MaxConcurrentReconciles: nodeConcurrency})
	if certificates := r.Discovery.Certificates; certificates != nil {
		b.WatchesRawSource(source.Channel(certificates.Changed(), all))
	}
	return b.Complete(r)
}

// createdOrDeleted filters out updates, since each heartbeat of a node is one.
var createdOrDeleted = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	return e.ObjectOld.GetUID() != e.ObjectNew.GetUID()
}}

// usedConfigMap filters out updates of a ConfigMap that do not change what Discovery reads. For example, the bootstrap signer
// adds a signature to cluster-info for each token with usage signing, and removes it again.
var usedConfigMap = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	before, ok := e.ObjectOld.(*corev1.ConfigMap)
	if !ok {
		return true
	}
	after, ok := e.ObjectNew.(*corev1.ConfigMap)
	return !ok || usedData(before) != usedData(after)
}}

// requestsOfNodeBootstrap also finds the NodeBootstraps that pin the same key: they wait until one alone pins it.
func (r *Reconciler) requestsOfNodeBootstrap(ctx context.Context, o client.Object) []reconcile.Request {
	out := requestsFor(o.GetName())
	nb, ok := o.(*v1alpha1.NodeBootstrap)
	if !ok {
		return out
	}
	others, err := r.pinnedElsewhere(ctx, nb)
	if err != nil {
		log.FromContext(ctx).Error(err, "finding the NodeBootstraps that pin the same key", "node", nb.Name)
	}
	for _, name := range others {
		out = append(out, requestsFor(name)...)
	}
	return out
}

// requestsOfSecret also uses the name: a Secret of someone else may have a name that one node needs and an annotation with
// another. When a token is deleted, the CSRs that were sent with it and name other nodes must be deleted, too.
func (r *Reconciler) requestsOfSecret(ctx context.Context, o client.Object) []reconcile.Request {
	out := append(requestsFor(owned.NodeOf(o)), requestsFor(owned.NodeOfKubeconfigSecret(o.GetName()))...)
	id, ok := strings.CutPrefix(o.GetName(), bootstrapapi.BootstrapTokenSecretPrefix)
	if !ok {
		return out
	}
	var sent certificatesv1.CertificateSigningRequestList
	if err := r.Client.List(ctx, &sent, client.MatchingFields{objects.IndexToken: id}); err != nil {
		log.FromContext(ctx).Error(err, "listing the requests sent with a token", "token", id)
	}
	for i := range sent.Items {
		out = append(out, requestsFor(lifecycle.RequestedNode(&sent.Items[i]))...)
	}
	return out
}

// requestsOfCSR finds the node by the token that sent the CSR, since the CSR may name another node. If the token no longer
// exists, it uses the name in the CSR.
func (r *Reconciler) requestsOfCSR(ctx context.Context, o client.Object) []reconcile.Request {
	request, ok := o.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return nil
	}
	if node := lifecycle.ServingNode(request); node != "" {
		return r.requestsOfMember(ctx, node, func(nb *v1alpha1.NodeBootstrap) bool { return len(nb.Spec.ServingCertificate.Addresses) > 0 })
	}
	if node := objects.RenewingNode(request); node != "" {
		return r.requestsOfMember(ctx, node, func(*v1alpha1.NodeBootstrap) bool { return true })
	}
	if !slices.Contains(request.Spec.Groups, token.Group) {
		return nil
	}
	name := token.SecretName(token.IDOfUser(request.Spec.Username))
	secret, err := objects.Find(ctx, r.Client, token.Namespace, name, &corev1.Secret{})
	if err != nil {
		log.FromContext(ctx).Error(err, "finding the node of a request by its token", "request", request.Name)
	}
	if secret != nil && owned.NodeOf(secret) != "" {
		return requestsFor(owned.NodeOf(secret))
	}
	return requestsFor(lifecycle.RequestedNode(request))
}

// requestsOfMember finds the node that has sent a CSR, unless it has no NodeBootstrap to which CSRs of its kind matter.
func (r *Reconciler) requestsOfMember(ctx context.Context, node string, matters func(*v1alpha1.NodeBootstrap) bool) []reconcile.Request {
	nb, err := objects.Find(ctx, r.Client, "", node, &v1alpha1.NodeBootstrap{})
	if err != nil {
		log.FromContext(ctx).Error(err, "finding the NodeBootstrap of a node that has sent a request", "node", node)
	}
	if nb == nil || !matters(nb) {
		return nil
	}
	return requestsFor(node)
}

func (r *Reconciler) everyNode(ctx context.Context) []reconcile.Request {
	var list v1alpha1.NodeBootstrapList
	if err := r.Client.List(ctx, &list); err != nil {
		log.FromContext(ctx).Error(err, "listing NodeBootstraps for a change that concerns all")
		return nil
	}
	var out []reconcile.Request
	for i := range list.Items {
		out = append(out, requestsFor(list.Items[i].Name)...)
	}
	return out
}

func requestsFor(node string) []reconcile.Request {
	if node == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: node}}}
}
