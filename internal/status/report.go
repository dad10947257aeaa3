// SPDX-License-Identifier: Apache-2.0

package status

import (
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
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

type report struct {
	f        *lifecycle.Facts
	p        *lifecycle.Plan
	o        *Outcome
	old, new *v1alpha1.NodeBootstrapStatus
	now      time.Time
}

// Report is the status of a NodeBootstrap after a plan was carried out, at a time.
func Report(f *lifecycle.Facts, p *lifecycle.Plan, o *Outcome, now time.Time) *v1alpha1.NodeBootstrapStatus {
	r := report{f: f, p: p, o: o, old: &f.NodeBootstrap.Status, new: f.NodeBootstrap.Status.DeepCopy(), now: now}
	r.new.ObservedGeneration = f.NodeBootstrap.Generation
	live := r.liveTokens()
	decisions.NameTokens(r.new, live)
	decisions.RecordOvertaken(r.new, f.Requests)
	issued := r.issuedToRecord()
	decisions.RecordIssued(r.new, issued)
	decisions.RecordServing(r.new, f.ServingRequests, f.NodeBootstrap.CreationTimestamp.Time)
	decisions.RecordDenied(r.new, r.undecided())
	r.unrevoked()
	r.new.JoinProofTime = f.JoinProof(r.new, issued)  // also by decisions that disappear with their token now
	if r.p.Phase == lifecycle.Joined || r.o.Revoked { // otherwise the reason for the revocation may not be stored yet
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

// unrevoked enters certificates that were issued although the operator had denied the CSR (someone else approved it) or revoked its token
// (the signer was faster than the deletion). It also enters those whose keys were replaced.
func (r *report) unrevoked() {
	for _, q := range r.f.Requests {
		i := decisions.Find(r.new.Certificates, q.UID)
		switch {
		case i < 0 || !csr.Issued(q):
		case decisions.Evidence(r.new.Certificates[i]) || r.tooLate(r.new.Certificates[i]):
			decisions.RecordUnrevoked(r.new, q, v1alpha1.ReasonIssuedBeforeRevocation)
		case r.replaced(q):
			decisions.RecordUnrevoked(r.new, q, v1alpha1.ReasonIssuedBeforeReplacement)
		}
	}
	r.new.UnrevokedCertificates = slices.DeleteFunc(r.new.UnrevokedCertificates, func(c v1alpha1.UnrevokedCertificate) bool {
		return !r.now.Before(c.ExpirationTime.Time)
	})
}

// tooLate reports whether an approved CSR got its certificate after its token was revoked: the log did not have the certificate, and the
// token is neither live nor expired.
func (r *report) tooLate(d v1alpha1.CertificateDecision) bool {
	was := decisions.Find(r.old.Certificates, d.UID)
	expired := r.old.Token != nil && r.old.Token.ID == d.TokenID && !r.now.Before(r.old.Token.ExpirationTime.Time)
	return d.Verdict == v1alpha1.VerdictApproved && !decisions.OfServing(d) && was >= 0 && r.old.Certificates[was].IssuedTime == nil &&
		r.p.Phase != lifecycle.Joined && !expired && r.p.LiveToken(d.TokenID) == nil
}

// replaced reports whether another key was approved after a CSR's own, with the same token.
func (r *report) replaced(q *certificatesv1.CertificateSigningRequest) bool {
	if r.f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide {
		return false
	}
	t := decisions.LiveToken(r.new, token.IDOfUser(q.Spec.Username))
	if t == nil {
		return false
	}
	approved := func(c v1alpha1.DecidedCSR) bool {
		return c.Verdict == v1alpha1.VerdictApproved && c.KeyFingerprint != "" && !decisions.Misuse(c.Reason)
	}
	newest := ""
	for _, c := range t.CSRs {
		if approved(c) {
			newest = c.KeyFingerprint
		}
	}
	c := decisions.Decided(t.CSRs, q.UID)
	return c != nil && approved(*c) && c.KeyFingerprint != newest
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
	r.steps()
	r.new.ClientCertificate = r.p.ClientCertificate
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
	s.Join, s.ClientCertificate = nil, nil
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

// maxAPIServerHosts is how many hosts a status keeps.
const maxAPIServerHosts = 16

// addHosts adds the hosts of servers to the published ones, the newest last. The oldest are dropped first.
func addHosts(hosts []string, servers ...string) []string {
	for _, server := range servers {
		host := kubeconfig.ServerHost(server)
		if host == "" || len(hosts) > 0 && hosts[len(hosts)-1] == host {
			continue
		}
		hosts = append(slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return h == host }), host)
	}
	return hosts[max(0, len(hosts)-maxAPIServerHosts):]
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
