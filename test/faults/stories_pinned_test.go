// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// The stories of this file are about pinned keys. In none of them a reissue is needed because of a thief.

// fingerprint is that of the machine's key.
func (m *machine) fingerprint() string {
	der, err := x509.MarshalPKIXPublicKey(privateKey(m.String()).Public())
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(der)
	return "SHA256:" + hex.EncodeToString(sum[:])
}

// isPinned pins the machine's key.
func (m *machine) isPinned(nb *v1alpha1.NodeBootstrap) {
	nb.Spec.ClientCertificate.KeyFingerprint = m.fingerprint()
}

// pins is how a person changes the pinned key once a condition holds.
func (w *world) pins(name string, when func() bool, how func(*v1alpha1.NodeBootstrap)) *step {
	return &step{name: name, wait: 2 * time.Second, do: func() bool {
		return when() && edit(w.store, userAuthor, "", worker, how)
	}}
}

// sees is how a person notices that a condition is True.
func (w *world) sees(conditionType string) func() bool {
	return func() bool { return meta.IsStatusConditionTrue(w.conditions(worker), conditionType) }
}

func unpinned(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.KeyFingerprint = "" }

// another is a machine with another key: a thief's, or the node's after so many installations.
func (w *world) another(disk int) *machine {
	m := w.machine(worker)
	m.disk = disk
	return m
}

// pinnedStory: a thief asks first, for everything. Nothing is revoked, and the machine joins.
var pinnedStory = story{name: "a thief asks first, and the machine's key is pinned", build: func(w *world) []*step {
	m, thief := w.machine(worker), w.another(66)
	steps := []*step{
		w.wantsIt(m.isPinned),
		thief.steals("a thief asks in the node's name", thief.ask),
		thief.steals("a thief asks for another name", func() bool {
			return w.alarmed() && thief.askAs(neighbour, certificatesv1.KubeAPIServerClientKubeletSignerName)
		}),
		thief.steals("a thief asks another signer", func() bool {
			return w.denied(thief.request) && thief.askAs(worker, certificatesv1.KubeAPIServerClientSignerName)
		}),
	}
	steps = append(steps, m.joins(func() bool { return w.denied(thief.request) })...)
	return append(steps, w.leaves(worker, w.joined(worker)))
}}

// repinnedStory: the wrong key is pinned, then none, then the right one; the machine asks each time.
var repinnedStory = story{name: "a pinned key is corrected", build: func(w *world) []*step {
	wrong, first, m := w.another(66), w.machine(worker), w.another(10)
	denied := func(m *machine) func() bool { return func() bool { return m.request != "" && w.denied(m.request) } }
	steps := []*step{
		w.wantsIt(wrong.isPinned),
		{name: "the machine asks with a key that is not pinned", wait: 2 * time.Second, do: func() bool { return first.give() && first.ask() }},
		w.pins("someone corrects the fingerprint", denied(first), m.isPinned),
	}
	steps = append(steps, m.joins(always)...)
	return append(steps, w.leaves(worker, w.joined(worker)))
}}

// pinnedLateStory: two keys wait for a person, who pins the machine's. Both are decided in one second or not, so the order of the record
// may differ.
var pinnedLateStory = story{name: "a key is pinned while requests wait", forgetful: true, build: func(w *world) []*step {
	m, thief := w.another(5), w.another(66) // the machine's CSR has the later name: both may be sent within one second
	joins := m.joins(always)
	return []*step{
		w.wantsIt(func(nb *v1alpha1.NodeBootstrap) {
			nb.Spec.Token.TTL.Duration, nb.Spec.ClientCertificate.Approval = time.Hour, v1alpha1.ApprovalManual
		}),
		thief.steals("a thief asks", thief.ask),
		joins[0],
		w.pins("someone pins the machine's key", w.sees(v1alpha1.ConditionKeyConflict), func(nb *v1alpha1.NodeBootstrap) {
			m.isPinned(nb)
			nb.Spec.ClientCertificate.Approval = ""
		}),
		{name: "someone sees the alarm", do: func() bool { return w.denied(thief.request) && w.alarmed() }},
		joins[1], joins[2], joins[3],
		w.leaves(worker, w.joined(worker)),
	}
}}

// unpinnedStory: after the pinned key was approved the pin is removed, and the token is bound to that key.
var unpinnedStory = story{name: "a pin is removed after the approval", build: func(w *world) []*step {
	m, thief := w.machine(worker), w.another(66)
	joins := m.joins(always)
	return []*step{
		w.wantsIt(m.isPinned),
		joins[0],
		w.pins("someone removes the pin", m.approved, unpinned),
		thief.steals("a thief asks", thief.ask),
		w.seesReplacedKey(),
		joins[1], joins[2], joins[3],
		w.leaves(worker, w.joined(worker)),
	}
}}

// pinnedAgainStory: a new fingerprint and a reissue in one commit let the reinstalled machine join.
var pinnedAgainStory = story{name: "a machine with a pinned key is reinstalled", build: func(w *world) []*step {
	m, again := w.machine(worker), w.another(10)
	steps := append([]*step{w.wantsIt(m.isPinned)}, m.joins(always)...)
	steps = append(steps, w.pins("someone commits the new fingerprint and a reissue", w.joined(worker), func(nb *v1alpha1.NodeBootstrap) {
		again.isPinned(nb)
		nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "1"}
	}))
	steps = append(steps, again.joins(always)...)
	return append(steps, again.runsOn(), w.leaves(worker, w.joined(worker)))
}}

// pinnedTwiceStory: neither of two NodeBootstraps with one key gets a certificate, until one of them is corrected.
var pinnedTwiceStory = story{name: "a key is pinned twice", build: func(w *world) []*step {
	m := w.machine(worker)
	joins := m.joins(always)
	steps := []*step{
		w.wantsIt(m.isPinned),
		{name: "someone pins the same key for its neighbour", do: func() bool { return w.isReady(worker) && w.wants(neighbour, m.isPinned) }, wait: 2 * time.Second},
		{name: "the machine asks", wait: 2 * time.Second, do: func() bool {
			m.bearer = w.published(worker)
			return w.stalled(worker, v1alpha1.ReasonKeyPinnedTwice) && w.stalled(neighbour, v1alpha1.ReasonKeyPinnedTwice) && m.ask()
		}},
		{name: "nobody wants the neighbour any more", wait: 2 * time.Second, do: func() bool {
			if m.approved() {
				w.violated("a key that is pinned twice is approved")
			}
			return w.unwants(neighbour)
		}},
		joins[1], joins[2], joins[3],
	}
	return append(steps, w.leaves(worker, w.joined(worker)))
}}
