// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
)

// MaxServingDecisions bounds the decisions on one node's CSRs for serving certificates in the hour for which Kubernetes keeps decided
// CSRs. A kubelet renews a certificate when most of its life is over: once in many days.
const MaxServingDecisions = 20

// servingRetry is how soon a CSR that waits for something unwatched is evaluated again.
const servingRetry = time.Minute

// decideServing gives each CSR for a serving certificate its verdict. Nothing is claimed first: an approval binds no key, and the apply
// step checks it again with uncached reads.
func (p *Plan) decideServing(f *Facts, now time.Time) {
	waiting := newestUndecided(f.ServingRequests)
	if newest := csr.NewestFirst(f.ServingRequests); len(waiting) == 0 && len(newest) > 0 && csr.Undecided(newest[0]) {
		p.Serving = &csr.Result{Verdict: csr.Wait, Reason: decisions.ReasonTooManyRequests,
			Message: "the node has asked for very many serving certificates within an hour: see its kubelet's log for why it is restarted over and over. " +
				"The operator goes on when Kubernetes has deleted the old requests, an hour or two after the decisions on them"}
	}
	for _, r := range waiting {
		result := p.servingVerdict(f, r)
		p.explain(r, ruleOfServing, result)
		switch result.Verdict {
		case csr.Leave:
			continue
		case csr.Wait:
			p.RequeueBy(now.Add(servingRetry))
		case csr.Approve, csr.Deny:
			p.Decisions = append(p.Decisions, Decision{Request: r, Result: result})
		}
		if p.Serving == nil { // the newest CSR's verdict is reported
			p.Serving = &result
		}
	}
}

// servingVerdict is the verdict on a CSR for a serving certificate. It approves nothing while the node's identity or the API server's addresses are in doubt.
func (p *Plan) servingVerdict(f *Facts, r *certificatesv1.CertificateSigningRequest) csr.Result {
	result := csr.EvaluateServing(csr.ServingRequest{
		CSR:       r,
		NodeName:  f.Name,
		Declared:  f.NodeBootstrap.Spec.ServingCertificate.Addresses,
		Reserved:  f.ReservedAddresses,
		Elsewhere: f.DeclaredElsewhere,
	})
	switch {
	case result.Verdict != csr.Approve:
	case (p.Misuse != nil || f.misused()) && (f.pinned() == "" || len(f.NodeBootstrap.Status.UnrevokedCertificates) > 0):
		result.Verdict, result.Reason = csr.Wait, v1alpha1.ReasonTokenMisused
		result.Message = "the node's token was misused, so that it may be another machine that asks: see the condition " + v1alpha1.ConditionTokenMisused
	case f.Cluster.Server == "" && f.ClusterProblem != nil:
		result.Verdict, result.Reason = csr.Wait, f.ClusterProblem.Reason
		result.Message = "it is not known which addresses are the API server's: " + f.ClusterProblem.Message
	}
	return result
}

// newestUndecided are the CSRs that a kubelet may still wait for, up to the limit of decisions: the newest few, and none older than a
// decided one. A kubelet gives up after a quarter of an hour and sends another key, while Kubernetes keeps the old CSR for a day.
func newestUndecided(requests []*certificatesv1.CertificateSigningRequest) []*certificatesv1.CertificateSigningRequest {
	const few = 3
	var waiting []*certificatesv1.CertificateSigningRequest
	var last time.Time
	decided := 0
	for _, r := range csr.NewestFirst(requests) {
		switch {
		case !csr.Undecided(r):
			last = later(last, r.CreationTimestamp.Time)
			decided++
		case len(waiting) < few && !r.CreationTimestamp.Time.Before(last):
			waiting = append(waiting, r)
		}
	}
	return waiting[:min(len(waiting), max(0, MaxServingDecisions-decided))]
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// SupportsServing reports whether an approval of a CSR for a serving certificate that was decided for a NodeBootstrap is still valid by
// newly gathered facts: it would be decided again.
func SupportsServing(decided *v1alpha1.NodeBootstrap, f *Facts, r *certificatesv1.CertificateSigningRequest) bool {
	var none Plan // the status already has any misuse that this reconcile found
	return f.NodeBootstrap.UID == decided.UID && none.servingVerdict(f, r).Verdict == csr.Approve
}
