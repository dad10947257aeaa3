// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
)

// minting is a reconciler on an API server in memory where a write takes a millisecond, and the cache shows it one later.
type minting struct {
	*NodeReconciler
	client.Client
	liveReads []string // of the NodeBootstraps of these names
}

func newMinting(t *testing.T, nodes int) *minting {
	t.Helper()
	scheme, err := NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	build := indexing{fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.NodeBootstrap{})}
	if err := AddIndexes(t.Context(), build); err != nil {
		t.Fatal(err)
	}
	ca := string(newCA(t))
	for i := range nodes {
		name := fmt.Sprintf("worker-%d", i)
		build.WithObjects(&v1alpha1.NodeBootstrap{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid of " + name)},
			Spec:       v1alpha1.NodeBootstrapSpec{Cluster: v1alpha1.ClusterSpec{Server: "https://192.0.2.1:6443", CABundle: ca}},
		})
	}
	m := &minting{}
	m.Client = build.WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			<-time.After(time.Millisecond)
			if _, ok := o.(*corev1.Secret); !ok { // a review
				return nil
			}
			return c.Create(ctx, o, opts...)
		},
		SubResourceUpdate: func(ctx context.Context, c client.Client, subresource string, o client.Object, opts ...client.SubResourceUpdateOption) error {
			<-time.After(time.Millisecond)
			err := c.SubResource(subresource).Update(ctx, o, opts...)
			version := o.GetResourceVersion()
			time.AfterFunc(time.Millisecond, func() { m.freshness.shows(version) })
			return err
		},
	}).Build()
	live := interceptor.NewClient(m.Client.(client.WithWatch), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if _, ok := o.(*v1alpha1.NodeBootstrap); ok {
				m.liveReads = append(m.liveReads, key.Name)
			}
			return c.Get(ctx, key, o, opts...)
		},
	})
	clock := clocktesting.NewFakePassiveClock(time.Now())
	m.NodeReconciler = &NodeReconciler{
		Writes: &WriteLimits{},
		Client: m.Client, Live: live, Namespace: "nodebootstrap-system", Discovery: &Discovery{Reader: m.Client},
		Approvers: NewApprovers(m.Client, clock), Clock: clock, Recorder: noEvents{},
	}
	return m
}

// reconcile makes a pass of each node at the same time. Meanwhile comes while one of them makes its token, and the others wait.
func (m *minting) reconcile(t *testing.T, nodes int, meanwhile func()) {
	t.Helper()
	var passes sync.WaitGroup
	for i := range nodes {
		passes.Go(func() {
			request := ctrl.Request{NamespacedName: client.ObjectKey{Name: fmt.Sprintf("worker-%d", i)}}
			if _, err := m.Reconcile(t.Context(), request); err != nil {
				t.Errorf("worker-%d: %v", i, err)
			}
		})
	}
	<-time.After(3 * time.Millisecond / 2) // it takes one to ask what else approves
	synctest.Wait()
	if len(m.liveReads) != 1 {
		t.Fatalf("passes have read live so far: %v", m.liveReads)
	}
	meanwhile()
	passes.Wait()
}

func (m *minting) tokens(t *testing.T) map[string]bool {
	t.Helper()
	var list corev1.SecretList
	if err := m.List(t.Context(), &list, client.InNamespace(bootstrap.TokenNamespace)); err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for i := range list.Items {
		out[bootstrap.NodeOfChild(&list.Items[i])] = true
	}
	return out
}

// Before a token is made it is certain that its NodeBootstrap is there as it was decided on: by a uncached read for one, and by
// that one's write, when it has come back, for all that were waiting.
func TestOneLiveReadIsEnoughForManyTokens(t *testing.T) {
	const nodes = 20
	synctest.Test(t, func(t *testing.T) {
		m := newMinting(t, nodes)
		m.reconcile(t, nodes, func() {})
		if got := len(m.tokens(t)); got != nodes || len(m.liveReads) != 1 {
			t.Errorf("%d tokens for %d nodes, with live reads of %v", got, nodes, m.liveReads)
		}
	})
}

// When nobody else is at work a pass waits for nothing.
func TestNobodyWaitsForPassesThatAreOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMinting(t, 2)
		for i := range 2 {
			began := time.Now()
			if _, err := m.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Name: fmt.Sprintf("worker-%d", i)}}); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took >= freshnessPatience || len(m.liveReads) != i+1 {
				t.Errorf("worker-%d took %s, with live reads of %v so far", i, took, m.liveReads)
			}
			synctest.Wait()
		}
	})
}

// A write tells of what was stored before it was sent. When it was answered, more may have been stored.
func TestAStatusTellsOfWhatWasStoredBeforeItWasSent(t *testing.T) {
	m := newMinting(t, 1)
	asked := 0
	m.NodeReconciler.Client = interceptor.NewClient(m.Client.(client.WithWatch), interceptor.Funcs{
		SubResourceUpdate: func(ctx context.Context, c client.Client, subresource string, o client.Object, opts ...client.SubResourceUpdateOption) error {
			err := c.SubResource(subresource).Update(ctx, o, opts...)
			asked = m.freshness.tick()
			return err
		},
	})
	nb, err := m.nodeBootstrap(t.Context(), m.Client, "worker-0")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.storeStatus(t.Context(), nb, &v1alpha1.NodeBootstrapStatus{Server: "https://192.0.2.1:6443"}); err != nil {
		t.Fatal(err)
	}
	m.freshness.shows(nb.ResourceVersion)
	if m.freshness.known == 0 || m.freshness.known > asked {
		t.Errorf("the cache is said to show all up to %d, where the write was stored before %d", m.freshness.known, asked)
	}
}

// What happens to a NodeBootstrap while its pass waits is not missed.
func TestNoTokenForWhatChangesDuringTheWait(t *testing.T) {
	const nodes = 5
	for name, change := range map[string]func(ctx context.Context, c client.Client, nb *v1alpha1.NodeBootstrap) error{
		"deleted": func(ctx context.Context, c client.Client, nb *v1alpha1.NodeBootstrap) error { return c.Delete(ctx, nb) },
		"edited":  func(ctx context.Context, c client.Client, nb *v1alpha1.NodeBootstrap) error { return c.Update(ctx, nb) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMinting(t, nodes)
				m.reconcile(t, nodes, func() {
					for i := range nodes {
						nb := &v1alpha1.NodeBootstrap{}
						if err := m.Get(t.Context(), client.ObjectKey{Name: fmt.Sprintf("worker-%d", i)}, nb); err != nil {
							t.Fatal(err)
						}
						if nb.Name == m.liveReads[0] { // its write tells the others
							continue
						}
						nb.Labels = map[string]string{"changed": "yes"}
						if err := change(t.Context(), m.Client, nb); err != nil {
							t.Fatal(err)
						}
					}
				})
				if got := m.tokens(t); len(got) != 1 || !got[m.liveReads[0]] || len(m.liveReads) != 1 {
					t.Errorf("tokens of %v, with live reads of %v: all others were %s meanwhile", got, m.liveReads, name)
				}
			})
		})
	}
}

// Without it nothing would ever come back, and each pass of many would wait in vain before it reads live.
func TestFreshnessIsToldOfWhatTheCacheShows(t *testing.T) {
	scheme, err := NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	informers := &informertest.FakeInformers{Scheme: scheme}
	r := &NodeReconciler{}
	if err := r.watchFreshness(t.Context(), informers); err != nil {
		t.Fatal(err)
	}
	informer, err := informers.FakeInformerFor(t.Context(), &v1alpha1.NodeBootstrap{})
	if err != nil {
		t.Fatal(err)
	}
	version := func(v string) *v1alpha1.NodeBootstrap {
		return &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "worker-1", ResourceVersion: v}}
	}
	informer.Update(version("6"), version("7"))
	if r.freshness.shown != "7" {
		t.Errorf("the cache shows version 7, and %q is known", r.freshness.shown)
	}
}
