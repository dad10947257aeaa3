// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// tokenOf is the Secret of a live token, as the API server's authenticator finds it; nil if none exists.
func (w *world) tokenOf(bearer string) *corev1.Secret {
	id, part, _ := strings.Cut(bearer, ".")
	revision := w.revision
	if w.lagging {
		revision, _ = w.before(revision, w.kinds["Secret"], func(v *version) bool { return v.object != nil })
	}
	v := w.at(key{"Secret", metav1.NamespaceSystem, token.SecretName(id)}, revision)
	if v == nil || !w.live(v.object.(*corev1.Secret)) || string(v.object.(*corev1.Secret).Data[bootstrapapi.BootstrapTokenSecretKey]) != part {
		return nil
	}
	return v.object.(*corev1.Secret)
}

func (w *world) live(s *corev1.Secret) bool { return invariants.Live(s, w.now()) }

// identity is the user as which a live token authenticates.
func identity(token *corev1.Secret) (user string, groups []string) {
	groups = []string{bootstrapapi.BootstrapDefaultGroup}
	for group := range strings.SplitSeq(string(token.Data[bootstrapapi.BootstrapTokenExtraGroupsKey]), ",") {
		if group != "" {
			groups = append(groups, group)
		}
	}
	return bootstrapapi.BootstrapUserPrefix + string(token.Data[bootstrapapi.BootstrapTokenIDKey]), append(groups, "system:authenticated")
}

const (
	roleNodeBootstrapper = "system:node-bootstrapper"
	roleNodeClient       = "system:certificates.k8s.io:certificatesigningrequests:nodeclient"
	roleSelfNodeClient   = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"
)

// bound reports whether a ClusterRole is bound to a user or one of the groups, and the authorizer's reason.
func (w *world) bound(role, user string, groups []string) (bool, string) {
	revision := w.revision
	if w.lagging {
		revision, _ = w.before(revision, w.kinds["ClusterRoleBinding"], func(v *version) bool { return v.object != nil })
	}
	for _, k := range w.kinds["ClusterRoleBinding"] {
		v := w.at(k, revision)
		if v == nil || v.object.(*rbacv1.ClusterRoleBinding).RoleRef.Name != role {
			continue
		}
		for _, s := range v.object.(*rbacv1.ClusterRoleBinding).Subjects {
			if s.Kind == rbacv1.GroupKind && slices.Contains(groups, s.Name) || s.Kind == rbacv1.UserKind && s.Name == user {
				return true, fmt.Sprintf("RBAC: allowed by ClusterRoleBinding %q of ClusterRole %q to %s %q", k.name, role, s.Kind, s.Name)
			}
		}
	}
	return false, ""
}

func (w *world) allowed(spec authorizationv1.SubjectAccessReviewSpec) (bool, string) {
	if spec.ResourceAttributes.Subresource != "nodeclient" {
		panic("a review of another right is not implemented")
	}
	return w.bound(roleNodeClient, spec.User, spec.Groups)
}

// clusterActs lets one of the controllers of kube-controller-manager do one thing; false if there is nothing to do.
func (w *world) clusterActs() bool {
	act := w.clusterAction()
	if act != nil {
		act()
	}
	return act != nil
}

// clusterAction is their next action; nil if there is nothing to do.
func (w *world) clusterAction() func() {
	controllers := []func() func(){w.approverAction, w.signerAction, w.cleanersAction, w.collectorAction}
	if w.signerDown {
		controllers = controllers[2:]
	}
	for _, action := range controllers {
		if act := action(); act != nil {
			return act
		}
	}
	return nil
}

// clusterDue is when they next have something to do without another change.
func (w *world) clusterDue() (next time.Time, ok bool) {
	take := func(t time.Time) {
		if t = t.Add(-w.skew); !ok || t.Before(next) {
			next, ok = t, true
		}
	}
	for _, s := range all[*corev1.Secret](w.store) {
		if t, is := expiry(s); is {
			take(t)
		}
	}
	for _, r := range all[*certificatesv1.CertificateSigningRequest](w.store) {
		take(cleanedAt(r))
	}
	return next, ok
}

func undecided(r *certificatesv1.CertificateSigningRequest) bool {
	return len(r.Status.Conditions) == 0
}

var nodesInRequests sync.Map // by content

// requestedNode caches csr.RequestedNode, which takes a while.
func requestedNode(r *certificatesv1.CertificateSigningRequest) string {
	content := string(r.Spec.Request)
	if node, ok := nodesInRequests.Load(content); ok {
		return node.(string)
	}
	node := csr.RequestedNode(r)
	nodesInRequests.Store(content, node)
	return node
}

// approverAction is pkg/controller/certificates/approver.
func (w *world) approverAction() func() {
	if w.approved == w.revision {
		return nil
	}
	for _, r := range all[*certificatesv1.CertificateSigningRequest](w.store) {
		if r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName || !undecided(r) {
			continue
		}
		node, role := requestedNode(r), roleNodeClient
		if node == "" {
			continue
		}
		if r.Spec.Username == "system:node:"+node {
			role = roleSelfNodeClient
		}
		if ok, _ := w.bound(role, r.Spec.Username, r.Spec.Groups); ok {
			return func() { w.decide("certificate-approver", r, certificatesv1.CertificateApproved, "AutoApproved") }
		}
	}
	w.approved = w.revision
	return nil
}

// decide approves or denies as another client than the operator: kubectl writes the time of its own clock.
func (w *world) decide(author string, r *certificatesv1.CertificateSigningRequest, verdict certificatesv1.RequestConditionType, reason string) {
	r = r.DeepCopy()
	c := certificatesv1.CertificateSigningRequestCondition{Type: verdict, Status: corev1.ConditionTrue, Reason: reason, Message: "by " + author}
	if author == userAuthor {
		c.LastUpdateTime = metav1.NewTime(w.now().Add(w.kubectlAhead).Truncate(time.Second))
	}
	r.Status.Conditions = append(r.Status.Conditions, c)
	w.must(w.approve(author, r))
}

func (w *world) signerAction() func() {
	for _, r := range all[*certificatesv1.CertificateSigningRequest](w.store) {
		if invariants.Decided(r, certificatesv1.CertificateApproved) && invariants.Pending(r) {
			return func() {
				edited(w, "signer", r, func(r *certificatesv1.CertificateSigningRequest) { r.Status.Certificate = []byte("a certificate") })
			}
		}
	}
	return nil
}

func edited[T client.Object](w *world, author string, o T, how func(T)) bool {
	return edit(w.store, author, o.GetNamespace(), o.GetName(), how)
}

func expiry(s *corev1.Secret) (time.Time, bool) {
	if s.Type != bootstrapapi.SecretTypeBootstrapToken {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339, string(s.Data[bootstrapapi.BootstrapTokenExpirationKey]))
	return t, err == nil
}

// cleanedAt is when a request is deleted (pkg/controller/certificates/cleaner).
func cleanedAt(r *certificatesv1.CertificateSigningRequest) time.Time {
	if undecided(r) {
		return r.CreationTimestamp.Add(24 * time.Hour)
	}
	return r.Status.Conditions[0].LastUpdateTime.Add(time.Hour)
}

func (w *world) cleanersAction() func() {
	for _, s := range all[*corev1.Secret](w.store) {
		if t, is := expiry(s); is && !t.After(w.now()) {
			return func() { w.remove("token-cleaner", keyOf(s)) }
		}
	}
	for _, r := range all[*certificatesv1.CertificateSigningRequest](w.store) {
		if !cleanedAt(r).After(w.now()) {
			return func() { w.remove("csr-cleaner", keyOf(r)) }
		}
	}
	return nil
}

const (
	foregroundFinalizer = metav1.FinalizerDeleteDependents
	orphanFinalizer     = metav1.FinalizerOrphanDependents
)

// collectorAction is the garbage collector, including its part of kubectl delete --cascade.
func (w *world) collectorAction() func() {
	owners := map[string]client.Object{}
	for _, nb := range all[*v1alpha1.NodeBootstrap](w.store) {
		owners[string(nb.UID)] = nb
	}
	if crd := w.latest(crdKey); crd != nil {
		owners[string(crd.object.GetUID())] = crd.object
	}
	for _, kind := range []string{"Secret", "ClusterRoleBinding"} {
		for _, k := range w.kinds[kind] {
			if v := w.latest(k); v != nil {
				if act := w.collect(v.object, owners); act != nil {
					return act
				}
			}
		}
	}
	for _, nb := range all[*v1alpha1.NodeBootstrap](w.store) { // their dependents no longer exist, or have no owner
		if nb.DeletionTimestamp != nil {
			return func() { w.put("garbage-collector", keyOf(nb), nil) }
		}
	}
	return nil
}

func (w *world) collect(child client.Object, owners map[string]client.Object) func() {
	for _, ref := range child.GetOwnerReferences() {
		owner := owners[string(ref.UID)]
		switch {
		case owner == nil || owner.GetDeletionTimestamp() != nil && slices.Contains(owner.GetFinalizers(), foregroundFinalizer):
			return func() { w.remove("garbage-collector", keyOf(child)) }
		case owner.GetDeletionTimestamp() != nil && slices.Contains(owner.GetFinalizers(), orphanFinalizer):
			return func() {
				orphan := child.DeepCopyObject().(client.Object)
				orphan.SetOwnerReferences(nil)
				w.put("garbage-collector", keyOf(child), orphan)
			}
		}
	}
	return nil
}
