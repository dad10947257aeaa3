// SPDX-License-Identifier: Apache-2.0

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
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// Facts is all that is known about one node. What is absent is nil or zero.
type Facts struct {
	// Name is the node's name.
	Name string
	// Namespace is the operator's, where kubeconfig Secrets are.
	Namespace string
	// NodeBootstrap is nil when there is none or when it is being deleted.
	NodeBootstrap *v1alpha1.NodeBootstrap
	// Cluster is what the node's kubeconfig shall say; ClusterProblem is why that is not known.
	Cluster        kubeconfig.Cluster
	ClusterProblem *problem.Problem
	// BindingsProblem is why the shared ClusterRoleBindings do not serve this node's token yet.
	BindingsProblem *problem.Problem
	// TokenSecrets are the Secrets in kube-system that are ours for this node.
	TokenSecrets []*corev1.Secret
	// ClusterWideForbidden says that the manager's flag --allow-cluster-wide-approval is not set.
	ClusterWideForbidden bool
	// Kubeconfig is the Secret of the kubeconfig's name, ours or not, with the Digest of its data.
	Kubeconfig *corev1.Secret
	// Node is the Node of the name.
	Node *metav1.PartialObjectMetadata
	// NodeReported reports whether a kubelet has reported in the Node's status; read only when NeedsLive.
	NodeReported bool
	// LeaseRenewed is when the node's Lease was last renewed; read only when NeedsLive.
	LeaseRenewed time.Time
	// Requests are the CertificateSigningRequests that were sent with a token of this node, whatever they ask for, or with
	// one of ours that is known no more and that name this node.
	Requests []*certificatesv1.CertificateSigningRequest
	// FormerTokenIDs are those of tokens that are known no more and that requests which name the node were sent with.
	FormerTokenIDs []string
	// KeysElsewhere are those of the keys in undecided Requests that are claimed for other nodes, by fingerprint, with the node.
	KeysElsewhere map[string]string
	// ServingRequests are those for serving certificates that the node itself has sent; read only when the NodeBootstrap
	// declares addresses.
	ServingRequests []*certificatesv1.CertificateSigningRequest
	// ReservedAddresses are the hosts at which the API server is reached; of those that only NodeBootstraps name, the ones in
	// ServingRequests. DeclaredElsewhere are those of the addresses in ServingRequests that other NodeBootstraps declare, by
	// csr.Address.Key, with the name of one of them. Both are read only with ServingRequests.
	ReservedAddresses []csr.Reservation
	DeclaredElsewhere map[string]string
	// Bypass is what else in the cluster approves requests of this node's token; nil when that is not known.
	Bypass *Bypass
}

// Bypass is what else in a cluster than this operator approves requests of bootstrap tokens, whatever the name.
type Bypass struct {
	// Open reports whether anything does.
	Open bool
	// Why is what the authorizer says, which for RBAC names the bindings.
	Why []string
}

// Concerns reports whether a request is for a client certificate in the node's name, right or wrong otherwise.
func (f *Facts) Concerns(r *certificatesv1.CertificateSigningRequest) bool {
	return r.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName && csr.RequestedNode(r) == f.Name
}

// TokenSecret is that of TokenSecrets with a name; nil when there is none.
func (f *Facts) TokenSecret(name string) *corev1.Secret {
	for _, s := range f.TokenSecrets {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// OwnRequests are those that concern the node.
func (f *Facts) OwnRequests() []*certificatesv1.CertificateSigningRequest {
	return slices.DeleteFunc(slices.Clone(f.Requests), func(r *certificatesv1.CertificateSigningRequest) bool { return !f.Concerns(r) })
}

// misused reports whether an alarm stands: it does until a reissue is requested.
func (f *Facts) misused() bool {
	return meta.IsStatusConditionTrue(f.NodeBootstrap.Status.Conditions, v1alpha1.ConditionTokenMisused) && !f.reissueDue()
}

// reissueDue reports whether a reissue was asked for that has not been handled.
func (f *Facts) reissueDue() bool {
	want := token.Reissue(f.NodeBootstrap)
	return want != "" && want != token.NormalReissue(f.NodeBootstrap.Status.LastHandledReissueAt) && !f.ReissueOutdated()
}

// awaitingReissue reports whether a reissue was handled and the node has not joined since.
func (f *Facts) awaitingReissue() bool {
	s := f.NodeBootstrap.Status
	return s.LastHandledReissueAt != "" && s.AwaitingSince != nil
}

// String leaves everything out but the name: there are Secrets among the facts.
func (f Facts) String() string { return "facts about the node " + f.Name }

// Format is String for every verb.
func (f Facts) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, f.String()) }

// MarshalText is String too: structured logs take it.
func (f Facts) MarshalText() ([]byte, error) { return []byte(f.String()), nil }
