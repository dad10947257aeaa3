// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"pgregory.net/rapid"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// The actions of this file do nothing where they make no sense.

func (h *historian) spec() func(*v1alpha1.NodeBootstrap) {
	ttl := rapid.SampledFrom([]time.Duration{shortest, time.Hour, 24 * time.Hour}).Draw(h.t, "ttl")
	approval := rapid.SampledFrom([]v1alpha1.Approval{"", "", v1alpha1.ApprovalManual, v1alpha1.ApprovalClusterWide}).Draw(h.t, "approval")
	deadline := rapid.SampledFrom([]time.Duration{0, 0, time.Hour}).Draw(h.t, "deadline")
	return func(nb *v1alpha1.NodeBootstrap) {
		nb.Spec.Token = v1alpha1.TokenSpec{TTL: &metav1.Duration{Duration: ttl}}
		if deadline > 0 {
			nb.Spec.Token.JoinDeadline = &metav1.Duration{Duration: deadline}
		}
		if approval != v1alpha1.ApprovalClusterWide || nb.Spec.PinnedKey() == "" { // the API server refuses both together
			nb.Spec.ClientCertificate.Approval = approval
		}
	}
}

// pin pins a key: usually that of the node's machine.
func (h *historian) pin(node string) func(*v1alpha1.NodeBootstrap) {
	m := h.machines[node]
	former := *m
	former.disk = max(1, m.disk-1)
	owner := rapid.SampledFrom([]*machine{m, m, &former, h.thief, h.installed("nobody", 1)}).Draw(h.t, "whose key")
	return func(nb *v1alpha1.NodeBootstrap) {
		if nb.Spec.ApprovalMode() != v1alpha1.ApprovalClusterWide { // the API server refuses both together
			owner.isPinned(nb)
		}
	}
}

func (h *historian) want(node string) {
	if get[*v1alpha1.NodeBootstrap](h.store, "", node) == nil {
		h.wants(node, h.spec())
	}
}

// people are the actions of people.
func (h *historian) people() map[string]func() {
	return map[string]func(){
		"someone wants a node":        func() { h.want(h.node()) },
		"someone wants a node too":    func() { h.want(h.node()) }, // more often than the others
		"nobody wants a node":         func() { h.unwants(h.node()) },
		"nobody wants it, foreground": func() { h.unwants(h.node(), foregroundFinalizer) },
		"nobody wants it, orphans":    func() { h.unwants(h.node(), orphanFinalizer) },
		"a NodeBootstrap is replaced": func() {
			node := h.node()
			h.unwants(node)
			h.want(node)
		},
		"someone asks for a reissue": func() {
			h.reissues++
			h.asksReissue(h.node(), fmt.Sprint(h.reissues))
		},
		"someone edits a spec": func() { edit(h.store, userAuthor, "", h.node(), h.spec()) },
		"someone allows replacement keys": func() {
			n := rapid.Int32Range(0, 7).Draw(h.t, "keys")
			edit(h.store, userAuthor, "", h.node(), func(nb *v1alpha1.NodeBootstrap) {
				if nb.Spec.ApprovalMode() != v1alpha1.ApprovalClusterWide {
					nb.Spec.ClientCertificate.ReplacementKeys = n
				}
			})
		},
		"someone wants a node and pins a key": func() {
			if node := h.node(); get[*v1alpha1.NodeBootstrap](h.store, "", node) == nil {
				h.wants(node, h.spec(), h.pin(node))
			}
		},
		"someone pins a key": func() {
			node := h.node()
			edit(h.store, userAuthor, "", node, h.pin(node))
		},
		"someone pins one key for both nodes": func() {
			pin := h.pin(h.node())
			for _, node := range nodes {
				edit(h.store, userAuthor, "", node, pin)
			}
		},
		"someone pins a new key and asks for a reissue": func() {
			node := h.node()
			h.reissues++
			pin := h.pin(node)
			edit(h.store, userAuthor, "", node, func(nb *v1alpha1.NodeBootstrap) {
				pin(nb)
				nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: fmt.Sprint(h.reissues)}
			})
		},
		"someone removes a pin":    func() { edit(h.store, userAuthor, "", h.node(), unpinned) },
		"someone deletes a Node":   func() { h.remove(userAuthor, key{kind: "Node", name: h.node()}) },
		"someone deletes a Secret": func() { h.onChild(func(s *corev1.Secret) { h.remove(userAuthor, keyOf(s)) }) },
		"someone edits a Secret": func() {
			h.onChild(func(s *corev1.Secret) {
				edited(h.world, userAuthor, s, func(s *corev1.Secret) {
					delete(s.Data, kubeconfig.Key)
					delete(s.Data, bootstrapapi.BootstrapTokenExtraGroupsKey)
				})
			})
		},
		"someone takes labels off a Secret": func() {
			h.onChild(func(s *corev1.Secret) {
				nb := get[*v1alpha1.NodeBootstrap](h.store, "", owned.NodeOf(s))
				if nb == nil || nb.Status.Token == nil || s.Name != token.SecretName(nb.Status.Token.ID) {
					return // the operator finds unlabelled tokens only by its status: a predecessor is lost
				}
				edited(h.world, userAuthor, s, func(s *corev1.Secret) { s.Labels = nil })
				h.idle() // before the NodeBootstrap is replaced, with its status
				edit(h.store, userAuthor, s.Namespace, s.Name, func(s *corev1.Secret) {
					s.Labels = map[string]string{owned.ManagedByLabel: owned.ManagedBy}
				})
			})
		},
		"someone rotates the CA": func() {
			ca := rapid.SampledFrom([]string{clusterCA(), anotherCA(), ""}).Draw(h.t, "CA")
			edit(h.store, userAuthor, namespace, "kube-root-ca.crt", func(c *corev1.ConfigMap) { c.Data = map[string]string{"ca.crt": ca} })
		},
		"someone prepares a Node": func() {
			if node := h.node(); get[*corev1.Node](h.store, "", node) == nil {
				h.add(userAuthor, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
			}
		},
		"someone deletes a binding": func() {
			name := rapid.SampledFrom(rbac.BindingNames).Draw(h.t, "binding")
			h.remove(userAuthor, key{kind: "ClusterRoleBinding", name: name})
		},
		"someone edits a binding": func() {
			name := rapid.SampledFrom(rbac.BindingNames).Draw(h.t, "binding")
			edit(h.store, userAuthor, "", name, func(b *rbacv1.ClusterRoleBinding) { b.Subjects = nil })
		},
		"someone deletes a request": func() {
			h.onRequest(func(r *certificatesv1.CertificateSigningRequest) { h.remove(userAuthor, keyOf(r)) })
		},
		"someone approves": func() {
			if m := h.machines[h.node()]; m.request != "" { // a legitimate approval
				if r := get[*certificatesv1.CertificateSigningRequest](h.store, "", m.request); r != nil && undecided(r) {
					h.decide(userAuthor, r, certificatesv1.CertificateApproved, "LooksGood")
				}
			}
		},
		"someone denies": func() {
			h.onRequest(func(r *certificatesv1.CertificateSigningRequest) {
				if undecided(r) {
					h.decide(userAuthor, r, certificatesv1.CertificateDenied, "LooksBad")
				}
			})
		},
	}
}

// onChild changes one of the Secrets that the operator created.
func (h *historian) onChild(do func(*corev1.Secret)) {
	children := slices.DeleteFunc(all[*corev1.Secret](h.store), func(s *corev1.Secret) bool { return h.Foreign[keyOf(s).public()] })
	if len(children) > 0 {
		do(rapid.SampledFrom(children).Draw(h.t, "Secret"))
	}
}

// onRequest changes one of the CSRs that machines sent.
func (h *historian) onRequest(do func(*certificatesv1.CertificateSigningRequest)) {
	requests := slices.DeleteFunc(all[*certificatesv1.CertificateSigningRequest](h.store), func(r *certificatesv1.CertificateSigningRequest) bool { return h.Foreign[keyOf(r).public()] })
	if len(requests) > 0 {
		do(rapid.SampledFrom(requests).Draw(h.t, "request"))
	}
}

// kubelets are the actions of machines.
func (h *historian) kubelets() map[string]func() {
	m := func() *machine { return h.machines[h.node()] }
	return map[string]func(){
		"a machine gets a kubeconfig": func() { m := m(); m.bearer = h.published(m.node) },
		"a kubelet asks":              func() { m().ask() },
		"a kubelet collects":          func() { m().collect() },
		"a machine is given all and asks": func() {
			m := m()
			m.bearer = h.published(m.node)
			m.ask()
			h.idle()
			m.collect()
		},
		"a kubelet registers": func() {
			if m := m(); m.certified {
				m.register()
			}
		},
		"a kubelet renews its Lease": func() {
			if m := m(); m.certified && get[*corev1.Node](h.store, "", m.node) != nil {
				m.beat()
			}
		},
		"an old kubelet renews its Lease": func() {
			if len(h.old) > 0 {
				rapid.SampledFrom(h.old).Draw(h.t, "machine").beat()
			}
		},
		"a machine is installed again": func() {
			m := m()
			if before := *m; before.certified {
				h.old = append(h.old, &before)
			}
			m.wipe()
		},
		"a kubelet is restarted and asks": func() {
			if m := m(); !m.certified && m.bearer != "" {
				bearer := m.bearer
				m.wipe()
				m.bearer = bearer
				m.ask()
			}
		},
		"a thief gets a kubeconfig": func() { h.thief.bearer = h.published(worker) },
		"a thief gets a kubeconfig and asks": func() {
			h.thief.bearer = h.published(worker)
			h.thief.askAs(h.node(), certificatesv1.KubeAPIServerClientKubeletSignerName)
		},
		"a thief asks for the name":        func() { h.thief.ask() },
		"a thief asks for another name":    func() { h.thief.askAs(neighbour, certificatesv1.KubeAPIServerClientKubeletSignerName) },
		"a thief asks for nobody's name":   func() { h.thief.askAs("worker-9", certificatesv1.KubeAPIServerClientKubeletSignerName) },
		"a thief asks another signer":      func() { h.thief.askAs(worker, certificatesv1.KubeAPIServerClientSignerName) },
		"a thief has another key nowadays": func() { h.thief.disk++ },
	}
}

// cluster are other events, and the operator's work.
func (h *historian) cluster() map[string]func() {
	return map[string]func(){
		"the operator works a little": func() {
			for range rapid.IntRange(1, 5).Draw(h.t, "items") {
				h.op.work()
			}
		},
		"the operator works":                   h.idle,
		"the operator crashes":                 h.startOperator,
		"the cluster does one thing":           func() { h.clusterActs() },
		"the signer comes or goes":             func() { h.signerDown = !h.signerDown },
		"garbage is collected at once":         func() { h.eager = !h.eager },
		"a moment passes":                      func() { h.run(time.Duration(rapid.IntRange(1, 3000).Draw(h.t, "milliseconds")) * time.Millisecond) },
		"minutes pass":                         func() { h.run(time.Duration(rapid.IntRange(1, 15).Draw(h.t, "minutes")) * time.Minute) },
		"hours pass":                           func() { h.run(time.Duration(rapid.IntRange(1, 30).Draw(h.t, "hours")) * time.Hour) },
		"the clock jumps":                      func() { h.jump(rapid.IntRange(1, 7200).Draw(h.t, "seconds")) },
		"the operator's clock is set":          func() { h.setClock(rapid.IntRange(-7200, 7200).Draw(h.t, "seconds")) },
		"one of the next calls goes wrong":     func() { h.misfortunes(1) },
		"some of the next calls go wrong":      func() { h.misfortunes(rapid.SampledFrom([]int{1, 2, 40}).Draw(h.t, "calls that go wrong")) },
		"one of the next calls goes wrong too": func() { h.misfortunes(1) }, // more often than other things
	}
}

// jump lets time pass in which nobody does anything: the machines of the control plane were suspended.
func (h *historian) jump(seconds int) {
	h.clock.SetTime(h.clock.Now().Add(time.Duration(seconds) * time.Second))
	h.op.due()
}

// misfortunes lets some of the next calls fail.
func (h *historian) misfortunes(n int) {
	h.failing = n
	h.healthy = rapid.IntRange(0, 30).Draw(h.t, "calls that are well")
	h.kind = rapid.IntRange(0, 30).Draw(h.t, "what goes wrong")
}

// setClock sets only the operator's clock, which its timers do not use. It reads the API server's all the time.
func (h *historian) setClock(seconds int) {
	d := time.Duration(seconds) * time.Second
	h.clock.SetTime(h.clock.Now().Add(d))
	h.skew -= d
	for i := range h.op.timers {
		h.op.timers[i] = h.op.timers[i].Add(d)
	}
	for _, f := range h.frozen {
		f.until = f.until.Add(d)
	}
	for _, until := range []map[string]time.Time{h.refused, h.spoiledUntil} {
		for right := range until {
			until[right] = until[right].Add(d)
		}
	}
	h.cutOffUntil, h.admitted, h.minute = h.cutOffUntil.Add(d), h.admitted.Add(d), h.minute.Add(d)
	h.op.hears()
}
