// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// States of a CSR.
const (
	pending  = "Pending"
	approved = "Approved"
	denied   = "Denied"
	failed   = "Failed"
)

func stateOf(r *certificatesv1.CertificateSigningRequest) string {
	switch {
	case csr.Condition(r, certificatesv1.CertificateDenied) != nil:
		return denied
	case csr.Condition(r, certificatesv1.CertificateFailed) != nil:
		return failed
	case csr.IsApproved(r):
		return approved
	default:
		return pending
	}
}

// Who decided a CSR.
const (
	byOperator          = "the operator"
	byControllerManager = "kube-controller-manager"
	byPerson            = "a person, with kubectl certificate"
	byOther             = "another client"
)

// decidedBy is who set a condition of a CSR, by its reason. Everyone who may approve can write any reason.
func decidedBy(c *certificatesv1.CertificateSigningRequestCondition) string {
	ours := c.Reason == csr.ReasonKubeletClient || c.Reason == csr.ReasonKubeletServing
	if c.Type == certificatesv1.CertificateDenied {
		ours = csr.DeniesClient(c.Reason) || csr.DeniesServing(c.Reason) || c.Reason == decisions.ReasonTokenRevoked
	}
	switch {
	case ours:
		return byOperator
	case c.Reason == "AutoApproved" || c.Type == certificatesv1.CertificateFailed: // pkg/controller/certificates/approver and signer
		return byControllerManager
	case c.Reason == "KubectlApprove" || c.Reason == "KubectlDeny":
		return byPerson
	default:
		return byOther
	}
}

// recorded sets the verdict that a CSR has, and returns the operator's decision on it: from the CSR, or what the status records or
// reports; nil if none is known.
func (s *situation) recorded(e *explanation) *csr.Result {
	r := s.request
	e.Verdict = explainedVerdict{State: stateOf(r), Issued: csr.Issued(r)}
	var operators *csr.Result
	if e.Verdict.State != pending {
		kind := map[string]certificatesv1.RequestConditionType{approved: certificatesv1.CertificateApproved, denied: certificatesv1.CertificateDenied, failed: certificatesv1.CertificateFailed}
		c := csr.Condition(r, kind[e.Verdict.State])
		at := csr.ConditionTime(c)
		e.Verdict.By, e.Verdict.Reason, e.Verdict.Message, e.Verdict.Time = decidedBy(c), clean(c.Reason), clean(c.Message), &at
		if e.Verdict.By == byOperator {
			operators = &csr.Result{Reason: c.Reason, Message: c.Message}
		}
	}
	if s.facts == nil || s.facts.NodeBootstrap == nil {
		return operators
	}
	status := &s.facts.NodeBootstrap.Status
	if i := decisions.Find(status.Certificates, r.UID); i >= 0 && operators == nil {
		d := status.Certificates[i]
		e.Verdict.Recorded = string(d.Verdict) + ", " + clean(d.Reason)
		operators = &csr.Result{Reason: d.Reason, Message: d.Message}
	}
	if operators == nil && e.Verdict.State == pending {
		return s.reported()
	}
	return operators
}

// reported is why a pending CSR for a serving certificate waits for something that only the operator knows.
func (s *situation) reported() *csr.Result {
	c := meta.FindStatusCondition(s.facts.NodeBootstrap.Status.Conditions, v1alpha1.ConditionServingCertificateApproved)
	waiting := slices.DeleteFunc(slices.Clone(s.facts.ServingRequests), func(r *certificatesv1.CertificateSigningRequest) bool { return !csr.Undecided(r) })
	if c == nil || c.Status != metav1.ConditionFalse || c.Reason != csr.ReasonAddressReserved || len(waiting) == 0 || csr.NewestFirst(waiting)[0].UID != s.request.UID {
		return nil
	}
	return &csr.Result{Verdict: csr.Wait, Reason: c.Reason, Message: c.Message}
}

// decide sets what the operator does with a pending CSR, and returns the verdict of internal/csr, if there is one.
func (s *situation) decide(e *explanation, recorded *csr.Result) (csr.Result, bool) {
	if e.Verdict.State != pending {
		return s.reevaluate(e.Verdict.Time.Time)
	}
	j := lifecycle.Explain(s.facts, s.request, s.now)
	e.Verdict.Next, e.Verdict.Rule, e.Verdict.Reason, e.Verdict.Message = string(j.Outcome), j.Rule, j.Reason, clean(j.Message)
	if j.Outcome == lifecycle.Approves && recorded != nil && recorded.Verdict == csr.Wait {
		e.Verdict.Next, e.Verdict.Reason, e.Verdict.Message = string(lifecycle.Waits), recorded.Reason, clean(recorded.Message)
	}
	if !j.Evaluated && s.facts.NodeBootstrap != nil {
		return s.reevaluate(s.now)
	}
	return j.Result, j.Evaluated
}

// reevaluate is the verdict of internal/csr by the facts of a time, also if the token was revoked since.
func (s *situation) reevaluate(at time.Time) (csr.Result, bool) {
	if s.facts.NodeBootstrap == nil {
		return csr.Result{}, false
	}
	if lifecycle.ServingNode(s.request) == s.facts.Name {
		return lifecycle.ReevaluateServing(s.facts, s.request), true
	}
	id := token.IDOfUser(s.request.Spec.Username)
	f := *s.facts
	if f.TokenSecret(token.SecretName(id)) == nil && id != "" {
		if s.ownerOf(id) == nil { // it may be a token of anyone
			return csr.Result{}, false
		}
		f.TokenSecrets = append(slices.Clone(f.TokenSecrets), s.tokenSecret(id, nil))
		s.unknown[factTokenCreated] = "its Secret no longer exists"
		s.unknown[factTokenExpires] = "its Secret no longer exists"
	}
	return lifecycle.Reevaluate(&f, s.request, at)
}

// overdueAfter is how long a running operator never takes to decide.
const overdueAfter = time.Minute

// overdue is what to do if the operator has not done yet what it does with a pending CSR.
func (s *situation) overdue(v explainedVerdict) string {
	acts := slices.Contains([]string{string(lifecycle.Approves), string(lifecycle.Denies), string(lifecycle.Deletes)}, v.Next)
	if !acts || v.Unknown || s.offline || s.now.Sub(s.request.CreationTimestamp.Time) < overdueAfter {
		return ""
	}
	return "The operator has not done that yet. See whether it runs: kubectl get pods -n nodebootstrap-system, and kubectl describe nodebootstrap " + clean(s.facts.Name)
}

// findings are those behind a result. Those that rest on unknown facts are unknown, unless the operator is certain to have known them.
func (s *situation) findings(result csr.Result, certain bool) []csr.Finding {
	list := csr.ClientFindings(result)
	if lifecycle.ServingNode(s.request) == s.facts.Name {
		list = csr.ServingFindings(result)
	}
	for i := range list {
		f := &list[i]
		f.Message = clean(f.Message)
		for _, need := range factsOfChecks[f.Check] {
			if why, unknown := s.unknown[need]; unknown && f.State == csr.Passed && !certain {
				f.State, f.Message = unknownState, "not known: "+string(need)+" ("+why+")"
				break
			}
		}
	}
	return list
}
