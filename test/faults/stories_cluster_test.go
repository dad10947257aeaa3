// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// The stories of this file are about what an administrator does to the whole cluster, and to pending CSRs.

// caStory rotates the cluster's CA: with both for a while, and then only with the new one.
var caStory = story{name: "the CA is rotated", build: func(w *world) []*step {
	publishes := func(name, ca string) *step {
		return &step{name: name, wait: 2 * time.Second, do: func() bool {
			return w.isReady(worker) && edit(w.store, userAuthor, namespace, "kube-root-ca.crt", func(c *corev1.ConfigMap) { c.Data = map[string]string{"ca.crt": ca} })
		}}
	}
	steps := []*step{
		w.wantsIt(),
		publishes("both are published", clusterCA()+anotherCA()),
		publishes("the new one is published", anotherCA()),
	}
	steps = append(steps, w.machine(worker).joins(func() bool {
		s := get[*corev1.Secret](w.store, namespace, owned.KubeconfigSecretName(worker))
		return s != nil && string(s.Data[kubeconfig.CAKey]) == anotherCA()
	})...)
	return append(steps, w.leaves(worker, w.joined(worker)))
}}

// installs creates the CustomResourceDefinition.
func (w *world) installs() bool {
	w.add(userAuthor, &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{Kind: crdKey.kind}, ObjectMeta: metav1.ObjectMeta{Name: crdKey.name}})
	return true
}

// crdStory deletes the CustomResourceDefinition, and with it all its objects, and reinstalls it.
var crdStory = story{name: "the CRD is deleted and installed again", build: func(w *world) []*step {
	uninstall := func() bool {
		if !w.isReady(worker) {
			return false
		}
		w.unwants(worker)
		w.remove(userAuthor, crdKey)
		return true
	}
	return append([]*step{
		w.wantsIt(),
		{name: "the CRD is deleted", do: uninstall, wait: 5 * time.Second},
		{name: "it is installed again", rest: true, do: w.installs, wait: time.Second},
		w.wantsIt(),
	}, w.machine(worker).joinsAndLeaves(always)...)
}}

// approvalStory changes spec.clientCertificate.approval while a CSR is pending. If its groups do not suit the new approval it
// stays pending for ever, and so the kubelet sends another one.
func approvalStory(from, to v1alpha1.Approval, asksAgain bool) story {
	return story{name: "approval " + string(from) + " becomes " + string(to) + " while a request waits", build: func(w *world) []*step {
		w.signerDown = true
		m, again := w.machine(worker), w.installed(worker, 2)
		steps := []*step{
			w.wantsIt(func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = from }),
			m.joins(always)[0],
			{name: "the approval is changed", wait: 2 * time.Second, do: func() bool {
				return w.isObserved(worker) && edit(w.store, userAuthor, "", worker, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = to })
			}},
			{name: "kube-controller-manager is back", wait: 2 * time.Second, do: func() bool { w.signerDown = !w.isObserved(worker); return !w.signerDown }},
		}
		joining := m
		if asksAgain {
			joining = again
		}
		rest := joining.joins(func() bool { // while a token is not in the right groups, nobody approves its CSRs
			t := w.theToken()
			return t != nil && (to == v1alpha1.ApprovalClusterWide) == strings.Contains(string(t.Data[bootstrapapi.BootstrapTokenExtraGroupsKey]), token.ClusterWideGroup)
		})
		if asksAgain {
			steps = append(steps, rest[0])
		}
		if to == v1alpha1.ApprovalManual {
			steps = append(steps, w.approves(joining))
		}
		return append(append(steps, rest[1:]...), w.leaves(worker, w.joined(worker)))
	}, except: at.leadsElsewhere} // the CSR is deleted with its token
}

// typesStory has Secrets of ours that an update cannot correct.
var typesStory = story{name: "Secrets are of the wrong type, or cannot be changed", build: func(w *world) []*step {
	kubeconfig := key{"Secret", namespace, owned.KubeconfigSecretName(worker)}
	return append([]*step{
		w.wantsIt(),
		{name: "the kubeconfig Secret is created again with another type", wait: 2 * time.Second, do: func() bool {
			have := get[*corev1.Secret](w.store, kubeconfig.namespace, kubeconfig.name)
			if have == nil || !w.isReady(worker) {
				return false
			}
			other := have.DeepCopy()
			other.Type, other.ResourceVersion, other.UID = "example.com/other", "", ""
			w.remove(userAuthor, kubeconfig)
			w.add(userAuthor, other)
			return true
		}},
		w.onToken("the token is wrong and cannot be changed any more", func(s *corev1.Secret) {
			s.Immutable, s.Data["auth-extra-groups"] = new(true), []byte("system:bootstrappers:other")
		}),
	}, w.machine(worker).joinsAndLeaves(func() bool { return w.theToken() != nil && w.theToken().Immutable == nil })...)
}}

// restoredStory loses the status while a CSR waits for the signer, as a backup does that is restored without it.
var restoredStory = story{name: "the status is lost while a request waits for the signer", build: func(w *world) []*step {
	w.signerDown = true
	m := w.machine(worker)
	rest := m.joins(always)
	steps := []*step{
		w.wantsIt(), rest[0],
		{name: "the status is lost", wait: 2 * time.Second, do: func() bool {
			return m.approved() && edit(w.store, userAuthor, "", worker, func(nb *v1alpha1.NodeBootstrap) { nb.Status = v1alpha1.NodeBootstrapStatus{} })
		}},
		{name: "the signer is back", do: func() bool { w.signerDown = false; return true }, wait: time.Second},
	}
	return append(append(steps, rest[1:]...), w.leaves(worker, w.joined(worker)))
}, forgetful: true}

// reinstalledStory deletes the old Node and requests a reissue, one right after the other.
var reinstalledStory = story{name: "the machine is installed again: a reissue, and the Node deleted", build: func(w *world) []*step {
	again := w.installed(worker, 2)
	steps := append([]*step{w.wantsIt()}, w.machine(worker).joins(always)...)
	steps = append(steps,
		&step{name: "someone asks for a reissue", do: func() bool { return w.isDone(worker) && w.asksReissue(worker, "1") }},
		&step{name: "and deletes the Node", wait: 2 * time.Second, do: func() bool { w.remove(userAuthor, key{kind: "Node", name: worker}); return true }},
	)
	return append(steps, again.joinsAndLeaves(always)...)
}}

// quotaStory refuses the creation of Secrets from before a renewal is due until the node has joined: the CSR that was sent
// with the current token does not wait for that.
var quotaStory = story{name: "a quota refuses Secrets while a token is to be renewed", build: func(w *world) []*step {
	const right = "create Secret"
	steps := []*step{
		w.wantsIt(),
		{name: "a quota is set", wait: shortest * 5 / 6, do: func() bool {
			if w.isReady(worker) {
				w.refused[right] = w.clock.Now().Add(24 * time.Hour)
			}
			return w.isReady(worker)
		}},
	}
	steps = append(steps, w.machine(worker).joins(always)...)
	return append(steps,
		&step{name: "the quota is lifted", do: func() bool { delete(w.refused, right); return true }, wait: time.Second},
		w.leaves(worker, w.joined(worker)))
}, except: admissionDelays} // anything not created before the quota is set is created too late

// eager is a story in which the rest of the cluster is always faster than the operator: Kubernetes deletes expired tokens,
// and collects garbage, before the operator does.
func eager(s story) story {
	build := s.build
	s.name += ", and the cluster is faster"
	s.build = func(w *world) []*step {
		w.eager = true
		return build(w)
	}
	return s
}

var clusterStories = []story{
	caStory, crdStory,
	approvalStory(v1alpha1.ApprovalManual, v1alpha1.ApprovalNode, false),
	approvalStory(v1alpha1.ApprovalManual, v1alpha1.ApprovalClusterWide, true),
	approvalStory(v1alpha1.ApprovalClusterWide, v1alpha1.ApprovalNode, false),
	approvalStory(v1alpha1.ApprovalClusterWide, v1alpha1.ApprovalManual, false),
	typesStory, restoredStory, reinstalledStory, quotaStory, policyStory("Secret"), policyStory("ClusterRoleBinding"), eager(deadlineStory),
}

// policyStory has a policy that changes what the operator creates, so that it tries dry runs, and the policy is deleted after a
// while.
func policyStory(kind string) story {
	return story{name: "a policy changes each new " + kind + " for a while", build: func(w *world) []*step {
		right := "create " + kind
		return append([]*step{
			{name: "a policy is installed", do: func() bool { w.spoiledUntil[right] = w.clock.Now().Add(24 * time.Hour); return true }},
			w.wantsIt(),
			{name: "the policy is deleted", wait: 3 * time.Second, do: func() bool {
				reported := w.clock.Since(begin) > 150*time.Second
				if reported {
					delete(w.spoiledUntil, right)
				}
				return reported
			}},
		}, w.machine(worker).joinsAndLeaves(always)...)
	}, forgetful: true, except: func(a at) bool { // the ID of a spoiled token that a cache still shows is skipped, and spoiling ends the policy
		return a.fault == spoiling || a.leadsElsewhere()
	}}
}

// The stories of this file are about simultaneous events, and about facts that are still unknown.

// raceStory sends a CSR at the moment at which a prerequisite of its approval is deleted: a stale cache shows one and not
// the other. Then the machine joins nevertheless, or the node is no longer wanted.
func raceStory(name string, take func(*world) bool, joins bool) story {
	return story{name: "a request is sent while " + name, build: func(w *world) []*step {
		m, again := w.machine(worker), w.installed(worker, 2)
		steps := []*step{w.wantsIt(), {name: "it is sent while " + name, wait: 3 * time.Second, do: func() bool { return m.give() && m.ask() && take(w) }}}
		if !joins {
			return append(steps, &step{name: "nothing more happens", wait: time.Second, do: always})
		}
		return append(steps, again.joinsAndLeaves(always)...)
	}}
}

var raceStories = []story{
	clocksStory("the API server's clock is an hour ahead, the node's behind", time.Hour, -time.Hour, 0),
	clocksStory("the API server's clock is an hour behind, the node's ahead", -time.Hour, time.Hour, 0),
	raceStory("the NodeBootstrap is deleted", func(w *world) bool { return w.unwants(worker) }, false),
	raceStory("the NodeBootstrap is replaced", func(w *world) bool { return w.unwants(worker) && w.wants(worker) }, true),
	raceStory("a reissue is asked for", func(w *world) bool { return w.asksReissue(worker, "1") }, true),
	raceStory("the token is deleted", func(w *world) bool {
		w.remove(userAuthor, keyOf(w.theToken()))
		return true
	}, true),
	raceStory("approval becomes Manual", func(w *world) bool {
		return edit(w.store, userAuthor, "", worker, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual })
	}, false),
	unsignedStory,
}

// unsignedStory deletes the NodeBootstrap while the signer has not signed the approved CSR yet. The signer may do so at any call after that.
var unsignedStory = story{name: "nobody wants the node while its request is unsigned", build: func(w *world) []*step {
	m := w.machine(worker)
	return []*step{
		w.wantsIt(),
		{name: "a request is sent", wait: 3 * time.Second, do: func() bool { w.signerDown = true; return m.give() && m.ask() }},
		{name: "nobody wants the node", wait: time.Second, do: func() bool { w.signerDown = false; return w.unwants(worker) }},
	}
}}

// successorStory replaces Secrets that the operator is about to delete by foreign ones of the same names.
var successorStory = story{name: "someone reuses the names of deleted Secrets", build: func(w *world) []*step {
	var token key
	return []*step{
		w.wantsIt(),
		{name: "nobody wants the node", wait: 5 * time.Second, do: func() bool {
			if s := w.theToken(); s != nil && w.isReady(worker) {
				token = keyOf(s)
			}
			return token.name != "" && w.unwants(worker)
		}},
		{name: "someone creates Secrets of these names", wait: time.Second, do: func() bool {
			for _, k := range []key{token, {"Secret", namespace, owned.KubeconfigSecretName(worker)}} {
				w.remove(userAuthor, k)
				w.add(userAuthor, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: k.namespace, Name: k.name}})
				w.Foreign[k.public()] = true
			}
			return true
		}},
	}
}}

// discoveryStory finds the API server's URL only in cluster-info, which comes late and changes.
var discoveryStory = story{name: "the API server is discovered", build: func(w *world) []*step {
	w.flagServer = ""
	const server, another = "https://192.0.2.1:6443", "https://192.0.2.2:6443"
	info := func(server string) map[string]string {
		return map[string]string{bootstrapapi.KubeConfigKey: fmt.Sprintf(
			"apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    server: %s\n", server)}
	}
	steps := []*step{
		w.wantsIt(),
		{name: "cluster-info is published", wait: 2 * time.Second, do: func() bool {
			if !w.stalled(worker, v1alpha1.ReasonServerUnknown) {
				return false
			}
			w.add(userAuthor, &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespacePublic, Name: bootstrapapi.ConfigMapClusterInfo}, Data: info(server),
			})
			return true
		}},
		{name: "the API server moves", wait: 2 * time.Second, do: func() bool {
			return w.isReady(worker) && edit(w.store, userAuthor, metav1.NamespacePublic, bootstrapapi.ConfigMapClusterInfo, func(c *corev1.ConfigMap) { c.Data = info(another) })
		}},
	}
	steps = append(steps, w.machine(worker).joins(func() bool {
		nb := get[*v1alpha1.NodeBootstrap](w.store, "", worker)
		return nb != nil && nb.Status.Server == another
	})...)
	return append(steps, w.leaves(worker, w.joined(worker)))
}}
