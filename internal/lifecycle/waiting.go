// SPDX-License-Identifier: Apache-2.0

package lifecycle

import "time"

// RegisterSoon is how long after the approval of its request a kubelet has registered its Node, unless something is wrong: as long as
// the record waits, so that one write has both.
const RegisterSoon = JoinSoon

// lookForNode has a reconcile at the time at which a node whose certificate is issued should have registered.
func (p *Plan) lookForNode(f *Facts, now time.Time) {
	if f.Node != nil {
		return
	}
	if until := f.lastIssued().Add(RegisterSoon); until.After(now) {
		p.RequeueBy(until)
	}
}
