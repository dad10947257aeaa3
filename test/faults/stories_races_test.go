// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
)

// The stories of this file are about simultaneous events, and about facts that are still unknown.

// raceStory sends a CSR at the moment at which a prerequisite of its approval is deleted: a stale cache shows one and not
// the other. Then the machine joins nevertheless, or the node is no longer wanted.
func raceStory(name string, take func(*world) bool, joins bool) story {
	return story{name: "a request is sent while " + name, build: func(w *world) []*step {
		m, again := w.machine(worker), w.machine(worker)
		again.disk = 2
		steps := []*step{w.wantsIt(), {name: "it is sent while " + name, wait: 3 * time.Second, do: func() bool { return m.give() && m.ask() && take(w) }}}
		if !joins {
			return append(steps, &step{name: "nothing more happens", wait: time.Second, do: always})
		}
		steps = append(steps, again.joins(always)...)
		return append(steps, w.leaves(worker, w.joined(worker)))
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
}

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
