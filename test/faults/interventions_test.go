// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
)

var interventionRuns = flag.Int("faults.interventions", 600, "how many runs TestInterventions does; all with -1")

// interventions are what a person may do at any time, whatever the operator is doing.
var interventions = map[string]func(*world){
	"deletes the NodeBootstrap":                    func(w *world) { w.unwants(worker) },
	"deletes the NodeBootstrap, in the foreground": func(w *world) { w.unwants(worker, foregroundFinalizer) },
	"deletes the NodeBootstrap, leaving orphans":   func(w *world) { w.unwants(worker, orphanFinalizer) },
	"replaces the NodeBootstrap":                   func(w *world) { w.unwants(worker); w.wants(worker) },
	"asks for a reissue":                           func(w *world) { w.asksReissue(worker, "meanwhile") },
	"deletes the Node":                             func(w *world) { w.remove(userAuthor, key{kind: "Node", name: worker}) },
	"deletes the tokens": func(w *world) {
		for _, s := range w.liveTokens(worker) {
			w.remove(userAuthor, keyOf(s))
		}
	},
	"deletes the kubeconfig":          func(w *world) { w.remove(userAuthor, key{"Secret", namespace, owned.KubeconfigSecretName(worker)}) },
	"leaves the approval to a person": func(w *world) { w.edits(v1alpha1.ApprovalManual, shortest) },
	"lets anybody become any node":    func(w *world) { w.edits(v1alpha1.ApprovalClusterWide, shortest) },
	"wants longer tokens":             func(w *world) { w.edits("", 48*time.Hour) },
	"rotates the CA": func(w *world) {
		edit(w.store, userAuthor, namespace, "kube-root-ca.crt", func(c *corev1.ConfigMap) { c.Data = map[string]string{"ca.crt": anotherCA()} })
	},
	"moves the API server": func(w *world) {
		edit(w.store, userAuthor, "", worker, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Cluster.Server = "https://moved.example.com" })
	},
	"loses the status": func(w *world) {
		edit(w.store, userAuthor, "", worker, func(nb *v1alpha1.NodeBootstrap) { nb.Status = v1alpha1.NodeBootstrapStatus{} })
	},
	"deletes the CRD": func(w *world) {
		w.unwants(worker)
		w.remove(userAuthor, crdKey)
	},
}

// pinInterventions are those that change the pinned key.
var pinInterventions = map[string]func(*world){
	"pins the machine's key": func(w *world) { edit(w.store, userAuthor, "", worker, w.machine(worker).isPinned) },
	"pins another key":       func(w *world) { edit(w.store, userAuthor, "", worker, w.another(66).isPinned) },
	"removes the pin":        func(w *world) { edit(w.store, userAuthor, "", worker, unpinned) },
}

// intervention is one before a call of a story.
type intervention struct {
	story      story
	call, name string
	do         func(*world)
}

// TestInterventions intervenes just before each call of the operator in the main story, and changes the pin before each call of one with
// pinned keys too. The story then continues as far as possible. In the end a new machine can join, if the node is still wanted, and
// nothing is left if it is not.
func TestInterventions(t *testing.T) {
	var plan []intervention
	add := func(s story, some map[string]func(*world)) {
		for _, c := range undisturbed(t, s).calls {
			for _, name := range slices.Sorted(maps.Keys(some)) {
				plan = append(plan, intervention{s, c.id, name, some[name]})
			}
		}
	}
	add(mainStory, interventions)
	add(mainStory, pinInterventions)
	add(pinnedAgainStory, pinInterventions)
	all := len(plan)
	if random := seeded(); *interventionRuns >= 0 {
		plan = sample(random, plan, fewer(*interventionRuns))
	}
	report := reporter{t: t}
	inParallel(plan, func(i intervention) { report.ran(i.run()) })
	t.Logf("%d of %d runs, %d failed; -faults.seed=%d", report.runs, all, report.failed, *seed)
}

// edits changes the approval and the ttl.
func (w *world) edits(approval v1alpha1.Approval, ttl time.Duration) {
	edit(w.store, userAuthor, "", worker, func(nb *v1alpha1.NodeBootstrap) {
		nb.Spec.ClientCertificate.Approval, nb.Spec.Token.TTL = approval, &metav1.Duration{Duration: ttl}
	})
}

func (i intervention) run() (*world, string) {
	w := newWorld()
	w.random = func(c *call) fault {
		if c.id == i.call {
			w.note("someone %s", i.name)
			i.do(w)
		}
		return ""
	}
	w.caught(func() {
		steps := i.story.build(w)
		w.startOperator()
		w.goesOn(withoutLeaving(steps))
		w.random = nil
		if w.latest(crdKey) == nil {
			w.installs()
		}
		w.endsWell(map[string]*machine{worker: {w: w, node: worker, disk: 10}})
	})
	if len(w.violations) == 0 {
		return w, ""
	}
	return w, fmt.Sprintf("in %q someone %s just before %s:\n%s\n%s", i.story.name, i.name, i.call, strings.Join(w.violations, "\n"), w.history())
}

// endsWell lets the cluster settle, whatever has happened to it. Then the status is true, each wanted node can join, and
// each can be removed. It stops at the first violation.
func (w *world) endsWell(machines map[string]*machine) {
	const backoff = 20 * time.Minute // the workqueue's is not longer
	w.run(backoff)
	checks := []func(){w.checkSettled}
	for _, node := range nodes {
		checks = append(checks, func() { w.CheckTruth(node, int64(w.revision), w.now()) })
		if m := machines[node]; m != nil {
			checks = append(checks, func() { w.finallyJoins(m) })
		}
	}
	checks = append(checks, func() {
		for _, node := range nodes {
			w.unwants(node)
		}
		w.run(time.Minute)
		w.checkSettled()
	}, w.checkLeaks)
	for _, check := range checks {
		if check(); len(w.violations) > 0 {
			return
		}
	}
}

// finallyJoins lets a new machine join as the node, if that is wanted. If a key is pinned, the new one is pinned instead. A kubeconfig
// that is no longer marked as the operator's is deleted, as the status says. A reissue comes first if no credential exists, or if another
// key can have the token.
func (w *world) finallyJoins(m *machine) {
	nb := get[*v1alpha1.NodeBootstrap](w.store, "", m.node)
	if nb == nil {
		return
	}
	w.note("- a new machine joins as %s", m.node)
	m.wipe()
	if w.stalled(m.node, v1alpha1.ReasonObjectNotOurs) { // admission removed its labels, and the operator was restarted
		w.remove(userAuthor, key{"Secret", namespace, owned.KubeconfigSecretName(m.node)})
		for _, name := range rbac.BindingNames {
			w.remove(userAuthor, key{kind: "ClusterRoleBinding", name: name})
		}
		w.run(5 * time.Second)
	}
	pinned := nb.Spec.PinnedKey() != ""
	if pinned {
		edit(w.store, userAuthor, "", m.node, m.isPinned)
		w.run(5 * time.Second)
		nb = get[*v1alpha1.NodeBootstrap](w.store, "", m.node)
	}
	// Without a pin, a token is for one key; and after the join deadline the last one expires.
	runsOut := nb.Status.Token != nil && nb.Status.Token.ExpirationTime.Sub(w.clock.Now()) < time.Minute
	if !w.isReady(m.node) || len(nb.Status.Certificates) > 0 && !pinned || runsOut {
		w.asksReissue(m.node, fmt.Sprint("finally ", w.revision))
		w.run(5 * time.Second)
	}
	for i, do := range []func() bool{m.give, m.ask, m.collectApproved, m.register, m.beat} {
		if !do() {
			w.violated(fmt.Sprintf("the right machine can join: %s cannot take step %d: %+v", m, i+1, w.conditions(m.node)))
			return
		}
		w.run(5 * time.Second)
	}
	w.run(time.Minute) // after a reissue, a Lease proves nothing before that
	m.beat()
	w.run(time.Minute)
	if !w.isJoined(m.node) {
		w.violated(fmt.Sprintf("the right machine can join: %s has, and the status does not show it", m))
	}
}

// collectApproved approves as a person first, if the approval is Manual.
func (m *machine) collectApproved() bool {
	r := get[*certificatesv1.CertificateSigningRequest](m.w.store, "", m.request)
	if nb := get[*v1alpha1.NodeBootstrap](m.w.store, "", m.node); nb != nil && r != nil && nb.Spec.ApprovalMode() == v1alpha1.ApprovalManual && undecided(r) {
		m.w.decide(userAuthor, r, certificatesv1.CertificateApproved, "LooksGood")
		m.w.run(time.Second)
	}
	return m.collect()
}

// seconds are how long a busy person waits before the next step.
const seconds = 30

// goesOn does those of some steps that are possible.
func (w *world) goesOn(steps []*step) {
	for _, s := range steps {
		for range seconds {
			if w.take(s) {
				break
			}
			w.run(time.Second)
		}
		w.run(s.wait)
	}
}

// withoutLeaving are the steps except the last.
func withoutLeaving(steps []*step) []*step { return slices.Delete(steps, len(steps)-1, len(steps)) }
