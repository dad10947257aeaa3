// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
)

// historian invents a history: people, machines, the cluster and misfortune act in any order, while the operator runs now
// and then.
type historian struct {
	*world
	t        *rapid.T
	machines map[string]*machine // the newest of each node
	old      []*machine          // earlier ones, which still exist
	thief    *machine
	// failing is how many of the next calls fail, after healthy ones that do not.
	failing, healthy int
	kind             int
	reissues         int
}

var nodes = []string{worker, neighbour}

// TestRandomHistories searches for a history after which an invariant does not hold, or the right machine cannot join,
// and shortens it as far as possible. It prints the -rapid.seed or -rapid.failfile that repeats it.
func TestRandomHistories(t *testing.T) {
	met := encounters{}
	var all tally
	rapid.Check(t, func(t *rapid.T) {
		h := &historian{world: newWorld(), t: t, machines: map[string]*machine{}}
		h.random = h.misfortune
		for _, node := range nodes {
			h.machines[node] = h.machine(node)
			h.machines[node].ahead = h.clockOf("the machine " + node)
		}
		h.skew = h.clockOf("the API server")
		h.kubectlAhead = max(0, h.clockOf("a person")) // if it is an hour behind, Kubernetes deletes the request at once
		h.thief = h.machine(worker)
		h.thief.disk = 66
		h.reversed = rapid.Bool().Draw(t, "whether caches list backwards")
		defer h.explain()
		h.startOperator()
		actions := map[string]func(*rapid.T){"": func(*rapid.T) { h.holds() }}
		for _, some := range []map[string]func(){h.people(), h.kubelets(), h.cluster()} {
			for name, do := range some {
				actions[name] = func(*rapid.T) { h.note("- %s", name); do() }
			}
		}
		t.Repeat(actions)
		h.ends()
		met.count(h.world)
		all.add(h.world)
	})
	t.Logf("in these histories there were %s", met)
	t.Logf("histories with each fault, and those in which an invariant had something to check:\n%s", &all)
}

// clockOf is how far one clock is ahead of another one: usually a little, sometimes an hour.
func (h *historian) clockOf(whose string) time.Duration {
	little := rapid.IntRange(-3000, 3000)
	ahead := time.Duration(rapid.OneOf(little, little, rapid.SampledFrom([]int{-3_600_000, 3_600_000})).Draw(h.t, "milliseconds ahead")) * time.Millisecond
	h.note("the clock of %s is %s ahead", whose, ahead)
	return ahead
}

// encounters are how often things happened in all histories, to show that these are useful.
type encounters map[string]int

func (e encounters) count(w *world) {
	e["histories"]++
	e["calls"] += len(w.calls)
	e["faults"] += len(w.happened)
	e["secret parts"] += len(w.Parts)
	for _, s := range w.said_ {
		if words := strings.Fields(s.text); s.where == "event" {
			e["event "+words[1]]++
		}
	}
}

func (e encounters) String() string {
	var out []string
	for _, what := range slices.Sorted(maps.Keys(e)) {
		out = append(out, fmt.Sprintf("%d %s", e[what], what))
	}
	return strings.Join(out, ", ")
}

// explain adds the history to a failure.
func (h *historian) explain() {
	r := recover()
	switch cause := thrown(r).(type) {
	case nil:
	case endless:
		h.t.Fatalf("7 requests are bounded: there are more than %d in a minute\n%s", manyInAMinute, h.history())
	case error:
		if !strings.HasPrefix(cause.Error(), "in the story") { // rapid's own
			panic(r)
		}
		h.t.Fatalf("%v\n%s", cause, h.history())
	default:
		panic(r)
	}
}

// holds fails if an invariant does not hold.
func (h *historian) holds() {
	if len(h.violations) > 0 {
		h.t.Fatalf("%s\n%s", strings.Join(h.violations, "\n"), h.history())
	}
}

// misfortune chooses the fault of a call.
func (h *historian) misfortune(c *call) fault {
	if h.healthy > 0 {
		h.healthy--
		return ""
	}
	kinds := failuresOf(c)
	if h.failing == 0 || len(kinds) == 0 {
		return ""
	}
	h.failing--
	return kinds[h.kind%len(kinds)]
}

func (h *historian) node() string { return rapid.SampledFrom(nodes).Draw(h.t, "node") }

// ends repairs everything that is broken, and then each node must be able to join, and to be removed.
func (h *historian) ends() {
	h.note("- all faults are repaired")
	h.failing, h.signerDown = 0, false
	edit(h.store, userAuthor, namespace, "kube-root-ca.crt", func(c *corev1.ConfigMap) { c.Data = map[string]string{"ca.crt": clusterCA()} })
	for _, node := range nodes { // a pin that stays is corrected
		if rapid.Bool().Draw(h.t, "whether the pin is removed") {
			edit(h.store, userAuthor, "", node, unpinned)
		}
	}
	h.endsWell(h.machines)
	h.holds()
}
