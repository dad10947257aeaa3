// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
)

// maxKeys bounds the keys in a status: one for each decision on a token's CSRs.
const maxKeys = decisions.MaxDecisionsPerToken

// recordKeys adds the keys that a plan found to those in a status, and reports whether any is new.
func recordKeys(p *lifecycle.Plan, status *v1alpha1.NodeBootstrapStatus) bool {
	was := len(status.Keys)
	for _, k := range p.Keys {
		if len(status.Keys) < maxKeys && !lifecycle.HasKey(status.Keys, k) {
			status.Keys = append(status.Keys, k)
		}
	}
	return len(status.Keys) > was
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

// heldFor is why the node's CSRs wait for a person; nil if none waits.
func (r *report) heldFor() *problem.Problem {
	spec := r.f.NodeBootstrap.Spec.ClientCertificate
	if spec.ApprovalDelay == nil || spec.ApprovalDelay.Duration <= 0 || r.f.NodeBootstrap.Spec.ApprovalMode() != v1alpha1.ApprovalNode ||
		!meta.IsStatusConditionTrue(r.new.Conditions, v1alpha1.ConditionKeyConflict) || !slices.ContainsFunc(r.f.OwnRequests(), csr.Undecided) {
		return nil
	}
	return &problem.Problem{Reason: v1alpha1.ReasonSeveralKeys, Message: "several keys were sent with the token, and with spec.clientCertificate.approvalDelay the operator " +
		"approves none that waits: see the condition " + v1alpha1.ConditionKeyConflict + ", then approve the request with the machine's key by hand, " +
		"or request a reissue"}
}
