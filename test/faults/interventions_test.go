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

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
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

// intervention is one before a call.
type intervention struct{ call, name string }

// TestInterventions intervenes just before each call of the operator in the main story, which then continues as far as
// possible. In the end a new machine can join, if the node is still wanted, and nothing is left if it is not.
func TestInterventions(t *testing.T) {
	r := undisturbed(t, mainStory)
	var plan []intervention
	for _, c := range r.calls {
		for _, name := range slices.Sorted(maps.Keys(interventions)) {
			plan = append(plan, intervention{c.id, name})
		}
	}
	all := len(plan)
	if random := seeded(); *interventionRuns >= 0 {
		random.Shuffle(len(plan), func(i, j int) { plan[i], plan[j] = plan[j], plan[i] })
		plan = plan[:min(len(plan), *interventionRuns)]
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
			interventions[i.name](w)
		}
		return ""
	}
	w.caught(func() {
		steps := w.fromJoiningToDeletion(0)
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
	return w, fmt.Sprintf("someone %s just before %s:\n%s\n%s", i.name, i.call, strings.Join(w.violations, "\n"), w.history())
}
