// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"slices"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
)

// keyReplaced is why a node cannot join although its credential is valid: the newest key that was sent with the token is not approved,
// and the approved key is unused. It is nil otherwise.
func (r *report) keyReplaced() *problem.Problem {
	t := r.o.Token
	if t == nil || r.f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide {
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
