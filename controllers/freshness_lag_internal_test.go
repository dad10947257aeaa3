// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
)

// lagging is a minting reconciler with NodeBootstraps of its own, whose versions have an order as those of an API server have, and
// with a cache that shows what is stored some time later, in that order.
type lagging struct {
	*minting
	random *rand.Rand
	events chan stored
	watch  sync.WaitGroup // ends with the events

	mu       sync.Mutex
	revision int
	stored   map[string]*v1alpha1.NodeBootstrap // by name, as all that follow
	shown    map[string]*v1alpha1.NodeBootstrap
	late     map[string]bool // those that were gone when their present pass began
	reads    int
	made     int
	wrong    []string // those that got a token although they were late
}

// stored is a version of a NodeBootstrap; without an object it was deleted.
type stored struct {
	name   string
	object *v1alpha1.NodeBootstrap
}

// soon is a random time of some milliseconds.
func (l *lagging) soon(most int) <-chan time.Time {
	return time.After(time.Duration(l.chance(most*1000)) * time.Microsecond)
}

func (l *lagging) chance(of int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.random.IntN(of)
}

func newLagging(t *testing.T, nodes int, seed uint64) *lagging {
	t.Helper()
	m := newMinting(t, nodes)
	l := &lagging{
		minting: m, random: rand.New(rand.NewPCG(seed, 0)), events: make(chan stored, 10*nodes),
		stored: map[string]*v1alpha1.NodeBootstrap{}, shown: map[string]*v1alpha1.NodeBootstrap{}, late: map[string]bool{},
	}
	var list v1alpha1.NodeBootstrapList
	if err := m.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		l.store(list.Items[i].Name, &list.Items[i])
		l.show(<-l.events)
	}
	readFrom := func(nodeBootstraps map[string]*v1alpha1.NodeBootstrap, live int) func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
		return func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			nb, ok := o.(*v1alpha1.NodeBootstrap)
			if !ok {
				return c.Get(ctx, key, o, opts...)
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.reads += live
			if nodeBootstraps[key.Name] == nil {
				return apierrors.NewNotFound(nodeBootstrapResource, key.Name)
			}
			nodeBootstraps[key.Name].DeepCopyInto(nb)
			return nil
		}
	}
	c := m.Client.(client.WithWatch)
	m.NodeReconciler.Client = interceptor.NewClient(c, interceptor.Funcs{Get: readFrom(l.shown, 0), Create: l.create, SubResourceUpdate: l.updateStatus})
	m.Live = interceptor.NewClient(c, interceptor.Funcs{Get: readFrom(l.stored, 1)})
	l.watch.Go(func() {
		for event := range l.events {
			<-l.soon(4)
			l.show(event)
		}
	})
	return l
}

var nodeBootstrapResource = v1alpha1.GroupVersion.WithResource("nodebootstraps").GroupResource()

// store stores a version, or a deletion. The lock is held by the caller, or nobody else is there yet.
func (l *lagging) store(name string, o *v1alpha1.NodeBootstrap) {
	l.revision++
	delete(l.stored, name)
	if o != nil {
		o.ResourceVersion = strconv.Itoa(l.revision)
		l.stored[name] = o
	}
	l.events <- stored{name, o}
}

func (l *lagging) show(event stored) {
	l.mu.Lock()
	delete(l.shown, event.name)
	if event.object != nil {
		l.shown[event.name] = event.object
	}
	l.mu.Unlock()
	if event.object != nil {
		l.freshness.shows(event.object.ResourceVersion)
	}
}

func (l *lagging) create(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
	if o.GetNamespace() == bootstrap.TokenNamespace {
		l.mu.Lock()
		l.made++
		if name := bootstrap.NodeOfChild(o); l.late[name] {
			l.wrong = append(l.wrong, name)
		}
		l.mu.Unlock()
	}
	<-l.soon(5)
	return c.Create(ctx, o, opts...)
}

// updateStatus fails now and then, before it has stored something or after that.
func (l *lagging) updateStatus(_ context.Context, _ client.Client, _ string, o client.Object, _ ...client.SubResourceUpdateOption) error {
	<-l.soon(5)
	fate := l.chance(10)
	if fate == 0 {
		return errors.New("down")
	}
	l.mu.Lock()
	have := l.stored[o.GetName()]
	if have == nil || have.ResourceVersion != o.GetResourceVersion() {
		l.mu.Unlock()
		return apierrors.NewConflict(nodeBootstrapResource, o.GetName(), errors.New("it was changed"))
	}
	sent := o.DeepCopyObject().(*v1alpha1.NodeBootstrap)
	l.store(sent.Name, sent)
	l.mu.Unlock()
	<-l.soon(5)
	if fate == 1 {
		return errors.New("the answer is lost")
	}
	o.SetResourceVersion(sent.ResourceVersion)
	return nil
}

// person deletes a NodeBootstrap at some time, or does not.
func (l *lagging) person(name string) {
	<-l.soon(60)
	if l.chance(2) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.store(name, nil)
}

// passes are those of a node, as long as they fail, or find the cache behind.
func (l *lagging) passes(t *testing.T, name string) (again int) {
	<-l.soon(80)
	for range 5 {
		l.mu.Lock()
		l.late[name] = l.stored[name] == nil
		l.mu.Unlock()
		result, err := l.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Name: name}})
		if err == nil && result.RequeueAfter != conflictRetry {
			return again
		}
		again++
		<-l.soon(10)
	}
	return again
}

// However far the cache is behind, and whatever becomes of the writes that others wait for: no token is made for a NodeBootstrap
// that was gone when its pass began.
func TestNoTokenOutOfACacheThatIsBehind(t *testing.T) {
	const nodes, seeds = 30, 20
	made, reads, again := 0, 0, 0
	for seed := range uint64(seeds) {
		synctest.Test(t, func(t *testing.T) {
			l := newLagging(t, nodes, seed)
			var all sync.WaitGroup
			for i := range nodes {
				name := fmt.Sprintf("worker-%d", i)
				all.Go(func() { l.person(name) })
				all.Go(func() {
					n := l.passes(t, name)
					l.mu.Lock()
					defer l.mu.Unlock()
					again += n
				})
			}
			all.Wait()
			close(l.events)
			l.watch.Wait()
			if len(l.wrong) > 0 {
				t.Errorf("seed %d: tokens were made for %v, which were gone", seed, l.wrong)
			}
			made, reads = made+l.made, reads+l.reads
		})
	}
	t.Logf("%d tokens were made, with %d live reads; %d passes failed or found the cache behind", made, reads, again)
	if made == 0 || reads >= made || again == 0 {
		t.Error("nothing was shown by this")
	}
}
