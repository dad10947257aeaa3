// SPDX-License-Identifier: Apache-2.0

package lifecycle

import "time"

// RegisterSoon is how long after the approval of its CSR a kubelet usually takes to register its Node. It is the delay of the log entry,
// so that one write has both.
const RegisterSoon = JoinSoon

// requeueForNode requeues for the time by which a node with an issued certificate should have registered.
func (p *Plan) requeueForNode(f *Facts, now time.Time) {
	if f.Node != nil {
		return
	}
	if until := f.lastIssued().Add(RegisterSoon); until.After(now) {
		p.RequeueBy(until)
	}
}
