// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
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
	Cluster        Cluster
	ClusterProblem *Problem
	// BindingsProblem is why the shared ClusterRoleBindings do not serve this node's token yet.
	BindingsProblem *Problem
	// TokenSecrets are the Secrets in kube-system that are ours for this node.
	TokenSecrets []*corev1.Secret
	// Kubeconfig is the Secret of the kubeconfig's name, ours or not.
	Kubeconfig *corev1.Secret
	// Node is the Node of the name.
	Node *metav1.PartialObjectMetadata
	// NodeReported tells whether a kubelet has reported in the Node's status; read only when NeedsLive.
	NodeReported bool
	// LeaseRenewed is when the node's Lease was last renewed; read only when NeedsLive.
	LeaseRenewed time.Time
	// Requests are the CertificateSigningRequests that were sent with a token of this node, whatever they ask for, or with
	// one of ours that is known no more and that name this node.
	Requests []*certificatesv1.CertificateSigningRequest
	// ServingRequests are those for serving certificates that the node itself has sent; read only when the NodeBootstrap
	// declares addresses.
	ServingRequests []*certificatesv1.CertificateSigningRequest
	// ReservedAddresses are the control plane's, and DeclaredElsewhere those of the addresses in ServingRequests that other
	// NodeBootstraps declare, by csr.Address.Key, with the name of one of them; read only with ServingRequests.
	ReservedAddresses []string
	DeclaredElsewhere map[string]string
	// Bypass is what else in the cluster approves requests of this node's token; nil when that is not known.
	Bypass *Bypass
}

// Bypass is what else in a cluster than this operator approves requests of bootstrap tokens, whatever the name.
type Bypass struct {
	// Open tells whether anything does.
	Open bool
	// Why is what the authorizer says, which for RBAC names the bindings.
	Why []string
}

func requestCondition(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequestCondition {
	i := slices.IndexFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == t })
	if i < 0 {
		return nil
	}
	return &r.Status.Conditions[i]
}

func issued(r *certificatesv1.CertificateSigningRequest) bool { return len(r.Status.Certificate) > 0 }

func approvedAt(r *certificatesv1.CertificateSigningRequest) (metav1.Time, bool) {
	c := requestCondition(r, certificatesv1.CertificateApproved)
	if c == nil {
		return metav1.Time{}, false
	}
	return c.LastUpdateTime, true
}

// undecided tells whether a request waits for a verdict.
func undecided(r *certificatesv1.CertificateSigningRequest) bool {
	return requestCondition(r, certificatesv1.CertificateApproved) == nil &&
		requestCondition(r, certificatesv1.CertificateDenied) == nil &&
		requestCondition(r, certificatesv1.CertificateFailed) == nil
}

// Settled tells whether nothing is to be done about a request any more: it has its certificate, was denied, or failed.
func Settled(r *certificatesv1.CertificateSigningRequest) bool {
	return issued(r) || requestCondition(r, certificatesv1.CertificateDenied) != nil || requestCondition(r, certificatesv1.CertificateFailed) != nil
}

// concerns tells whether a request is for a client certificate in the node's name, right or wrong otherwise.
func (f *Facts) concerns(r *certificatesv1.CertificateSigningRequest) bool {
	return r.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName && csr.RequestedNode(r) == f.Name
}

// ownRequests are those that concern the node.
func (f *Facts) ownRequests() []*certificatesv1.CertificateSigningRequest {
	return slices.DeleteFunc(slices.Clone(f.Requests), func(r *certificatesv1.CertificateSigningRequest) bool { return !f.concerns(r) })
}

// misused tells whether an alarm stands: it does until a reissue is asked for, or after it when it is about the token that
// was made for the reissue.
func (f *Facts) misused() bool {
	return meta.IsStatusConditionTrue(f.NodeBootstrap.Status.Conditions, v1alpha1.ConditionTokenMisused) && (!f.reissueDue() || f.reissuedMisused())
}

// reissuedMisused tells whether a token was misused that the status does not tell of yet, such as one made for a reissue.
func (f *Facts) reissuedMisused() bool {
	nb := f.NodeBootstrap
	return slices.ContainsFunc(nb.Status.Certificates, func(d v1alpha1.CertificateDecision) bool {
		return Misuse(d.Reason) && follows(nb.UID, d.TokenID, nb.Status.LastTokenID)
	})
}

// reissueDue tells whether a reissue was asked for that has not been handled.
func (f *Facts) reissueDue() bool {
	want := f.NodeBootstrap.Annotations[v1alpha1.ReissueRequestedAtAnnotation]
	return want != "" && want != f.NodeBootstrap.Status.LastHandledReissueAt
}

// awaitingReissue tells whether a reissue was handled and the node has not joined since.
func (f *Facts) awaitingReissue() bool {
	s := f.NodeBootstrap.Status
	return s.LastHandledReissueAt != "" && s.AwaitingSince != nil
}

// certificateUsed tells whether the node has used a certificate that was issued to it in its present wait: its Lease was
// renewed after the approval. A Node of that time proves nothing: an administrator may have created it while the request
// was waiting. What happened in the same second may have happened before: times of conditions are whole seconds.
func (f *Facts) certificateUsed() bool {
	used := func(approved time.Time) bool { return !f.LeaseRenewed.Before(approved.Add(time.Second)) }
	for _, r := range f.Requests {
		at, approved := approvedAt(r)
		if approved && issued(r) && f.concerns(r) && f.inPresentWait(TokenIDOfUser(r.Spec.Username), at) && used(at.Time) {
			return true
		}
	}
	for _, d := range f.NodeBootstrap.Status.Certificates {
		if !ofThisNode(d) {
			continue
		}
		if d.IssuedTime != nil && f.inPresentWait(d.TokenID, *d.IssuedTime) && used(d.IssuedTime.Time) {
			return true
		}
		if f.issuedUnseen(d) && f.LeaseRenewed.After(d.Time.Add(approvedRequestLife)) {
			return true
		}
	}
	return false
}

// approvedRequestLife is how long kube-controller-manager leaves an approved request before it deletes it
// (pkg/controller/certificates/cleaner).
const approvedRequestLife = time.Hour

// issuedUnseen tells whether a request of the present wait was approved and is gone by now, so that its certificate was
// issued while nobody looked.
func (f *Facts) issuedUnseen(d v1alpha1.CertificateDecision) bool {
	return d.Verdict == v1alpha1.VerdictApproved && d.IssuedTime == nil && f.inPresentWait(d.TokenID, d.Time) &&
		!slices.ContainsFunc(f.Requests, func(r *certificatesv1.CertificateSigningRequest) bool { return r.UID == d.UID })
}

// inPresentWait tells whether a certificate was issued for the wait that lasts: to the present token, or to one that was
// renewed since. Times alone do not tell, since they are whole seconds.
func (f *Facts) inPresentWait(tokenID string, issued metav1.Time) bool {
	s := f.NodeBootstrap.Status
	return s.Token != nil && s.Token.ID == tokenID || s.AwaitingSince != nil && issued.After(s.AwaitingSince.Time)
}

// joinedBefore tells whether the status says Joined of the Node that is there now.
func (f *Facts) joinedBefore() bool {
	s := f.NodeBootstrap.Status
	joined := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionJoined)
	return s.AwaitingSince == nil && joined != nil && joined.Status == metav1.ConditionTrue && s.NodeUID == f.Node.UID
}

// NeedsLive tells whether the node itself and its Lease have to be read to know if the node has joined. Doing so for every
// reconcile would be two requests for each, and watching them would be an event for each node every ten seconds.
func (f *Facts) NeedsLive() bool {
	return f.NodeBootstrap != nil && f.Node != nil && !f.reissueDue() && !f.joinedBefore()
}

// joined tells whether the node is a member of the cluster and needs no credential. A Node alone proves nothing: an
// administrator may have created it ahead, and on a reinstall it is still the old one. One that a kubelet has reported in
// was a member already, or has joined in another way.
func (f *Facts) joined() bool {
	switch {
	case f.Node == nil || f.reissueDue():
		return false
	case f.joinedBefore() || f.certificateUsed():
		return true
	default:
		return f.NodeReported && (!f.awaitingReissue() || f.Node.UID != f.NodeBootstrap.Status.NodeUID)
	}
}

// tokens are the tokens of this very NodeBootstrap, live or not, the newest last. One whose Secret somebody made immutable
// does not count, since it could not be restored.
func (f *Facts) tokens() []Token {
	var out []Token
	for _, s := range f.TokenSecrets {
		if t, ok := ParseToken(s); ok && ownedBy(s, f.NodeBootstrap) && s.DeletionTimestamp == nil && !immutable(s) {
			out = append(out, t)
		}
	}
	owner := f.NodeBootstrap.UID
	slices.SortFunc(out, func(a, b Token) int {
		switch { // creation times are whole seconds
		case !a.Created.Equal(b.Created):
			return a.Created.Compare(b.Created)
		case follows(owner, b.ID, a.ID):
			return -1
		case follows(owner, a.ID, b.ID):
			return 1
		default:
			return strings.Compare(a.ID, b.ID)
		}
	})
	return out
}

// keep is the tokens that may live on: the newest live one, and its predecessor, which renewal leaves to run out. A reissue
// is asked for when older tokens are not trusted any more: then only one counts that was made since the status told of any.
func (f *Facts) keep(now time.Time) []Token {
	nb := f.NodeBootstrap
	live := f.tokens()
	for i := range live {
		live[i].Expires = live[i].wantExpires(nb, now)
	}
	distrusted := func(t Token) bool {
		return f.reissueDue() && nb.Status.LastTokenID != "" && !follows(nb.UID, t.ID, nb.Status.LastTokenID)
	}
	live = slices.DeleteFunc(live, func(t Token) bool { return !t.Live(now) || distrusted(t) })
	return live[max(0, len(live)-2):]
}

// lastTokenID is the id that the next token follows: that of the last one there was, be it deleted since, or of one that was
// made after it and that the status does not tell of yet.
func (f *Facts) lastTokenID() string {
	last, tokens := f.NodeBootstrap.Status.LastTokenID, f.tokens()
	if len(tokens) == 0 {
		return last
	}
	newest := tokens[len(tokens)-1].ID
	if last == "" || follows(f.NodeBootstrap.UID, newest, last) {
		return newest
	}
	return last
}

// lastIssued is when a certificate was last issued to the node; zero for never.
func (f *Facts) lastIssued() time.Time {
	var last time.Time
	for _, d := range f.NodeBootstrap.Status.Certificates {
		if d.IssuedTime != nil && d.IssuedTime.After(last) {
			last = d.IssuedTime.Time
		}
	}
	return last
}

// String leaves everything out but the name: there are Secrets among the facts.
func (f Facts) String() string { return "facts about the node " + f.Name }

// Format is String for every verb.
func (f Facts) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, f.String()) }

// MarshalText is String too: structured logs take it.
func (f Facts) MarshalText() ([]byte, error) { return []byte(f.String()), nil }
