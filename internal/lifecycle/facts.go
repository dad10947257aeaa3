// SPDX-License-Identifier: Apache-2.0

// Package lifecycle decides what the cluster needs for one node to join.
//
// It is pure: [Decide] turns [Facts] and a time into a [Plan]. Nothing here reads or writes anything.
package lifecycle

import (
	"fmt"
	"io"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
)

// Facts is everything that is known about one node. Absent objects are nil or zero. Some are read only if others require it: needs.go has
// these conditions.
type Facts struct {
	// Name is the node's name.
	Name string
	// Namespace is the operator's own, which has the kubeconfig Secrets.
	Namespace string
	// NodeBootstrap is nil when it does not exist or is being deleted.
	NodeBootstrap *v1alpha1.NodeBootstrap
	// Cluster is the API server for the node's kubeconfig; ClusterProblem is why it is not known.
	Cluster        kubeconfig.Cluster
	ClusterProblem *problem.Problem
	// BindingsProblem is why the shared ClusterRoleBindings do not work for this node's token yet.
	BindingsProblem *problem.Problem
	// TokenSecrets are the operator's Secrets in kube-system for this node.
	TokenSecrets []*corev1.Secret
	// ClusterWideForbidden reports whether the manager runs without --allow-cluster-wide-approval.
	ClusterWideForbidden bool
	// Kubeconfig is the Secret with the name of the node's kubeconfig Secret, whoever created it. It has the Digest of its data.
	Kubeconfig *corev1.Secret
	// Node is the Node with this name.
	Node *metav1.PartialObjectMetadata
	// NodeReported reports whether a kubelet has reported in the Node's status; read only if NeedsLive.
	NodeReported bool
	// NodeConditions are those of the Node; read only if NeedsLive or NeedsReady.
	NodeConditions []corev1.NodeCondition
	// LeaseRenewed is when the node's Lease was last renewed; read only if NeedsLive or NeedsLease.
	LeaseRenewed time.Time
	// Renewals are CSRs with which the node has renewed its client certificate.
	Renewals []*certificatesv1.CertificateSigningRequest
	// Requests are the CSRs that were sent with a token of this node, whatever they ask for, and those that name this node and were sent
	// with a token of the operator that is no longer known.
	Requests []*certificatesv1.CertificateSigningRequest
	// FormerTokenIDs are the ids of tokens that are no longer known and with which CSRs that name the node were sent.
	FormerTokenIDs []string
	// KeysElsewhere are the keys in undecided Requests that are claimed for other nodes: fingerprint to node.
	KeysElsewhere map[string]string
	// PinnedElsewhere are the names of the other NodeBootstraps that pin this node's pinned key.
	PinnedElsewhere []string
	// ServingRequests are the CSRs for serving certificates that the node itself has sent; read only if the NodeBootstrap declares
	// addresses.
	ServingRequests []*certificatesv1.CertificateSigningRequest
	// ReservedAddresses are the hosts at which the API server is reached; of those that only NodeBootstraps name, the ones in
	// ServingRequests. DeclaredElsewhere are the addresses in ServingRequests that other NodeBootstraps declare, by csr.Address.Key, with
	// the name of one of them. Both are read only with ServingRequests.
	ReservedAddresses []csr.Reservation
	DeclaredElsewhere map[string]string
	// Bypass reports what else in the cluster approves CSRs of this node's token; nil if that is not known.
	Bypass *Bypass
}

// Bypass reports what else in a cluster, apart from this operator, approves CSRs of bootstrap tokens, whatever the name.
type Bypass struct {
	// Open reports whether anything else approves them.
	Open bool
	// Why is the authorizer's answer, which for RBAC names the bindings.
	Why []string
}

// AllowClusterWideFlag is the manager's flag that allows credentials for NodeBootstraps with approval ClusterWide.
const AllowClusterWideFlag = "--allow-cluster-wide-approval"

// ClusterWideRefused reports whether the NodeBootstrap has approval ClusterWide and the manager does not allow it. Then no token may
// live: whoever has one in ClusterWideGroup can become any node.
func (f *Facts) ClusterWideRefused() bool {
	return f.ClusterWideForbidden && f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide
}

// misused reports whether an alarm is raised. It stays until a reissue is requested.
func (f *Facts) misused() bool {
	return meta.IsStatusConditionTrue(f.NodeBootstrap.Status.Conditions, v1alpha1.ConditionTokenMisused) && !f.reissueDue()
}

// Concerns reports whether a CSR asks for a client certificate in the node's name, valid or not.
func (f *Facts) Concerns(r *certificatesv1.CertificateSigningRequest) bool {
	return r.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName && csr.RequestedNode(r) == f.Name
}

// OwnRequests are the CSRs that concern the node.
func (f *Facts) OwnRequests() []*certificatesv1.CertificateSigningRequest {
	return slices.DeleteFunc(slices.Clone(f.Requests), func(r *certificatesv1.CertificateSigningRequest) bool { return !f.Concerns(r) })
}

// DecidedWith are the CSRs that were sent with a token and have a decision in the status.
func (f *Facts) DecidedWith(tokenID string) []v1alpha1.DecidedCSR {
	if t := decisions.LiveToken(&f.NodeBootstrap.Status, tokenID); t != nil {
		return t.CSRs
	}
	return nil
}

// TokenSecret returns the Secret in TokenSecrets with a name; nil if none has it.
func (f *Facts) TokenSecret(name string) *corev1.Secret {
	for _, s := range f.TokenSecrets {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// String returns only the name: facts contain Secrets.
func (f Facts) String() string { return "facts about the node " + f.Name }

// Format prints String for every verb.
func (f Facts) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, f.String()) }

// MarshalText returns String for structured logs.
func (f Facts) MarshalText() ([]byte, error) { return []byte(f.String()), nil }
