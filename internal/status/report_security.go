// SPDX-License-Identifier: Apache-2.0

package status

import (
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
)

// alarm keeps the condition of a misused token as it was first raised.
func (r *report) alarm() { raise(r.p, r.new, r.new.ObservedGeneration, r.now) }

// enforcement reports whether only this operator approves the CSRs of the node's token. Without a token it reports nothing.
func (r *report) enforcement() {
	if r.new.Token == nil {
		meta.RemoveStatusCondition(&r.new.Conditions, v1alpha1.ConditionApprovalEnforced)
		return
	}
	r.set(v1alpha1.ConditionApprovalEnforced, r.enforced())
}

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

// serving reports the state of the node's serving certificate while its NodeBootstrap declares addresses.
func (r *report) serving() {
	if len(r.f.NodeBootstrap.Spec.ServingCertificate.Addresses) == 0 {
		meta.RemoveStatusCondition(&r.new.Conditions, v1alpha1.ConditionServingCertificateApproved)
		return
	}
	r.set(v1alpha1.ConditionServingCertificateApproved, r.served())
}

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
