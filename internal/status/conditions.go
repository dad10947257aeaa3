// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
)

// A finding is the state of a condition.
type finding struct {
	status  metav1.ConditionStatus
	reason  string
	message string
	// stalled reports that action is required; otherwise a finding that is not True is in progress.
	stalled bool
}

func yes(reason, format string, args ...any) finding {
	return finding{status: metav1.ConditionTrue, reason: reason, message: fmt.Sprintf(format, args...)}
}

func no(reason, format string, args ...any) finding {
	return finding{status: metav1.ConditionFalse, reason: reason, message: fmt.Sprintf(format, args...)}
}

func stalled(p *problem.Problem) finding {
	return finding{status: metav1.ConditionFalse, reason: p.Reason, message: p.Message, stalled: true}
}

func (r *report) conditions() {
	raise(r.p, r.new, r.new.ObservedGeneration, r.now) // Ready reports the alarm
	r.keyConflict()
	r.notRevoked()
	credentials := r.credentials()
	ready := r.ready(credentials)
	if ready.status == metav1.ConditionTrue && r.o.Err != nil { // Ready stays True, and its message reports the problem
		ready.message += fmt.Sprintf("; the last write failed and is tried again: %v", r.o.Err)
	}
	if ready.status == metav1.ConditionTrue && r.o.Notice != nil {
		ready.message += "; " + r.o.Notice.Message
	}
	r.set(v1alpha1.ConditionReady, ready)
	r.set(v1alpha1.ConditionCredentialsAvailable, credentials)
	r.set(v1alpha1.ConditionJoined, r.joined())
	r.setIf(v1alpha1.ConditionApprovalEnforced, r.new.Token != nil, r.enforced)
	r.setIf(v1alpha1.ConditionServingCertificateApproved, len(r.f.NodeBootstrap.Spec.ServingCertificate.Addresses) > 0, r.served)

	r.setIf(v1alpha1.ConditionClientCertificateExpiring, r.p.Expiring, r.expiring)

	unready := ready.status != metav1.ConditionTrue
	r.setWhile(v1alpha1.ConditionStalled, unready && ready.stalled, ready)
	r.setWhile(v1alpha1.ConditionReconciling, unready && !ready.stalled, ready)
}

// joined is also for people who run kubectl wait --for=condition=Joined.
func (r *report) joined() finding {
	const message = "the node uses a certificate of its own"
	switch alive := r.new.NodeAliveTime; {
	case r.p.Phase == lifecycle.Joined && alive != nil:
		return yes(v1alpha1.ReasonNodeHasCertificate, "%s, but it was alive at the reissue: a kubelet renewed its Lease at %s, before the new certificate was "+
			"approved, so this may be the old one. Compare the fingerprint of its key with status.certificates", message, alive.UTC().Format(time.RFC3339))
	case r.p.Phase == lifecycle.Joined:
		return yes(v1alpha1.ReasonNodeHasCertificate, "%s", message)
	case alive != nil:
		return no(v1alpha1.ReasonNodeAlive, "the node is alive; the reissued credential may not be its own: a kubelet renewed the node's Lease at %s, after the "+
			"reissue and before a certificate was approved. If that is the machine that the credential is for, restart its kubelet with the new kubeconfig. "+
			"If not, stop the old kubelet, and compare the fingerprint of the new machine's key with status.certificates", alive.UTC().Format(time.RFC3339))
	case r.new.LastHandledReissueAt != "" && r.f.Node != nil && r.f.Node.UID == r.new.NodeUID:
		return no(v1alpha1.ReasonReissued, "a credential was reissued and the node has not used the new certificate yet")
	default:
		return no(v1alpha1.ReasonAwaitingNode, "the node has not joined yet")
	}
}

func (r *report) credentials() finding {
	switch {
	case r.p.Phase == lifecycle.Joined && r.o.Err != nil && !r.wasReady(v1alpha1.ReasonJoined):
		return no(v1alpha1.ReasonWriteFailed, "the node has joined and its credential could not be removed: %v; this is tried again", r.o.Err)
	case r.p.Phase == lifecycle.Joined:
		return no(v1alpha1.ReasonJoined, "the node has joined: no credential is left")
	case r.p.Phase == lifecycle.DeadlineExceeded:
		return no(v1alpha1.ReasonJoinDeadlineExceeded, "the last token has expired")
	case r.p.Phase == lifecycle.Withdrawn && r.o.Err != nil:
		return no(v1alpha1.ReasonWriteFailed, "a token was misused and the credential could not be removed: %v; this is tried again", r.o.Err)
	case r.p.Phase == lifecycle.Withdrawn:
		return no(v1alpha1.ReasonTokenMisused, "a token was misused: no credential is left")
	case r.o.Token != nil && r.o.Published && (r.o.Acceptance == Accepted || r.o.Acceptance == AcceptanceUnknown && r.wasAvailable()):
		return yes(v1alpha1.ReasonPublished, "the Secret %s/%s holds the kubeconfig with the live token %s",
			r.f.Namespace, owned.KubeconfigSecretName(r.f.Name), r.o.Token.ID)
	case r.problem() != nil:
		return stalled(r.problem())
	case r.o.Err != nil:
		return no(v1alpha1.ReasonWriteFailed, "%v; this is tried again", r.o.Err)
	case r.p.MayBeMember:
		return no(v1alpha1.ReasonVerifying, "a kubelet has reported as the node: its first Lease will show whether the node is a member, which needs no credential")
	case r.o.Acceptance == Rejected:
		return stalled(&problem.Problem{Reason: v1alpha1.ReasonTokensNotAccepted, Message: fmt.Sprintf(
			"the API server does not accept the token %s: start every kube-apiserver with --enable-bootstrap-token-auth", r.o.Token.ID)})
	default:
		return no(v1alpha1.ReasonVerifying, "the API server is asked whether it accepts the new token")
	}
}

func (r *report) problem() *problem.Problem { return cmp.Or(r.o.Problem, r.p.Problem) }

func (r *report) ready(credentials finding) finding {
	switch {
	case r.p.Phase == lifecycle.Joined && credentials.reason != v1alpha1.ReasonJoined:
		return credentials
	case r.p.Phase == lifecycle.Joined:
		return yes(v1alpha1.ReasonJoined, "the node has joined and its credential is gone")
	case r.p.Phase == lifecycle.DeadlineExceeded:
		return stalled(&problem.Problem{Reason: v1alpha1.ReasonJoinDeadlineExceeded, Message: fmt.Sprintf(
			"the node has not joined within spec.token.joinDeadline (%s): raise it, or request a reissue by setting the annotation %s to a new value",
			r.f.NodeBootstrap.Spec.Token.JoinDeadline.Duration, v1alpha1.ReissueRequestedAtAnnotation)})
	case r.p.Phase == lifecycle.Withdrawn && r.o.Err == nil:
		return stalled(&problem.Problem{Reason: v1alpha1.ReasonTokenMisused, Message: fmt.Sprintf(
			"a token was misused and is revoked: see the condition %s, then set the annotation %s to a new value for a new one",
			v1alpha1.ConditionTokenMisused, v1alpha1.ReissueRequestedAtAnnotation)})
	case r.problem() != nil:
		return stalled(r.problem())
	case r.f.BindingsProblem != nil:
		return no(r.f.BindingsProblem.Reason, "%s", r.f.BindingsProblem.Message)
	case credentials.status != metav1.ConditionTrue:
		return credentials
	}
	return r.waitingFor()
}

// wasAvailable reports whether the API server accepted the token, or its predecessor: a renewal does not put that in doubt.
func (r *report) wasAvailable() bool {
	return meta.IsStatusConditionTrue(r.old.Conditions, v1alpha1.ConditionCredentialsAvailable)
}

func (r *report) wasReady(reason string) bool {
	c := meta.FindStatusCondition(r.old.Conditions, v1alpha1.ConditionReady)
	return c != nil && c.Status == metav1.ConditionTrue && c.Reason == reason
}

// keyConflict reports that several keys were sent with a token, whoever got the certificate. It stays until a reissue, which starts with
// a new token.
func (r *report) keyConflict() {
	recordKeys(r.p, r.new)
	if len(r.new.Keys) == 0 {
		return
	}
	var list []string
	for _, k := range r.new.Keys {
		list = append(list, fmt.Sprintf("%s (%s, %s)", k.KeyFingerprint, k.Name, k.Time.UTC().Format(time.RFC3339)))
	}
	r.set(v1alpha1.ConditionKeyConflict, yes(v1alpha1.ReasonSeveralKeys, "%d keys were sent with the token %s: the kubelet was restarted "+
		"before it had its certificate, or another machine has the kubeconfig. Compare the key of the machine (docs/security.md): %s",
		len(list), r.new.Keys[0].TokenID, strings.Join(list, "; ")))
}

// notRevoked reports certificates that are valid but should not be.
func (r *report) notRevoked() {
	list := r.new.UnrevokedCertificates
	if len(list) == 0 {
		meta.RemoveStatusCondition(&r.new.Conditions, v1alpha1.ConditionCertificateNotRevoked)
		return
	}
	reason, message := v1alpha1.ReasonIssuedBeforeReplacement, "a certificate was issued for a key in whose place another one was approved"
	var texts []string
	for _, c := range list {
		if c.Reason != reason {
			reason, message = c.Reason, "a certificate was issued before its request could be revoked"
		}
		texts = append(texts, c.Name+" (key "+c.KeyFingerprint+", until "+c.ExpirationTime.UTC().Format(time.RFC3339)+")")
	}
	r.set(v1alpha1.ConditionCertificateNotRevoked, yes(reason, "%s, and Kubernetes cannot revoke certificates: whoever has the key is system:node:%s "+
		"until it expires. If the key was not the machine's, lock the name out, see docs/troubleshooting.md: %s", message, r.f.Name, strings.Join(texts, "; ")))
}

// enforced reports whether only this operator approves the CSRs of the node's token.
func (r *report) enforced() finding {
	switch bypass := r.f.Bypass; {
	case r.f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide:
		return no(v1alpha1.ReasonApprovalClusterWide, "spec.clientCertificate.approval is ClusterWide: kube-controller-manager approves, "+
			"so whoever has the token can become any node")
	case bypass == nil:
		return finding{status: metav1.ConditionUnknown, reason: v1alpha1.ReasonApproversUnknown,
			message: "the API server could not be asked whether anything else approves requests of this token"}
	case bypass.Open:
		return no(v1alpha1.ReasonApprovedByOthers, "kube-controller-manager approves requests of this token whatever the name, so that whoever has it "+
			"can become any node: take the right to create certificatesigningrequests/nodeclient from the groups of bootstrap tokens. The API server says: %s",
			strings.Join(bypass.Why, "; "))
	default:
		return yes(v1alpha1.ReasonNothingElseApproves, "nothing else in the cluster may approve requests of this token on sight")
	}
}

// served reports the state of the node's serving certificate.
func (r *report) served() finding {
	if waiting := r.p.Serving; waiting != nil && waiting.Verdict == csr.Wait {
		return no(waiting.Reason, "%s", waiting.Message)
	}
	for i := len(r.new.Certificates) - 1; i >= 0; i-- {
		switch d := r.new.Certificates[i]; {
		case !decisions.OfServing(d):
		case d.Verdict == v1alpha1.VerdictApproved:
			return yes(d.Reason, "the last request, %s, was approved", d.Name)
		default:
			return no(d.Reason, "the last request, %s, was denied (%s): see docs/troubleshooting.md", d.Name, saidOf(&d))
		}
	}
	return finding{status: metav1.ConditionUnknown, reason: v1alpha1.ReasonAwaitingRequest,
		message: "the kubelet has not asked for a serving certificate: it does so with serverTLSBootstrap: true in its configuration"}
}

// expiring is about the certificate of a node that does not run.
func (r *report) expiring() finding {
	since := "has no Lease"
	if at := r.f.LeaseRenewed; !at.IsZero() {
		since = "last renewed its Lease at " + at.UTC().Format(time.RFC3339)
	}
	return yes(v1alpha1.ReasonNodeNotRunning, "the kubelet %s, and the last client certificate of the node that the operator has seen is valid until %s. Start the "+
		"machine before then: its kubelet renews the certificate by itself. Afterwards it needs a new credential: kubectl nodebootstrap reissue %s, or %s. "+
		"If the machine does not come back, delete its Node and this NodeBootstrap", since, r.new.ClientCertificate.ExpirationTime.UTC().Format(time.RFC3339),
		r.f.Name, csr.ReissueCommand(r.f.Name))
}

func (r *report) set(conditionType string, f finding) {
	meta.SetStatusCondition(&r.new.Conditions, metav1.Condition{
		Type: conditionType, Status: f.status, Reason: f.reason, Message: cutMessage(f.message),
		ObservedGeneration: r.new.ObservedGeneration, LastTransitionTime: metav1.NewTime(r.now),
	})
}

// setIf sets a condition that exists only while something holds.
func (r *report) setIf(conditionType string, holds bool, found func() finding) {
	if !holds {
		meta.RemoveStatusCondition(&r.new.Conditions, conditionType)
		return
	}
	r.set(conditionType, found())
}

// setWhile sets a condition of kstatus, which exists only while it is True.
func (r *report) setWhile(conditionType string, holds bool, why finding) {
	r.setIf(conditionType, holds, func() finding { return yes(why.reason, "%s", why.message) })
}

// MaxConditionMessage is the longest message of a condition, in bytes; longer ones are cut.
const MaxConditionMessage = 16 << 10

// cutMessage bounds a message, which can quote untrusted input.
func cutMessage(message string) string {
	if len(message) <= MaxConditionMessage {
		return message
	}
	return strings.ToValidUTF8(message[:MaxConditionMessage-len("...")], "") + "..."
}

// ReportForbidden is the status of a NodeBootstrap when RBAC denies the operator a read that it needs, at a time. A True Ready stays.
func ReportForbidden(nb *v1alpha1.NodeBootstrap, err error, now time.Time) *v1alpha1.NodeBootstrapStatus {
	r := report{new: nb.Status.DeepCopy(), now: now}
	r.new.ObservedGeneration = nb.Generation
	const advice = "the operator's RBAC is not as it ships"
	if was := meta.FindStatusCondition(r.new.Conditions, v1alpha1.ConditionReady); was != nil && was.Status == metav1.ConditionTrue {
		before, _, _ := strings.Cut(was.Message, "; "+advice)
		r.set(v1alpha1.ConditionReady, yes(was.Reason, "%s; %s, apply its manifests again: %v", before, advice, err))
		return r.new
	}
	why := stalled(&problem.Problem{Reason: v1alpha1.ReasonForbidden, Message: fmt.Sprintf("%s, apply its manifests again: %v", advice, err)})
	r.set(v1alpha1.ConditionReady, why)
	r.setWhile(v1alpha1.ConditionStalled, true, why)
	r.setWhile(v1alpha1.ConditionReconciling, false, why)
	return r.new
}
