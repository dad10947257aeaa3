// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/apiserver"
	"github.com/nodebootstrap/nodebootstrap/controllers/bindings"
	"github.com/nodebootstrap/nodebootstrap/controllers/bypass"
	"github.com/nodebootstrap/nodebootstrap/controllers/metrics"
	"github.com/nodebootstrap/nodebootstrap/controllers/node"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/controllers/stray"
	"github.com/nodebootstrap/nodebootstrap/controllers/writes"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// item is an item of a workqueue: the name of a node or of a token Secret, or one of the two singletons.
type item struct{ controller, name string }

var (
	bindingsItem  = item{controller: "bindings"}
	approversItem = item{controller: "approvers"}
)

func nodeItem(name string) item { return item{"node", name} }

// strayItem is a Secret in kube-system.
func strayItem(name string) item { return item{"stray-tokens", name} }

// operator is one process of the operator. Its fields are lost in a crash.
type operator struct {
	w         *world
	node      *node.Reconciler
	bindings  *bindings.Reconciler
	approvers *bypass.Detector
	stray     *stray.Reconciler
	// transport is where the operator reads the API server's clock.
	transport http.RoundTripper

	queue    []item
	timers   map[item]time.Time
	failures map[item]int
	// shown are the revisions up to which its caches have answered.
	shown map[string]int
}

// startOperator replaces the operator by a new process, which gets an event for every existing object.
func (w *world) startOperator() {
	c, l := apiClient{w: w}, uncachedReader{w: w}
	k, limits := apiserver.NewClock(w.clock), &writes.Limits{}
	a := bypass.NewDetector(c, k)
	w.op = &operator{
		w: w,
		node: &node.Reconciler{
			Client: c, Uncached: l, Namespace: namespace, Clock: k, Detector: a, Recorder: recorder{w}, Metrics: theMetrics(), AllowClusterWide: true, Writes: limits,
			Discovery: &node.Discovery{Reader: c, Namespace: namespace, Server: w.flagServer},
		},
		bindings:  &bindings.Reconciler{Client: c, Uncached: l, AllowClusterWide: true, Writes: limits, Clock: k},
		approvers: a,
		stray:     &stray.Reconciler{Client: c, Uncached: l},
		transport: k.Wrap(answers{w}),
		timers:    map[item]time.Time{},
		failures:  map[item]int{},
		shown:     map[string]int{},
	}
	w.frozen = map[string]*freeze{}
	w.op.hears() // lists fill its cache
	w.op.wakeAll()
}

// answers are those of the API server, of which only the time matters.
type answers struct{ w *world }

func (a answers) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{Header: http.Header{"Date": {a.w.now().UTC().Format(http.TimeFormat)}}}, nil
}

// hears lets the operator read the clock of the API server.
func (o *operator) hears() {
	_, err := o.transport.RoundTrip(&http.Request{}) //nolint:bodyclose // there is none
	o.w.must(err)
}

func (o *operator) wakeAll() {
	for _, kind := range slices.Sorted(maps.Keys(o.w.kinds)) {
		for _, k := range o.w.kinds[kind] {
			if v := o.w.latest(k); v != nil {
				o.wakeFor(change{key: k, new: v})
			}
		}
	}
}

func (o *operator) add(items ...item) {
	for _, i := range items {
		if !slices.Contains(o.queue, i) {
			o.queue = append(o.queue, i)
		}
	}
}

// addAfter keeps the earlier of two times, as the workqueue does.
func (o *operator) addAfter(i item, d time.Duration) {
	at := o.w.clock.Now().Add(d)
	if have, ok := o.timers[i]; !ok || at.Before(have) {
		o.timers[i] = at
	}
}

// due moves what is due from the timers to the queue.
func (o *operator) due() {
	var items []item
	for i, at := range o.timers {
		if !at.After(o.w.clock.Now()) {
			items = append(items, i)
		}
	}
	slices.SortFunc(items, func(a, b item) int {
		return cmp.Or(o.timers[a].Compare(o.timers[b]), strings.Compare(a.controller+a.name, b.controller+b.name))
	})
	for _, i := range items {
		delete(o.timers, i)
		o.add(i)
	}
}

// wakeFor does what the watches of controllers/watches.go do about a change that has reached the cache. It duplicates
// them because they need a manager: an object without a watch must not trigger anything here either.
func (o *operator) wakeFor(c change) {
	for _, v := range []*version{c.old, c.new} {
		if v == nil || v.object == nil || shown(v).object == nil {
			continue
		}
		switch object := shown(v).object.(type) {
		case *v1alpha1.NodeBootstrap:
			o.add(nodeItem(object.Name))
			for _, other := range all[*v1alpha1.NodeBootstrap](o.w.store) {
				if pinned := object.Spec.PinnedKey(); pinned != "" && other.Spec.PinnedKey() == pinned {
					o.addNodes(other.Name)
				}
			}
			if c.comesOrGoes() || c.old.object.GetGeneration() != c.new.object.GetGeneration() || c.new.object.GetDeletionTimestamp() != nil {
				o.add(bindingsItem)
			}
		case *corev1.Secret:
			if token.Stray(object) {
				o.add(strayItem(object.Name))
			}
			o.addNodes(owned.NodeOf(object), owned.NodeOfKubeconfigSecret(object.Name))
			if id, ok := strings.CutPrefix(object.Name, bootstrapapi.BootstrapTokenSecretPrefix); ok {
				for _, sent := range o.w.list(selector{kind: "CertificateSigningRequest", field: "token", value: id}, o.w.seen("CertificateSigningRequest")) {
					o.addNodes(csr.RequestedNode(sent.(*certificatesv1.CertificateSigningRequest)))
				}
			}
		case *certificatesv1.CertificateSigningRequest:
			o.addNodes(o.nodeOfRequest(object))
		case *corev1.Node:
			if c.comesOrGoes() {
				o.add(nodeItem(object.Name))
			}
		case *corev1.ConfigMap:
			o.addAll()
		case *rbacv1.ClusterRoleBinding:
			o.add(approversItem) // and again while the authorizer may not have seen the binding
			o.addAfter(approversItem, time.Second)
			if slices.Contains(rbac.BindingNames, object.Name) {
				o.addAll()
				o.add(bindingsItem)
			}
		}
	}
}

func (o *operator) nodeOfRequest(r *certificatesv1.CertificateSigningRequest) string {
	if node, ok := strings.CutPrefix(r.Spec.Username, "system:node:"); ok && r.Spec.SignerName == certificatesv1.KubeletServingSignerName {
		nb := get[*v1alpha1.NodeBootstrap](o.w.store, "", node)
		if nb == nil || len(nb.Spec.ServingCertificate.Addresses) == 0 {
			return ""
		}
		return node
	}
	if !slices.Contains(r.Spec.Groups, token.Group) {
		return ""
	}
	k := key{"Secret", token.Namespace, token.SecretName(token.IDOfUser(r.Spec.Username))}
	if v := o.w.at(k, o.w.seen("Secret")); v != nil && shown(v).object != nil {
		return owned.NodeOf(shown(v).object)
	}
	return requestedNode(r)
}

func (o *operator) addNodes(names ...string) {
	for _, name := range names {
		if name != "" {
			o.add(nodeItem(name))
		}
	}
}

func (o *operator) addAll() {
	for _, nb := range o.w.list(selector{kind: "NodeBootstrap"}, o.w.seen("NodeBootstrap")) {
		o.add(nodeItem(nb.GetName()))
	}
}

// work takes one item from the queue and does what controller-runtime does with it; false if the queue is empty.
func (o *operator) work() bool {
	if len(o.queue) == 0 {
		return false
	}
	i := o.queue[0]
	o.queue = o.queue[1:]
	o.w.begins(i)
	result, err := o.reconcile(i)
	switch {
	case o.w.op != o: // it has crashed, or another process has taken over
		if err != nil {
			o.w.said("error", err.Error())
		}
		return true
	case err != nil:
		o.w.said("error", err.Error())
		o.w.said("error", fmt.Sprintf("%+v", err))
		const first, last = 5 * time.Millisecond, 1000 * time.Second
		o.addAfter(i, min(first<<min(o.failures[i], 20), last))
		o.failures[i]++
	default:
		delete(o.failures, i)
		if result.RequeueAfter > 0 {
			o.addAfter(i, result.RequeueAfter)
		}
	}
	if i.controller == "node" {
		o.w.checkDeletionSeen(i.name, result.RequeueAfter > 0, err)
	}
	o.w.reconcileEnds(i, err)
	return true
}

func (o *operator) reconcile(i item) (result reconcile.Result, err error) {
	defer func() {
		switch r := thrown(recover()); r {
		case nil:
		case crashed{}:
			if o.w.op == o {
				o.w.note("the operator crashes and restarts")
				o.w.startOperator()
			}
		default:
			panic(r)
		}
	}()
	ctx := log.IntoContext(context.Background(), funcr.New(func(prefix, args string) { o.w.said("log", prefix+args) }, funcr.Options{Verbosity: 10}))
	switch i.controller {
	case "node":
		return o.node.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKey{Name: i.name}})
	case "stray-tokens":
		return o.stray.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKey{Namespace: token.Namespace, Name: i.name}})
	case "bindings":
		return reconcileOne(ctx, o.bindings.Reconcile)
	default:
		return o.reconcileApprovers(ctx)
	}
}

// reconcileOne calls Reconcile of a singleton, which has its own type of request.
func reconcileOne[T any](ctx context.Context, f func(context.Context, T) (reconcile.Result, error)) (reconcile.Result, error) {
	var request T
	return f(ctx, request)
}

// reconcileApprovers reads meanwhile from the unbuffered channel through which it triggers the nodes.
func (o *operator) reconcileApprovers(ctx context.Context) (result reconcile.Result, err error) {
	ended := make(chan any)
	go func() {
		defer func() { ended <- recover() }()
		result, err = reconcileOne(ctx, o.approvers.Reconcile)
	}()
	for {
		select {
		case <-o.approvers.Changed():
			o.addAll()
		case r := <-ended:
			if r != nil {
				panic(r)
			}
			return result, err
		}
	}
}

// recorder keeps events, and validates them as the API server would.
type recorder struct{ w *world }

func (r recorder) Eventf(regarding, _ runtime.Object, kind, reason, action, note string, args ...any) {
	text := fmt.Sprintf(note, args...)
	if len(text) > 1024 || reason == "" || action == "" || regarding == nil {
		r.w.violated(fmt.Sprintf("events: an event that the API server refuses: %s %s %q", reason, action, text))
	}
	r.w.said("event", strings.Join([]string{kind, reason, action, text}, " "))
}

// registry has the metrics of all operators that ever ran: their counts continue, so that a secret in them would stay.
var registry = prometheus.NewRegistry()

// theMetrics are registered once. The gauges over all NodeBootstraps read an empty cache, because worlds are created and dropped.
var theMetrics = sync.OnceValue(func() *metrics.Metrics {
	scheme, err := objects.NewScheme()
	if err != nil {
		panic(err)
	}
	m, err := metrics.New(registry, fake.NewClientBuilder().WithScheme(scheme).Build(), clock.RealClock{})
	if err != nil {
		panic(err)
	}
	return m
})
