// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/bypass"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/controllers/writes"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

func TestConsistencyStore(t *testing.T) {
	object := func(uid, version string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), ResourceVersion: version}}
	}
	deleting := object("deleted", "9")
	deleting.DeletionTimestamp = &metav1.Time{}
	begin := time.Unix(1000, 0)
	for name, tt := range map[string]struct {
		shown  *corev1.Secret
		after  time.Duration
		ready  bool
		behind bool
	}{
		"the version that was written":        {object("a", "10"), 0, true, false},
		"a newer version":                     {object("a", "11"), 0, true, false},
		"an older version":                    {object("a", "9"), 0, false, true},
		"an older version a moment later":     {object("a", "9"), consistencyTimeout - 1, false, true},
		"an older version for long":           {object("a", "9"), consistencyTimeout, true, true},
		"an older version, clock set back":    {object("a", "9"), -time.Hour, true, true},
		"another object of the same name":     {object("b", "9"), 0, true, false},
		"a version that cannot be compared":   {object("a", "x"), 0, true, false},
		"a deleted object":                    {object("deleted", "9"), 0, false, true},
		"a deleted object that has finalizer": {deleting, 0, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			var c consistencyStore
			c.WroteAt(object("a", "8"), begin)
			c.WroteAt(object("a", "10"), begin)
			c.Deleted(object("deleted", "8"), begin)
			if behind := c.IsBehind(tt.shown); behind != tt.behind {
				t.Errorf("behind: %t", behind)
			}
			if err := c.EnsureReady(begin.Add(tt.after), object("c", "1"), tt.shown); (err == nil) != tt.ready {
				t.Errorf("got %v, ready should be %t", err, tt.ready)
			}
		})
	}
}

func TestConsistencyStoreForgets(t *testing.T) {
	var c consistencyStore
	now := time.Unix(1000, 0)
	c.WroteAt(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{UID: "a", ResourceVersion: "1"}}, now)
	if err := c.EnsureReady(now, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{UID: "a", ResourceVersion: "2"}}); err != nil || len(c.writes) > 0 {
		t.Errorf("%d writes are remembered that the cache has shown, error %v", len(c.writes), err)
	}
	for i := range 3 * maxOwnWrites {
		now = now.Add(time.Millisecond)
		c.Deleted(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{UID: types.UID(strconv.Itoa(i))}}, now)
	}
	if len(c.writes) > maxOwnWrites {
		t.Errorf("%d writes are remembered", len(c.writes))
	}
}

// lagging is a reconciler with an API server in memory and a cache that is as old as the last catchUp.
type lagging struct {
	*Reconciler
	server, cache client.WithWatch
	clock         *clocktesting.FakePassiveClock
	writes        []string
	reads         int // of the NodeBootstrap, uncached
}

func newLagging(t *testing.T, objects ...client.Object) *lagging {
	t.Helper()
	created := 0
	l := &lagging{server: inMemory(t, objects...), clock: clocktesting.NewFakePassiveClock(time.Now().Truncate(time.Second))}
	l.catchUp(t)
	attempts := func(verb string, o client.Object) { l.writes = append(l.writes, fmt.Sprintf("%s %T", verb, o)) }
	c := interceptor.NewClient(l.server, interceptor.Funcs{
		Get: func(ctx context.Context, _ client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			return l.cache.Get(ctx, key, o, opts...)
		},
		List: func(ctx context.Context, _ client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			return l.cache.List(ctx, list, opts...)
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			switch review := o.(type) {
			case *authenticationv1.TokenReview:
				review.Status.Authenticated = true
				return nil
			case *authorizationv1.SubjectAccessReview:
				return nil
			}
			attempts("create", o)
			created++
			o.SetUID(types.UID(fmt.Sprintf("created-%d", created)))
			return c.Create(ctx, o, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			attempts("update", o)
			return c.Update(ctx, o, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			attempts("delete", o)
			return c.Delete(ctx, o, opts...)
		},
		SubResourceUpdate: func(ctx context.Context, c client.Client, subresource string, o client.Object, opts ...client.SubResourceUpdateOption) error {
			attempts("update "+subresource+" of", o)
			return c.SubResource(subresource).Update(ctx, o, opts...)
		},
	})
	uncached := interceptor.NewClient(l.server, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if _, ok := o.(*v1alpha1.NodeBootstrap); ok {
				l.reads++
			}
			return c.Get(ctx, key, o, opts...)
		},
	})
	l.Reconciler = &Reconciler{
		Client: c, Uncached: uncached, Namespace: "nodebootstrap-system", Discovery: &Discovery{Reader: c}, Detector: bypass.NewDetector(c, l.clock),
		Writes: &writes.Limits{}, Clock: l.clock, Recorder: noEvents{},
	}
	return l
}

func inMemory(t *testing.T, all ...client.Object) client.WithWatch {
	t.Helper()
	scheme, err := objects.NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	build := indexing{fake.NewClientBuilder().WithScheme(scheme).WithObjects(all...).WithStatusSubresource(&v1alpha1.NodeBootstrap{})}
	if err := objects.AddIndexes(t.Context(), build); err != nil {
		t.Fatal(err)
	}
	return build.Build()
}

// catchUp updates the cache from the API server, except for some kinds.
func (l *lagging) catchUp(t *testing.T, except ...client.ObjectList) {
	t.Helper()
	var all []client.Object
	for _, list := range []client.ObjectList{&v1alpha1.NodeBootstrapList{}, &corev1.SecretList{}, &certificatesv1.CertificateSigningRequestList{}} {
		from := l.server
		if slices.ContainsFunc(except, func(e client.ObjectList) bool { return fmt.Sprintf("%T", e) == fmt.Sprintf("%T", list) }) {
			from = l.cache
		}
		if err := from.List(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		switch list := list.(type) {
		case *v1alpha1.NodeBootstrapList:
			for i := range list.Items {
				all = append(all, &list.Items[i])
			}
		case *corev1.SecretList:
			for i := range list.Items {
				objects.StripSecret(&list.Items[i])
				all = append(all, &list.Items[i])
			}
		case *certificatesv1.CertificateSigningRequestList:
			for i := range list.Items {
				all = append(all, &list.Items[i])
			}
		}
	}
	l.cache = inMemory(t, all...)
}

// reconcile reconciles worker-1 and returns RequeueAfter.
func (l *lagging) reconcile(t *testing.T) time.Duration {
	t.Helper()
	l.writes, l.reads = nil, 0
	result, err := l.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Name: "worker-1"}})
	if err != nil {
		t.Fatal(err)
	}
	return result.RequeueAfter
}

// secrets returns the number of Secrets of tokens and kubeconfigs.
func (l *lagging) secrets(t *testing.T) int {
	t.Helper()
	var list corev1.SecretList
	if err := l.server.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	return len(list.Items)
}

func awaited(t *testing.T) *v1alpha1.NodeBootstrap {
	t.Helper()
	return &v1alpha1.NodeBootstrap{
		ObjectMeta: metav1.ObjectMeta{Name: "worker-1", UID: "the-uid", CreationTimestamp: metav1.Now()},
		Spec:       v1alpha1.NodeBootstrapSpec{Cluster: v1alpha1.ClusterSpec{Server: "https://192.0.2.1:6443", CABundle: string(newCA(t))}},
	}
}

func firstToken(nb *v1alpha1.NodeBootstrap) *corev1.Secret {
	s := token.NewSecret(nb, token.NextID(nb.UID, ""), "0123456789abcdef", time.Now().Add(nb.Spec.TokenTTL()))
	s.UID = "the-token"
	return s
}

// A reconcile comes back for the plan or for what was found while it was carried out, whichever is due first.
func TestReconcileRequeuesForTheEarliest(t *testing.T) {
	for name, tt := range map[string]struct {
		deadline *metav1.Duration
		want     time.Duration
	}{
		"the bindings are missing": {nil, bindingsRetry},
		"the deadline is earlier":  {&metav1.Duration{Duration: time.Minute}, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			nb := awaited(t)
			nb.Spec.Token.JoinDeadline = tt.deadline
			l := newLagging(t, nb)
			l.clock.SetTime(nb.CreationTimestamp.Truncate(time.Second).Add(57 * time.Second))
			if got := l.reconcile(t); got != tt.want {
				t.Errorf("it requeues after %s, want %s", got, tt.want)
			}
		})
	}
}

// While the cache does not show a write of the operator, a reconcile writes nothing and is requeued. In each case the cache
// lacks only one kind of write.
func TestOwnWritesAreAwaited(t *testing.T) {
	for name, tt := range map[string]struct {
		objects func(nb *v1alpha1.NodeBootstrap) []client.Object
		write   string
		hidden  client.ObjectList
	}{
		"status": {
			func(nb *v1alpha1.NodeBootstrap) []client.Object { return []client.Object{nb} },
			"update status of *v1alpha1.NodeBootstrap", &v1alpha1.NodeBootstrapList{},
		},
		"restored Secret": {
			func(nb *v1alpha1.NodeBootstrap) []client.Object {
				edited := firstToken(nb)
				delete(edited.Data, "description")
				return []client.Object{nb, edited}
			},
			"update *v1.Secret", &corev1.SecretList{},
		},
		"verdict": {
			func(nb *v1alpha1.NodeBootstrap) []client.Object {
				secret := firstToken(nb)
				return []client.Object{nb, secret, &certificatesv1.CertificateSigningRequest{
					ObjectMeta: metav1.ObjectMeta{Name: "csr-1", UID: "the-request", CreationTimestamp: metav1.Now()},
					Spec: certificatesv1.CertificateSigningRequestSpec{
						SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName, Request: requestFor(t, nb.Name),
						Username: "system:bootstrap:" + token.IDOfSecret(secret.Name), Groups: []string{"system:bootstrappers", token.Group},
						Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
					},
				}}
			},
			"update approval of *v1.CertificateSigningRequest", &certificatesv1.CertificateSigningRequestList{},
		},
		"deletion": {
			func(nb *v1alpha1.NodeBootstrap) []client.Object { return []client.Object{firstToken(nb)} },
			"delete *v1.Secret", &corev1.SecretList{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLagging(t, tt.objects(awaited(t))...)
			l.reconcile(t)
			if !slices.Contains(l.writes, tt.write) {
				t.Fatalf("it writes %v", l.writes)
			}
			l.catchUp(t, tt.hidden)
			if again := l.reconcile(t); len(l.writes) > 0 || again != writes.ConflictRetry {
				t.Errorf("with the stale cache it writes %v and is requeued after %s", l.writes, again)
			}
			l.clock.SetTime(l.clock.Now().Add(consistencyTimeout))
			if l.reconcile(t); !slices.Contains(l.writes, tt.write) {
				t.Errorf("a stopped watch blocks it: it writes %v", l.writes)
			}
			l.catchUp(t)
			if again := l.reconcile(t); slices.Contains(l.writes, tt.write) || again == writes.ConflictRetry {
				t.Errorf("when the cache shows the write, it writes %v and is requeued after %s", l.writes, again)
			}
		})
	}
}

// No token is created for a NodeBootstrap that has changed since the cache showed it, except for its first token.
func TestNoTokenOutOfACacheThatIsBehind(t *testing.T) {
	later := func(nb *v1alpha1.NodeBootstrap) { nb.Status.LastTokenID = "abcdef" }
	reissue := func(nb *v1alpha1.NodeBootstrap) {
		nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "again"}
	}
	deleted := func(l *lagging, nb *v1alpha1.NodeBootstrap) error { return l.server.Delete(t.Context(), nb) }
	for name, tt := range map[string]struct {
		of      func(*v1alpha1.NodeBootstrap) // what the cache shows
		since   func(*lagging, *v1alpha1.NodeBootstrap) error
		created bool
		reads   int
	}{
		"the first":                               {nil, nil, true, 0},
		"the first, and the node is not wanted":   {nil, deleted, true, 0},
		"a later one":                             {later, nil, true, 1},
		"a later one, and the node is not wanted": {later, deleted, false, 1},
		"a later one, and another reissue": {later, func(l *lagging, nb *v1alpha1.NodeBootstrap) error {
			reissue(nb)
			return l.server.Update(t.Context(), nb)
		}, false, 1},
		"a later one, and an alarm or a later token": {later, func(l *lagging, nb *v1alpha1.NodeBootstrap) error {
			nb.Status.LastTokenID = "ghijkl"
			return l.server.Status().Update(t.Context(), nb)
		}, false, 1},
		"a later one, and another NodeBootstrap": {later, func(l *lagging, nb *v1alpha1.NodeBootstrap) error {
			another := awaited(t)
			another.UID = "another-uid"
			if err := l.server.Delete(t.Context(), nb); err != nil {
				return err
			}
			return l.server.Create(t.Context(), another)
		}, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			nb := awaited(t)
			if tt.of != nil {
				tt.of(nb)
			}
			l := newLagging(t, nb)
			if tt.since != nil {
				if err := l.server.Get(t.Context(), client.ObjectKeyFromObject(nb), nb); err != nil {
					t.Fatal(err)
				}
				if err := tt.since(l, nb); err != nil {
					t.Fatal(err)
				}
			}
			l.reconcile(t)
			if n := l.secrets(t); n > 0 != tt.created || l.reads != tt.reads {
				t.Errorf("%d Secrets are created after %d uncached reads of the NodeBootstrap", n, l.reads)
			}
			// The reconcile that sees the deletion deletes everything.
			if err := client.IgnoreNotFound(l.server.Delete(t.Context(), awaited(t))); err != nil {
				t.Fatal(err)
			}
			l.catchUp(t)
			l.reconcile(t)
			if n := l.secrets(t); n > 0 {
				t.Errorf("%d Secrets are left when the NodeBootstrap is deleted", n)
			}
		})
	}
}

// The id of the first token is derived from the UID: after its deletion, no other token with that id must be created, however
// long the cache lacks the status that names it.
func TestFirstTokenIsCreatedOnce(t *testing.T) {
	l := newLagging(t, awaited(t))
	l.reconcile(t)
	if err := l.server.DeleteAllOf(t.Context(), &corev1.Secret{}, client.InNamespace(token.Namespace)); err != nil {
		t.Fatal(err)
	}
	l.catchUp(t, &v1alpha1.NodeBootstrapList{})
	for range 3 {
		l.clock.SetTime(l.clock.Now().Add(consistencyTimeout))
		if l.reconcile(t); slices.Contains(l.writes, "create *v1.Secret") {
			t.Fatalf("it writes %v", l.writes)
		}
	}
	l.catchUp(t)
	if l.reconcile(t); !slices.Contains(l.writes, "create *v1.Secret") {
		t.Errorf("no second token is created when the cache shows the status: it writes %v", l.writes)
	}
}
