// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// storyLimit bounds one story. The manager may be down for much of it.
const storyLimit = 25 * time.Second

// slot is one node's name, with its machine and its thieves.
type slot struct {
	s           *suite
	node, other string
	rnd         *rand.Rand
	hunted      bool // by thieves
	machine     *machine
	played      int
	stolen      int // the number of thefts
}

// A story is what happens to one node. It ends early when its context is done.
type story struct {
	name string
	play func(context.Context, *slot)
}

var stories = []story{
	{"a machine joins", func(ctx context.Context, s *slot) { s.join(ctx) }},
	{"nobody comes", func(ctx context.Context, s *slot) { s.awaited(ctx) }},
	{"given up while joining", func(ctx context.Context, s *slot) {
		s.install()
		s.pause(ctx, 3*time.Second)
		s.remove(ctx)
	}},
	{"created again at once", func(ctx context.Context, s *slot) {
		s.pause(ctx, 2*time.Second)
		s.remove(ctx)
		s.commit(ctx)
		s.join(ctx)
	}},
	{"reissued before anybody came", func(ctx context.Context, s *slot) {
		s.pause(ctx, 2*time.Second)
		s.s.admin.reissue(ctx, s.node)
		s.pause(ctx, time.Second)
		s.join(ctx)
	}},
	{"reissued while joining", func(ctx context.Context, s *slot) {
		s.install()
		s.pause(ctx, 2*time.Second)
		s.s.admin.reissue(ctx, s.node)
		s.join(ctx)
	}},
	{"the machine is reinstalled", func(ctx context.Context, s *slot) {
		s.join(ctx)
		s.shutDown()
		s.s.admin.reissue(ctx, s.node)
		s.join(ctx)
	}},
	{"the machine is replaced", func(ctx context.Context, s *slot) {
		s.join(ctx)
		s.shutDown()
		s.s.admin.removeNode(ctx, s.node)
		s.join(ctx)
	}},
	{"the Node is deleted while its machine works", func(ctx context.Context, s *slot) {
		s.join(ctx)
		s.s.admin.removeNode(ctx, s.node)
		s.pause(ctx, 2*time.Second)
		s.shutDown()
		s.join(ctx)
	}},
	{"a token is revoked by hand", func(ctx context.Context, s *slot) {
		s.awaited(ctx)
		if id := look(s.s.seen, func(l *ledger) string { return l.kubeconfig(s.node) }); id != "" {
			s.s.admin.deleteSecret(ctx, token.Namespace, token.SecretName(id))
		}
		s.join(ctx)
	}},
	{"a kubeconfig is deleted by hand", func(ctx context.Context, s *slot) {
		s.awaited(ctx)
		s.s.admin.deleteSecret(ctx, operator.Namespace, owned.KubeconfigSecretName(s.node))
		s.join(ctx)
	}},
}

var theftStories = []story{
	{"a theft before the machine comes", func(ctx context.Context, s *slot) {
		s.theft(ctx, s.s.admin.kubeconfig(ctx, s.node))
		s.join(ctx)
	}},
	{"a theft while the machine joins", func(ctx context.Context, s *slot) {
		s.install()
		s.theft(ctx, s.s.admin.kubeconfig(ctx, s.node))
		s.join(ctx)
	}},
	{"a theft after the machine has joined", func(ctx context.Context, s *slot) {
		kubeconfig := s.s.admin.kubeconfig(ctx, s.node)
		s.join(ctx)
		s.theft(ctx, kubeconfig)
	}},
	{"a theft after a reissue", func(ctx context.Context, s *slot) {
		kubeconfig := s.s.admin.kubeconfig(ctx, s.node)
		s.s.admin.reissue(ctx, s.node)
		s.theft(ctx, kubeconfig)
		s.join(ctx)
	}},
	{"a theft after the end", func(ctx context.Context, s *slot) {
		kubeconfig := s.s.admin.kubeconfig(ctx, s.node)
		s.theft(ctx, kubeconfig)
		s.remove(ctx)
		s.theft(ctx, kubeconfig)
	}},
}

// live plays one story after the other, all of them before one is repeated. Some nodes are hunted by thieves all the time,
// and begin with the thefts of a live token, so that a short run has some, too.
func (s *slot) live(ctx context.Context) {
	deck := slices.Concat(stories, theftStories)
	if s.hunted {
		deck = slices.Clone(theftStories)
	}
	for i := 0; ctx.Err() == nil; i++ {
		if i%len(deck) == 0 && (i > 0 || !s.hunted) {
			s.rnd.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		story := deck[i%len(deck)]
		s.s.line.note("%s: story: %s", s.node, story.name)
		limited, cancel := context.WithTimeout(ctx, storyLimit)
		s.commit(limited)
		story.play(limited, s)
		cancel()
		s.played++
		if s.rnd.IntN(3) > 0 {
			s.shutDown()
			s.remove(ctx)
			if s.rnd.IntN(4) > 0 { // else the next NodeBootstrap finds a member
				s.s.admin.removeNode(ctx, s.node)
			}
		}
		s.pause(ctx, time.Second)
	}
}

func (s *slot) pause(ctx context.Context, longest time.Duration) {
	wait(ctx, time.Duration(s.rnd.Int64N(int64(longest))))
}

func (s *slot) commit(ctx context.Context) { s.s.admin.commit(ctx, s.node) }

func (s *slot) remove(ctx context.Context) {
	how := []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan}
	s.s.admin.remove(ctx, s.node, how[s.rnd.IntN(len(how))])
}

// install starts the machine, unless it runs. It outlives the story.
func (s *slot) install() {
	if s.machine == nil {
		s.machine = s.s.startMachine(s.s.ctx, s.node, rand.New(rand.NewPCG(s.rnd.Uint64(), 0)))
	}
}

func (s *slot) shutDown() {
	s.machine.halt()
	s.machine = nil
}

// theft is the next one of the list.
func (s *slot) theft(ctx context.Context, kubeconfig []byte) {
	if kubeconfig == nil {
		return
	}
	theft := thefts[s.stolen%len(thefts)]
	s.stolen++
	s.s.steal(ctx, theft, kubeconfig, s.node, s.other)
}

// patience is how long a person waits for a machine to join before looking for the cause.
const patience = 5 * time.Second

// join ensures that the machine joins, like a person who looks now and then, and follows the documentation.
func (s *slot) join(ctx context.Context) {
	for ctx.Err() == nil {
		s.install()
		limited, cancel := context.WithTimeout(ctx, patience)
		s.s.seen.until(limited, func(l *ledger) bool {
			id, denied := s.machine.state()
			return id != "" && l.ready(s.node, v1alpha1.ReasonJoined) == nil || denied || l.misused(s.node)
		})
		cancel()
		s.help(ctx)
		if id, _ := s.machine.state(); id != "" && s.ready(v1alpha1.ReasonJoined) == nil {
			return
		}
	}
}

func (s *slot) ready(reason string) error {
	return look(s.s.seen, func(l *ledger) error { return l.ready(s.node, reason) })
}

// help does what is needed for a machine that does not join.
func (s *slot) help(ctx context.Context) {
	id, denied := s.machine.state()
	var current string
	var known, misused, joined bool
	look(s.s.seen, func(l *ledger) bool {
		known = l.bootstrap(s.node) != nil
		current, misused, joined = l.kubeconfig(s.node), l.misused(s.node), l.ready(s.node, v1alpha1.ReasonJoined) == nil
		return true
	})
	switch {
	case !known:
		s.commit(ctx)
	case misused || denied || joined && id == "": // the last one: the name is that of a member already
		s.shutDown()
		s.s.admin.reissue(ctx, s.node)
		s.handled(ctx)
	case id != "" && current != "" && id != current: // a machine that has a certificate does not look for another kubeconfig
		s.shutDown()
	}
}

// handled waits a little until the last reissue request was handled.
func (s *slot) handled(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s.s.seen.until(ctx, func(l *ledger) bool {
		nb := l.bootstrap(s.node)
		return nb == nil || nb.Status.LastHandledReissueAt == invariants.ReissueRequest(nb)
	})
}

// awaited waits until there is an unused credential.
func (s *slot) awaited(ctx context.Context) {
	s.s.seen.until(ctx, func(l *ledger) bool {
		return l.ready(s.node, v1alpha1.ReasonAwaitingNode) == nil || l.ready(s.node, v1alpha1.ReasonJoined) == nil || l.misused(s.node)
	})
}

// misused reports whether a theft is recorded, or a second key was denied: either requires a reissue. The caller holds mu.
func (l *ledger) misused(node string) bool {
	nb := l.bootstrap(node)
	if nb == nil {
		return false
	}
	ready := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionReady)
	return meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionTokenMisused) || ready != nil && ready.Reason == v1alpha1.ReasonKeyReplaced
}

// ready is nil if a NodeBootstrap is Ready for a reason, and has no unhandled reissue request. The caller holds mu.
func (l *ledger) ready(node, reason string) error {
	nb := l.bootstrap(node)
	if nb == nil || nb.DeletionTimestamp != nil {
		return fmt.Errorf("%s has no NodeBootstrap", node)
	}
	if nb.Status.LastHandledReissueAt != invariants.ReissueRequest(nb) {
		return fmt.Errorf("%s: the reissue %q is not handled, but %q", node, invariants.ReissueRequest(nb), nb.Status.LastHandledReissueAt)
	}
	c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionReady)
	if c == nil || c.Status != metav1.ConditionTrue || c.Reason != reason || c.ObservedGeneration != nb.Generation {
		return fmt.Errorf("%s: the condition Ready is %+v, want True for %s", node, c, reason)
	}
	return nil
}
