// SPDX-License-Identifier: Apache-2.0

package faults

import (
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
	steps := []*step{
		w.wantsIt(),
		{name: "the CRD is deleted", do: uninstall, wait: 5 * time.Second},
		{name: "it is installed again", rest: true, do: w.installs, wait: time.Second},
		w.wantsIt(),
	}
	steps = append(steps, w.machine(worker).joins(always)...)
	return append(steps, w.leaves(worker, w.joined(worker)))
}}

// approvalStory changes spec.clientCertificate.approval while a CSR is pending. If its groups do not suit the new approval it
// stays pending for ever, and so the kubelet sends another one.
func approvalStory(from, to v1alpha1.Approval, asksAgain bool) story {
	return story{name: "approval " + string(from) + " becomes " + string(to) + " while a request waits", build: func(w *world) []*step {
		w.signerDown = true
		m, again := w.machine(worker), w.machine(worker)
		again.disk = 2
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
	steps := []*step{
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
	}
	steps = append(steps, w.machine(worker).joins(func() bool { return w.theToken() != nil && w.theToken().Immutable == nil })...)
	return append(steps, w.leaves(worker, w.joined(worker)))
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
	again := w.machine(worker)
	again.disk = 2
	steps := append([]*step{w.wantsIt()}, w.machine(worker).joins(always)...)
	steps = append(steps,
		&step{name: "someone asks for a reissue", do: func() bool { return w.isDone(worker) && w.asksReissue(worker, "1") }},
		&step{name: "and deletes the Node", wait: 2 * time.Second, do: func() bool { w.remove(userAuthor, key{kind: "Node", name: worker}); return true }},
	)
	steps = append(steps, again.joins(always)...)
	return append(steps, w.leaves(worker, w.joined(worker)))
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
		steps := []*step{
			{name: "a policy is installed", do: func() bool { w.spoiledUntil[right] = w.clock.Now().Add(24 * time.Hour); return true }},
			w.wantsIt(),
			{name: "the policy is deleted", wait: 3 * time.Second, do: func() bool {
				reported := w.clock.Since(begin) > 150*time.Second
				if reported {
					delete(w.spoiledUntil, right)
				}
				return reported
			}},
		}
		steps = append(steps, w.machine(worker).joins(always)...)
		return append(steps, w.leaves(worker, w.joined(worker)))
	}, forgetful: true, except: func(a at) bool { // the ID of a spoiled token that a cache still shows is skipped, and spoiling ends the policy
		return a.fault == spoiling || a.leadsElsewhere()
	}}
}
