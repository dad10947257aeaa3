// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
)

// waitingFor is why a node with a valid credential has not joined yet.
func (r *report) waitingFor() finding {
	if late := lifecycle.NotIssued(r.f, r.now); late != nil {
		if failed := csr.Condition(late, certificatesv1.CertificateFailed); failed != nil {
			return stalled(&problem.Problem{Reason: v1alpha1.ReasonCertificateNotIssued, Message: fmt.Sprintf(
				"the signer could not sign the request %s: %s: %s: fix that, then request a reissue, since a kubelet sends its next request with "+
					"another key", late.Name, failed.Reason, failed.Message)})
		}
		return stalled(&problem.Problem{Reason: v1alpha1.ReasonCertificateNotIssued, Message: fmt.Sprintf(
			"the request %s was approved more than %s ago and has no certificate: is kube-controller-manager running, "+
				"with --cluster-signing-cert-file and --cluster-signing-key-file?", late.Name, lifecycle.IssuanceDeadline)})
	}
	if replaced := r.keyReplaced(); replaced != nil {
		return stalled(replaced)
	}
	client, conflict := r.f.NodeBootstrap.Spec.ClientCertificate, meta.IsStatusConditionTrue(r.new.Conditions, v1alpha1.ConditionKeyConflict)
	pending, person := slices.ContainsFunc(r.f.OwnRequests(), csr.Undecided), lifecycle.AwaitsPerson(r.f)
	pinned := r.f.NodeBootstrap.Spec.PinnedKey()
	delayed := pinned == "" && client.ApprovalDelay != nil && client.ApprovalDelay.Duration > 0 && r.f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalNode
	misused := meta.IsStatusConditionTrue(r.new.Conditions, v1alpha1.ConditionTokenMisused)
	switch {
	case misused && pinned != "":
		return yes(v1alpha1.ReasonAwaitingNode, "the node has not joined, and its token was misused: see the condition %s. Only the pinned key %s "+
			"gets a certificate, so nothing has to be revoked", v1alpha1.ConditionTokenMisused, pinned)
	case misused:
		return yes(v1alpha1.ReasonAwaitingNode, "the node has not joined, and its token was misused: see the condition %s", v1alpha1.ConditionTokenMisused)
	case pending && delayed && conflict:
		return stalled(&problem.Problem{Reason: v1alpha1.ReasonSeveralKeys, Message: "several keys were sent with the token, and with spec.clientCertificate.approvalDelay the operator " +
			"approves none that waits: see the condition " + v1alpha1.ConditionKeyConflict + ", then approve the request with the machine's key by hand, " +
			"or request a reissue"})
	case person && conflict:
		return yes(v1alpha1.ReasonAwaitingApproval, "several keys were sent with the token: see the condition %s, and approve only the request "+
			"with the key of the machine", v1alpha1.ConditionKeyConflict)
	case person:
		return yes(v1alpha1.ReasonAwaitingApproval, "the node has asked for its certificate: see kubectl get csr, then kubectl certificate approve")
	default:
		return yes(v1alpha1.ReasonAwaitingNode, "%s", r.awaitingMessage())
	}
}

// keyReplaced is why a node cannot join although its credential is valid: the newest key that was sent with the token is not approved,
// and the approved key is unused. It is nil otherwise.
func (r *report) keyReplaced() *problem.Problem {
	t := r.o.Token
	if t == nil || r.f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide || r.f.NodeBootstrap.Spec.PinnedKey() != "" {
		return nil
	}
	var d *v1alpha1.DecidedCSR
	if named := decisions.LiveToken(r.new, t.ID); named != nil {
		d = lastReplaced(named.CSRs)
	}
	if d == nil || r.f.Registered(t.ID) {
		return nil
	}
	what := "was denied"
	if d.Verdict == v1alpha1.VerdictIgnored {
		what = "and those after it are left alone"
	}
	return &problem.Problem{Reason: v1alpha1.ReasonKeyReplaced, Message: fmt.Sprintf("the request %s %s, since another key was approved with the token %s and is not used: "+
		"the kubelet restarted before it received its certificate, or another machine has the kubeconfig. See the kubelet's log (journalctl -u kubelet) "+
		"for why it restarted. If it did not, compare the keys in the condition %s. Then request a reissue with kubectl nodebootstrap reissue %s, or with %s, "+
		"and give the node the new kubeconfig", d.Name, what, t.ID, v1alpha1.ConditionKeyConflict, r.f.Name, csr.ReissueCommand(r.f.Name))}
}

// lastReplaced is the decision on the newest key that was sent with a token, if the key was denied because another one was approved that
// nobody uses; nil when the newest key was approved.
func lastReplaced(csrs []v1alpha1.DecidedCSR) *v1alpha1.DecidedCSR {
	var replaced *v1alpha1.DecidedCSR
	var approved []string
	for i := range csrs {
		switch c := &csrs[i]; {
		case c.Verdict == v1alpha1.VerdictApproved && !decisions.Misuse(c.Reason):
			if !slices.Contains(approved, c.KeyFingerprint) {
				replaced, approved = nil, append(approved, c.KeyFingerprint)
			}
		case c.Reason == csr.ReasonKeyReplaced, c.Reason == decisions.ReasonTooManyKeys:
			replaced = c
		}
	}
	return replaced
}

// awaitingMessage is why a node with a valid credential has not joined yet, by the last decision on its CSRs in the current wait.
func (r *report) awaitingMessage() string {
	d := r.lastDecision()
	switch {
	case d == nil:
	case d.Verdict == v1alpha1.VerdictDenied && d.Reason == decisions.ReasonDeniedElsewhere:
		return fmt.Sprintf("last CSR %s was denied: %s: someone else did that, and no certificate is issued to it: find out who. A kubelet that is "+
			"restarted sends the next CSR", d.Name, saidOf(d))
	case d.Verdict == v1alpha1.VerdictDenied:
		return fmt.Sprintf("last CSR %s was denied: %s: see docs/troubleshooting.md", d.Name, saidOf(d))
	case d.IssuedTime == nil:
	case r.f.Node != nil:
		return fmt.Sprintf("CSR %s was issued at %s: waiting for the kubelet to use its certificate", d.Name, stampOf(d))
	case r.now.Before(d.IssuedTime.Add(lifecycle.JoinSoon)):
		return fmt.Sprintf("CSR %s was issued at %s: waiting for the kubelet to register its Node", d.Name, stampOf(d))
	default:
		return fmt.Sprintf("CSR %s was issued at %s, but no Node registered; see the kubelet's log for \"Unable to register node\", and its "+
			"configuration for registerNode: false", d.Name, stampOf(d))
	}
	message := fmt.Sprintf("give the node the kubeconfig in the Secret %s/%s", r.f.Namespace, owned.KubeconfigSecretName(r.f.Name))
	if pinned := r.f.NodeBootstrap.Spec.PinnedKey(); pinned != "" {
		message += "; only the pinned key " + pinned + " gets a certificate (docs/pinned-keys.md)"
	}
	return message
}

// lastDecision is the newest decision on a client certificate in the current wait; among several in the same second an approval. It is
// nil if none was decided.
func (r *report) lastDecision() *v1alpha1.CertificateDecision {
	var last *v1alpha1.CertificateDecision
	for i := range r.new.Certificates {
		d := &r.new.Certificates[i]
		if d.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName || d.TokenID == "" || d.Verdict == v1alpha1.VerdictIgnored || !r.isOfThisWait(d) {
			continue
		}
		if last == nil || d.Time.After(last.Time.Time) || d.Time.Equal(&last.Time) && d.Verdict == v1alpha1.VerdictApproved {
			last = d
		}
	}
	return last
}

func (r *report) isOfThisWait(d *v1alpha1.CertificateDecision) bool {
	s := r.new
	return s.Token != nil && s.Token.ID == d.TokenID || s.AwaitingSince != nil && d.Time.After(s.AwaitingSince.Time)
}

// saidOf is the reason of a decision and its message, if it has one.
func saidOf(d *v1alpha1.CertificateDecision) string {
	if d.Message == "" {
		return d.Reason
	}
	return d.Reason + ": " + d.Message
}

func stampOf(d *v1alpha1.CertificateDecision) string {
	return d.IssuedTime.UTC().Format(time.RFC3339)
}
