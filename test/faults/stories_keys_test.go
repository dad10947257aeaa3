// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"time"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// The stories of this file are about second keys: of kubelets that are restarted before they have their certificate, and of
// thieves.

// seesReplacedKey is how a person notices that a second key was denied.
func (w *world) seesReplacedKey() *step {
	return &step{name: "someone sees that a second key was denied", do: func() bool {
		return w.stalled(worker, v1alpha1.ReasonKeyReplaced)
	}}
}

// restarts restarts a kubelet that had its key in memory, which sends another CSR with the same kubeconfig. Of keys that are sent
// within one second the one whose CSR has the later name is the later one.
func (m *machine) restarts(key int, when func() bool) *step {
	return &step{name: "the kubelet is restarted and asks with another key", wait: 3 * time.Second, do: func() bool {
		if !when() {
			return false
		}
		bearer := m.bearer
		m.wipe()
		m.bearer, m.disk = bearer, key
		return m.ask()
	}}
}

// noAlarm is the end of a story without a theft.
func (w *world) noAlarm() *step {
	return &step{name: "no alarm was raised", do: func() bool {
		if w.alarmed() {
			w.violated("no alarm without evidence: a restarted kubelet raises it")
		}
		return w.isJoined(worker)
	}}
}

// crashLoopStory: the kubelet exits after it has sent its CSR, because its container runtime is down, and each start has another
// key.
var crashLoopStory = story{name: "a kubelet restarts before it has its certificate", build: func(w *world) []*step {
	m := w.machine(worker)
	joins := m.joins(always)
	steps := []*step{
		w.wantsIt(), joins[0],
		m.restarts(4, m.approved), w.seesReplacedKey(),
		m.restarts(10, func() bool { return w.denied(m.request) }),
		{name: "someone fixes the machine and asks for a reissue", wait: 2 * time.Second, do: func() bool {
			return w.denied(m.request) && w.asksReissue(worker, "1")
		}},
	}
	again := w.machine(worker)
	again.disk = 66
	return append(append(steps, again.joins(always)...), w.noAlarm(), w.leaves(worker, w.joined(worker)))
}}

// replacementStory: with a replacement key the second start joins without help.
var replacementStory = story{name: "a kubelet restarts, with a replacement key", build: func(w *world) []*step {
	m := w.machine(worker)
	joins := m.joins(always)
	steps := []*step{
		w.wantsIt(func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.ReplacementKeys = 1 }),
		joins[0], m.restarts(4, m.approved), joins[1], joins[2], joins[3],
	}
	return append(steps, w.noAlarm(), w.leaves(worker, w.joined(worker)))
}}

// thiefFirstStory: a thief is approved and the machine is denied. When the thief joins, two machines have the kubeconfig.
var thiefFirstStory = story{name: "a thief asks first and joins", build: func(w *world) []*step {
	m, thief := w.machine(worker), w.machine(worker)
	m.disk = 66 // whose CSR has the later name: both may be sent within one second
	joins := thief.joins(always)
	return []*step{
		w.wantsIt(),
		{name: "the machine gets the kubeconfig", do: m.give, wait: time.Second},
		joins[0],
		{name: "the machine asks", do: func() bool { return thief.approved() && m.ask() }, wait: 2 * time.Second},
		w.seesReplacedKey(),
		joins[1], joins[2], joins[3],
		{name: "someone sees the alarm", do: w.alarmed},
		w.leaves(worker, w.joined(worker)),
	}
}}
