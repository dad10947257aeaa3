// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// Acceptance is the API server's answer about a token.
type Acceptance int

const (
	// AcceptanceUnknown means: the API server was not asked, or may not have seen the token yet.
	AcceptanceUnknown Acceptance = iota
	// Accepted means: the API server authenticates the token.
	Accepted
	// Rejected means: the API server does not authenticate the token, although it had time to see it.
	Rejected
)

// Outcome is the result of carrying out a plan.
type Outcome struct {
	// Token is the newest live token; nil if none exists.
	Token *token.Token
	// Claimed reports whether the NodeBootstrap in the facts is the API server's answer to the claim, and nothing else was done since
	// then.
	Claimed bool
	// Revoked reports whether everything that the plan deletes was deleted.
	Revoked bool
	// Published reports whether the kubeconfig Secret carries that token.
	Published bool
	// Acceptance is the API server's answer about that token.
	Acceptance Acceptance
	// Problem is what prevented a write.
	Problem *problem.Problem
	// Notice is a harmless interference with writes.
	Notice *problem.Problem
	// Err is why the plan was not carried out completely; it is retried.
	Err error

	lifecycle.Requeue
}

// Verified reports whether a status records that the API server accepts a token.
func Verified(status *v1alpha1.NodeBootstrapStatus, t *token.Token) bool {
	return t != nil && status.Token != nil && status.Token.ID == t.ID &&
		meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionCredentialsAvailable)
}

// Report is the status of a NodeBootstrap after a plan was carried out, at a time.
func Report(f *lifecycle.Facts, p *lifecycle.Plan, o *Outcome, now time.Time) *v1alpha1.NodeBootstrapStatus {
	r := report{f: f, p: p, o: o, old: &f.NodeBootstrap.Status, new: f.NodeBootstrap.Status.DeepCopy(), now: now}
	r.new.ObservedGeneration = f.NodeBootstrap.Generation
	live := r.liveTokens()
	decisions.NameTokens(r.new, live)
	decisions.RecordOvertaken(r.new, f.Requests)
	decisions.RecordIssued(r.new, r.issuedToRecord())
	decisions.RecordServing(r.new, f.ServingRequests, f.NodeBootstrap.CreationTimestamp.Time)
	decisions.RecordDenied(r.new, r.undecided())
	r.unrevoked()
	r.new.JoinProofTime = f.JoinProof(r.new, r.issuedToRecord()) // also by decisions that disappear with their token now
	if r.p.Phase == lifecycle.Joined || r.o.Revoked {            // otherwise the reason for the revocation may not be stored yet
		decisions.SetTokens(r.new, live)
	}
	r.wait()
	r.hosts()
	r.credential()
	r.conditions()
	r.keepTokens()
	return r.new
}

// keepTokens leaves the tokens in the status unchanged if nothing else changes: an expired token does not justify a write.
func (r *report) keepTokens() {
	for _, t := range r.new.Tokens {
		if was := decisions.LiveToken(r.old, t.ID); was == nil || !equality.Semantic.DeepEqual(*was, t) {
			return
		}
	}
	unchanged := *r.new
	unchanged.Tokens = r.old.Tokens
	if equality.Semantic.DeepEqual(&unchanged, r.old) {
		r.new.Tokens = r.old.Tokens
	}
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

type report struct {
	f        *lifecycle.Facts
	p        *lifecycle.Plan
	o        *Outcome
	old, new *v1alpha1.NodeBootstrapStatus
	now      time.Time
}

// issuedToRecord are the node's CSRs, except for those whose log entry is delayed.
func (r *report) issuedToRecord() []*certificatesv1.CertificateSigningRequest {
	own := r.f.OwnRequests()
	if r.p.Phase != lifecycle.Awaited {
		return own
	}
	return slices.DeleteFunc(own, func(request *certificatesv1.CertificateSigningRequest) bool {
		_, waits := r.f.RecordWaits(request, r.now)
		return waits
	})
}

// undecided are the CSRs without a decision in the plan. The decided ones are stored before the report, or left to the next reconcile.
func (r *report) undecided() []*certificatesv1.CertificateSigningRequest {
	return slices.DeleteFunc(slices.Clone(r.f.Requests), func(q *certificatesv1.CertificateSigningRequest) bool {
		return slices.ContainsFunc(r.p.Decisions, func(d lifecycle.Decision) bool { return d.Request.UID == q.UID })
	})
}

// liveTokens are the tokens that the plan keeps and the one that was created. All others are only deleted, once it succeeds.
func (r *report) liveTokens() []token.Token {
	live := r.p.Keep
	if t := r.o.Token; t != nil && r.p.LiveToken(t.ID) == nil {
		live = append(slices.Clone(live), *t)
	}
	return live
}

// wait records when the current wait began, and that a reissue is handled once a token was created for it.
func (r *report) wait() {
	if r.p.Phase == lifecycle.Joined {
		r.joinedNow()
		return
	}
	switch {
	case r.p.Reissue && (r.o.Token != nil || r.p.Phase == lifecycle.Withdrawn && r.o.Err == nil):
		handleReissue(r.p, r.f, r.new)
	case r.new.AwaitingSince == nil:
		proof := r.new.JoinProofTime
		beginWait(r.new, r.p.Since)
		r.new.JoinProofTime = proof
	default:
		r.new.NodeAliveTime = r.p.Alive
	}
}

func (r *report) joinedNow() {
	if r.f.ReissueOutdated() {
		r.new.LastHandledReissueAt = r.f.NodeBootstrap.Annotations[v1alpha1.ReissueRequestedAtAnnotation]
	}
	if r.f.Node != nil {
		r.new.NodeUID = r.f.Node.UID
	}
	r.new.AwaitingSince, r.new.FirstApprovalTime, r.new.JoinProofTime, r.new.ReplacedKey = nil, nil, nil, nil
}

// handleReissue records that a token was created for the requested reissue: alarms about earlier tokens are settled.
func handleReissue(p *lifecycle.Plan, f *lifecycle.Facts, s *v1alpha1.NodeBootstrapStatus) {
	requested := token.Reissue(f.NodeBootstrap)
	if token.NormalReissue(s.LastHandledReissueAt) == requested {
		return
	}
	s.LastHandledReissueAt, s.Keys = requested, nil
	meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionKeyConflict)
	meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionTokenMisused)
	if f.Node != nil {
		s.NodeUID = f.Node.UID
	}
	beginWait(s, p.Since)
}

func beginWait(s *v1alpha1.NodeBootstrapStatus, since time.Time) {
	s.AwaitingSince = &metav1.Time{Time: since.Truncate(time.Second)}
	s.NodeAliveTime, s.FirstApprovalTime, s.JoinProofTime, s.ReplacedKey = nil, nil, nil, nil
}

// hosts keeps every host at which the node may reach the API server: also that of a kubeconfig whose write may have succeeded although it
// returned an error, and that of a status from before this list existed.
func (r *report) hosts() {
	servers := []string{r.old.Server}
	if r.o.Token != nil && r.problem() == nil {
		servers = append(servers, r.f.Cluster.Server)
	}
	r.new.APIServerHosts = addHosts(r.new.APIServerHosts, servers...)
}

// credential names the current token and kubeconfig.
func (r *report) credential() {
	if r.o.Err != nil && (r.p.Phase == lifecycle.Joined || r.p.Phase == lifecycle.Withdrawn || !r.o.Revoked && r.deletesNamed()) {
		return // it may still exist
	}
	r.new.LastTokenID = r.p.LastTokenID
	r.new.Token, r.new.KubeconfigSecretRef, r.new.Server, r.new.CAFingerprint = nil, nil, "", ""
	if r.o.Token == nil {
		return
	}
	if r.p.MintReason != "" {
		r.new.LastTokenID = r.o.Token.ID
	}
	r.new.Token = &v1alpha1.TokenStatus{ID: r.o.Token.ID, ExpirationTime: metav1.NewTime(r.o.Token.Expires)}
	if r.o.Published {
		r.new.KubeconfigSecretRef = &v1alpha1.SecretReference{Namespace: r.f.Namespace, Name: owned.KubeconfigSecretName(r.f.Name)}
		r.new.Server, r.new.CAFingerprint = r.f.Cluster.Server, r.f.Cluster.CAFingerprint
		if r.problem() != nil || r.o.Err != nil { // the Secret may be unchanged
			r.new.Server, r.new.CAFingerprint = r.old.Server, r.old.CAFingerprint
		}
	}
}

// deletesNamed reports whether the plan deletes the token that the status names: if someone removed its label, only the status names it.
func (r *report) deletesNamed() bool {
	return r.old.Token != nil && slices.ContainsFunc(r.p.DeleteTokens, func(d lifecycle.TokenDeletion) bool { return d.Secret.Name == token.SecretName(r.old.Token.ID) })
}

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
	r.alarm() // Ready reports it
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
	r.enforcement()
	r.serving()

	unready := ready.status != metav1.ConditionTrue
	r.setWhile(v1alpha1.ConditionStalled, unready && ready.stalled, ready)
	r.setWhile(v1alpha1.ConditionReconciling, unready && !ready.stalled, ready)
}

// joined is also for people who run kubectl wait --for=condition=Joined.
func (r *report) joined() finding {
	switch {
	case r.p.Phase == lifecycle.Joined:
		return yes(v1alpha1.ReasonNodeHasCertificate, "%s", joinedMessage(r.new.NodeAliveTime))
	case r.new.NodeAliveTime != nil:
		return no(v1alpha1.ReasonNodeAlive, "%s", aliveMessage(r.new.NodeAliveTime))
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

func (r *report) problem() *problem.Problem {
	if r.o.Problem != nil {
		return r.o.Problem
	}
	return r.p.Problem
}

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
	if meta.IsStatusConditionTrue(r.new.Conditions, v1alpha1.ConditionTokenMisused) {
		return yes(v1alpha1.ReasonAwaitingNode, "the node has not joined, and its token was misused: see the condition %s", v1alpha1.ConditionTokenMisused)
	}
	if held := r.heldFor(); held != nil {
		return stalled(held)
	}
	if lifecycle.AwaitsPerson(r.f) && meta.IsStatusConditionTrue(r.new.Conditions, v1alpha1.ConditionKeyConflict) {
		return yes(v1alpha1.ReasonAwaitingApproval, "several keys were sent with the token: see the condition %s, and approve only the request "+
			"with the key of the machine", v1alpha1.ConditionKeyConflict)
	}
	if lifecycle.AwaitsPerson(r.f) {
		return yes(v1alpha1.ReasonAwaitingApproval, "the node has asked for its certificate: see kubectl get csr, then kubectl certificate approve")
	}
	return yes(v1alpha1.ReasonAwaitingNode, "%s", r.awaitingMessage())
}

// wasAvailable reports whether the API server accepted the token, or its predecessor: a renewal does not put that in doubt.
func (r *report) wasAvailable() bool {
	return meta.IsStatusConditionTrue(r.old.Conditions, v1alpha1.ConditionCredentialsAvailable)
}

func (r *report) wasReady(reason string) bool {
	c := meta.FindStatusCondition(r.old.Conditions, v1alpha1.ConditionReady)
	return c != nil && c.Status == metav1.ConditionTrue && c.Reason == reason
}

func (r *report) set(conditionType string, f finding) {
	meta.SetStatusCondition(&r.new.Conditions, metav1.Condition{
		Type: conditionType, Status: f.status, Reason: f.reason, Message: cutMessage(f.message),
		ObservedGeneration: r.new.ObservedGeneration, LastTransitionTime: metav1.NewTime(r.now),
	})
}

// setWhile sets a condition of kstatus, which exists only while it is True.
func (r *report) setWhile(conditionType string, holds bool, why finding) {
	if !holds {
		meta.RemoveStatusCondition(&r.new.Conditions, conditionType)
		return
	}
	r.set(conditionType, yes(why.reason, "%s", why.message))
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
