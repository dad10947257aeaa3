// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// The stories of this file are about what machines do, the right ones and the wrong ones.

const neighbour = "worker-2"

// steals is a thief's machine that has the node's kubeconfig.
func (m *machine) steals(name string, ask func() bool) *step {
	return &step{name: name, do: func() bool { return (m.bearer != "" || m.give()) && ask() }, wait: 2 * time.Second}
}

func (w *world) alarmed() bool {
	return meta.IsStatusConditionTrue(w.conditions(worker), v1alpha1.ConditionTokenMisused)
}

var theftStory = story{name: "a thief asks for another name first", build: func(w *world) []*step {
	thief := w.installed(worker, 66)
	steps := []*step{
		w.wantsIt(),
		{name: "someone wants its neighbour too", do: func() bool { return w.wants(neighbour) }, wait: 2 * time.Second},
		thief.steals("a thief asks for the neighbour's name", func() bool {
			return thief.askAs(neighbour, certificatesv1.KubeAPIServerClientKubeletSignerName)
		}),
		{name: "someone sees the alarm and asks for a reissue", do: func() bool { return w.alarmed() && w.asksReissue(worker, "1") }, wait: 2 * time.Second},
	}
	steps = append(steps, w.machine(worker).joins(always)...)
	return append(steps, w.leaves(worker, w.joined(worker)), w.leaves(neighbour, always))
}}

var secondKeyStory = story{name: "a thief asks with a second key", build: func(w *world) []*step {
	m, thief := w.machine(worker), w.installed(worker, 66)
	steps := m.joins(always)
	steps = []*step{
		w.wantsIt(),
		{name: "the thief copies the kubeconfig", do: thief.give, wait: time.Second},
		steps[0],
		{name: "the thief asks too", do: func() bool { return m.approved() && thief.ask() }, wait: 2 * time.Second},
		w.seesReplacedKey(), // if the node joins at the same moment there is none
		steps[1], steps[2], steps[3],
		{name: "someone sees the alarm", do: w.alarmed},
	}
	return append(steps, w.leaves(worker, w.joined(worker)))
}}

var cloneStory = story{name: "two machines were cloned from one disk", build: func(w *world) []*step {
	first, clone, reinstalled := w.machine(worker), w.machine(neighbour), w.machine(neighbour)
	first.image, clone.image, reinstalled.disk = "an image", "an image", 3 // whose CSR has the later name: it may be sent within the same second
	steps := []*step{
		w.wantsIt(),
		{name: "someone wants its neighbour too", do: func() bool { return w.wants(neighbour) }, wait: 2 * time.Second},
	}
	steps = append(steps, first.joins(always)...)
	steps = append(steps, &step{name: "the clone asks with the same key", do: func() bool { return clone.give() && clone.ask() }, wait: 2 * time.Second})
	steps = append(steps, reinstalled.joins(func() bool { return w.denied(clone.request) })...)
	return append(steps, w.leaves(worker, w.joined(worker)), w.leaves(neighbour, w.joined(neighbour)))
}}

// denied reports whether a CSR was denied, or no longer exists.
func (w *world) denied(name string) bool {
	r := get[*certificatesv1.CertificateSigningRequest](w.store, "", name)
	return r == nil || invariants.Decided(r, certificatesv1.CertificateDenied)
}

var finalizerStory = story{name: "a thief's requests have finalizers", build: func(w *world) []*step {
	thief, another := w.machine(worker), w.machine(worker)
	thief.disk, thief.finalizers = 66, []string{"example.com/stay"}
	another.disk, another.finalizers = 67, thief.finalizers
	return append([]*step{
		w.wantsIt(),
		thief.steals("a thief asks in the node's name", thief.ask),
		another.steals("and for another name", func() bool {
			return w.denied(thief.request) && another.askAs(neighbour, certificatesv1.KubeAPIServerClientKubeletSignerName)
		}),
		{name: "someone sees the alarm and asks for a reissue", do: func() bool { return w.alarmed() && w.asksReissue(worker, "1") }, wait: 2 * time.Second},
		{name: "a thief has another signer asked", do: func() bool {
			another.bearer, another.disk = "", 68
			return another.give() && another.askAs(worker, certificatesv1.KubeAPIServerClientSignerName)
		}, wait: 2 * time.Second},
	}, w.leaves(worker, w.alarmed))
}}

// approved reports whether the machine's CSR was approved.
func (m *machine) approved() bool {
	r := get[*certificatesv1.CertificateSigningRequest](m.w.store, "", m.request)
	return r != nil && invariants.Decided(r, certificatesv1.CertificateApproved)
}

var signerStory = story{name: "a thief asks another signer", build: func(w *world) []*step {
	thief := w.machine(worker)
	return append([]*step{
		w.wantsIt(),
		thief.steals("a thief asks another signer", func() bool { return thief.askAs(worker, certificatesv1.KubeAPIServerClientSignerName) }),
		{name: "someone sees the alarm and asks for a reissue", do: func() bool { return w.alarmed() && w.asksReissue(worker, "1") }, wait: 2 * time.Second},
	}, w.machine(worker).joinsAndLeaves(always)...)
}}

var restartStory = story{name: "a kubelet asks twice", build: func(w *world) []*step {
	first, second := w.machine(worker), w.installed(worker, 4) // whose CSR has the later name: both are sent within one second
	steps := second.joins(always)
	steps[0].do = func() bool { return first.give() && first.ask() && second.give() && second.ask() }
	return append(append([]*step{w.wantsIt()}, steps...), w.leaves(worker, w.joined(worker)))
}, except: func(a at) bool { // if only the first CSR is seen, it is the one that is approved
	return (a.fault == stale || a.fault == behind) && strings.HasPrefix(a.id, "list CertificateSigningRequest token=")
}}

var manualStory = story{name: "approval Manual", build: func(w *world) []*step {
	m := w.machine(worker)
	steps := m.joinsAndLeaves(always)
	wants := w.wantsIt(func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual })
	return append([]*step{wants, steps[0], w.approves(m)}, steps[1:]...)
}}

var clusterWideStory = story{name: "approval ClusterWide", build: func(w *world) []*step {
	steps := []*step{w.wantsIt(func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide })}
	return append(steps, w.machine(worker).joinsAndLeaves(always)...)
}}

var backStory = story{name: "the node is deleted and comes back", build: func(w *world) []*step {
	again := w.installed(worker, 2)
	steps := append([]*step{w.wantsIt()}, w.machine(worker).joins(always)...)
	steps = append(steps, &step{name: "someone deletes the Node", wait: 2 * time.Second, do: func() bool {
		if w.isJoined(worker) { // its credential may still exist
			w.remove(userAuthor, key{kind: "Node", name: worker})
			return true
		}
		return false
	}})
	return append(steps, again.joinsAndLeaves(func() bool { return !w.isJoined(worker) })...)
}}

// The old kubelet renews its Lease all the time: that must not revoke the new machine's token before it has collected its
// certificate.
var aliveStory = story{name: "the old kubelet keeps running after a reissue", build: func(w *world) []*step {
	old, again := w.machine(worker), w.installed(worker, 2)
	steps := append([]*step{w.wantsIt()}, old.joins(always)...)
	steps = append(steps,
		&step{name: "someone asks for a reissue", do: func() bool { return w.isDone(worker) && w.asksReissue(worker, "1") }, wait: 11 * time.Second},
		&step{name: "the old kubelet renews its Lease", do: old.beat, wait: 2 * time.Second},
	)
	joins := again.joins(always)
	steps = append(steps, joins[0],
		&step{name: "the old kubelet renews it once more", do: func() bool { return again.approved() && old.beat() }, wait: 5 * time.Second},
		&step{name: "and once more", do: old.beat, wait: 5 * time.Second})
	steps = append(steps, joins[1:]...)
	return append(steps, again.runsOn(), w.leaves(worker, w.joined(worker)))
}}

var forgedStory = story{name: "someone forges the Node of a kubelet that has reported", build: func(w *world) []*step {
	m := w.machine(worker)
	steps := []*step{w.wantsIt(), {name: "someone forges the Node", do: func() bool { return w.isReady(worker) && m.register() }, wait: 5 * time.Second}}
	return append(steps, m.joinsAndLeaves(always)...)
}}

// bareStory is about a token without owner, annotation and label, and about its predecessor.
var bareStory = story{name: "someone removes the metadata of tokens", build: func(w *world) []*step {
	bare := func(s *corev1.Secret) { s.Labels, s.Annotations, s.OwnerReferences = nil, nil, nil }
	renewed := func() bool { return len(w.liveTokens(worker)) == 2 && w.isReady(worker) }
	return append([]*step{
		w.wantsIt(),
		w.onToken("the token says nothing", bare),
		{name: "the predecessor loses its metadata", wait: 2 * time.Second, do: func() bool {
			if !renewed() {
				return false
			}
			tokens := w.liveTokens(worker)
			slices.SortFunc(tokens, func(a, b *corev1.Secret) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
			return edit(w.store, userAuthor, tokens[0].Namespace, tokens[0].Name, bare)
		}},
	}, w.machine(worker).joinsAndLeaves(func() bool { return len(w.liveTokens(worker)) == 1 })...)
}}

var memberStory = story{name: "the node was a member before", build: func(w *world) []*step {
	m := w.machine(worker)
	return []*step{
		{name: "a machine joins in another way", do: func() bool { return m.register() && m.beat() }, wait: time.Second},
		w.wantsIt(),
		w.leaves(worker, w.joined(worker)),
	}
}}

// prepares creates the Node in advance, for its labels.
func (w *world) prepares(wait time.Duration) *step {
	return &step{name: "someone creates the Node for its labels", wait: wait, do: func() bool {
		n := &corev1.Node{}
		n.Name = worker
		w.add(userAuthor, n)
		return true
	}}
}

var preparedStory = story{name: "the Node is created in advance", build: func(w *world) []*step {
	return append([]*step{w.prepares(time.Second), w.wantsIt()}, w.machine(worker).joinsAndLeaves(always)...)
}}

var preparedLateStory = story{name: "the Node is created while the request waits", build: func(w *world) []*step {
	m := w.machine(worker)
	steps := m.joinsAndLeaves(always)
	wants := w.wantsIt(func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual })
	return append([]*step{wants, steps[0], w.prepares(2 * time.Second), w.approves(m)}, steps[1:]...)
}}

// approves is what a person does with approval Manual.
func (w *world) approves(m *machine) *step {
	return &step{name: "a person approves", wait: 2 * time.Second, do: func() bool {
		r := get[*certificatesv1.CertificateSigningRequest](w.store, "", m.request)
		if r != nil && undecided(r) {
			w.decide(userAuthor, r, certificatesv1.CertificateApproved, "LooksGood")
		}
		return r != nil
	}}
}

// lateSignerStory has two CSRs that are approved and not signed for a long while.
var lateSignerStory = story{name: "the signer is away during a renewal", build: func(w *world) []*step {
	w.signerDown = true
	m, again := w.machine(worker), w.installed(worker, 2)
	steps := again.joins(always)
	steps[0].wait = 90 * time.Second
	steps[0].do = func() bool { // as soon as a new token exists, whatever the status says
		again.bearer = w.published(worker)
		return m.bearer != "" && again.bearer != m.bearer && again.ask()
	}
	return []*step{
		w.wantsIt(),
		m.joins(always)[0],
		steps[0],
		{name: "the signer is back", rest: true, wait: 2 * cacheLag, do: func() bool {
			w.signerDown = !w.stalled(worker, v1alpha1.ReasonCertificateNotIssued)
			return !w.signerDown
		}},
		steps[1], steps[2], steps[3], w.leaves(worker, w.joined(worker)),
	}
}, except: admissionDelays} // the predecessor expires meanwhile

var servingStory = story{name: "serving certificates", build: func(w *world) []*step {
	m := w.machine(worker)
	asks := func(seed string, names ...string) func() bool {
		return func() bool {
			return m.askServing(certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth, seed, names...)
		}
	}
	issued := func() bool {
		r := get[*certificatesv1.CertificateSigningRequest](w.store, "", m.request)
		return r != nil && !invariants.Pending(r)
	}
	declare := func(addresses ...string) func(*v1alpha1.NodeBootstrap) {
		return func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ServingCertificate.Addresses = addresses }
	}
	steps := append([]*step{w.wantsIt(declare(worker, "192.0.2.7"))}, m.joins(always)...)
	return append(steps,
		&step{name: "the kubelet asks for a serving certificate", do: asks("first", worker), wait: 2 * time.Second},
		&step{name: "it asks for one that names more", do: func() bool { return issued() && asks("second", "more.example.com", worker)() }, wait: 2 * time.Second},
		&step{name: "someone declares that too", wait: 2 * time.Second, do: func() bool {
			return w.isObserved(worker) && edit(w.store, userAuthor, "", worker, declare(worker, "192.0.2.7", "more.example.com"))
		}},
		&step{name: "it asks for a new client certificate", wait: 2 * time.Second, do: func() bool {
			return issued() && m.askServing(certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth, "third")
		}},
		w.leaves(worker, func() bool { return w.isJoined(worker) && issued() }))
}}

// pendingStory is about a CSR that is pending when the NodeBootstrap is deleted.
func pendingStory(name string, approval v1alpha1.Approval) story {
	return story{name: name, build: func(w *world) []*step {
		w.signerDown = true
		m := w.machine(worker)
		return []*step{
			w.wantsIt(func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = approval }),
			m.joins(always)[0],
			{name: "someone sees that it waits", do: func() bool {
				return w.isObserved(worker) && (approval == v1alpha1.ApprovalManual || w.stalled(worker, v1alpha1.ReasonCertificateNotIssued))
			}},
			w.leaves(worker, always),
			{name: "the signer is back", do: func() bool { w.signerDown = false; return true }},
		}
	}}
}

// reissuePendingStory is about a CSR that is pending when a reissue is requested.
var reissuePendingStory = story{name: "a reissue while a request waits for the signer", build: func(w *world) []*step {
	w.signerDown = true
	m, again := w.machine(worker), w.installed(worker, 2)
	return append([]*step{
		w.wantsIt(),
		m.joins(always)[0],
		{name: "someone asks for a reissue", do: func() bool { return m.approved() && w.asksReissue(worker, "1") }, wait: 2 * time.Second},
		{name: "the signer is back", do: func() bool {
			if w.isReady(worker) {
				w.signerDown = false
			}
			return !w.signerDown
		}, wait: time.Second},
	}, again.joinsAndLeaves(always)...)
}}

var machineStories = []story{
	pinnedStory, repinnedStory, pinnedLateStory, unpinnedStory, pinnedAgainStory, pinnedTwiceStory,
	theftStory, secondKeyStory, thiefFirstStory, crashLoopStory, replacementStory, cloneStory, finalizerStory, signerStory, restartStory, manualStory, clusterWideStory, backStory, memberStory, aliveStory, forgedStory, bareStory, preparedStory, preparedLateStory, lateSignerStory,
	servingStory,
	pendingStory("deleted while a request waits for a person", v1alpha1.ApprovalManual),
	pendingStory("deleted while a request waits for the signer", v1alpha1.ApprovalNode),
	reissuePendingStory,
}

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
	again := w.installed(worker, 66)
	return append(append(steps, again.joins(always)...), w.noAlarm(), w.leaves(worker, w.joined(worker)))
}}

// replacementStory: with a replacement key the second start joins without help.
var replacementStory = story{name: "a kubelet restarts, with a replacement key", build: func(w *world) []*step {
	m := w.machine(worker)
	joins := m.joins(always)
	return append([]*step{
		w.wantsIt(func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.ReplacementKeys = 1 }),
		joins[0], m.restarts(4, m.approved), joins[1], joins[2], joins[3],
	}, w.noAlarm(), w.leaves(worker, w.joined(worker)))
}}

// thiefFirstStory: a thief is approved and the machine is denied. When the thief joins, two machines have the kubeconfig.
var thiefFirstStory = story{name: "a thief asks first and joins", build: func(w *world) []*step {
	m, thief := w.installed(worker, 66), w.machine(worker) // whose CSR has the later name: both may be sent within one second
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
