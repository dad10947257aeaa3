// SPDX-License-Identifier: Apache-2.0

// Package env has the helpers that tests with a running control plane share: a cluster for each test binary, with the
// operator's CRD and RBAC in it, and assertions on the state of objects.
package env

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
)

// Limit is a timeout for steps that take a second or two on an idle machine.
const Limit = time.Minute

const pollInterval = 25 * time.Millisecond

// Env is a cluster with the operator's CRD and RBAC installed, in which the operator does not run.
type Env struct {
	*localcluster.Cluster
	// Client is the administrator's. It reads from the API server.
	Client client.WithWatch
}

// Start starts a cluster.
func Start(ctx context.Context, config localcluster.Config) (*Env, error) {
	cluster, err := localcluster.Start(ctx, config)
	if err != nil {
		return nil, err
	}
	e := &Env{Cluster: cluster}
	if err := e.install(ctx); err != nil {
		return nil, errors.Join(err, cluster.Stop())
	}
	return e, nil
}

func (e *Env) install(ctx context.Context) error {
	scheme, err := objects.NewScheme()
	if err != nil {
		return err
	}
	if e.Client, err = client.NewWithWatch(e.AdminConfig(), client.Options{Scheme: scheme}); err != nil {
		return err
	}
	return operator.Install(ctx, e.Cluster)
}

// atOnce is how many parallel tests run at the same time, unless the flag -parallel is set: they mostly wait.
const atOnce = "8"

// Main runs the tests of a package with a setup before and a teardown after, also if it is interrupted. The setup returns
// the teardown.
func Main(m *testing.M, setup func(context.Context) (func() error, error)) {
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := flag.Set("test.parallel", atOnce); err != nil {
		panic(err)
	}
	teardown, err := setup(ctx)
	if err != nil {
		fmt.Fprintf(os.Stderr, "setting up: %v\n", err)
		os.Exit(1)
	}
	done := make(chan int, 1)
	go func() { done <- m.Run() }()
	code := 1
	select {
	case code = <-done:
	case <-ctx.Done():
	}
	if err := teardown(); err != nil {
		fmt.Fprintf(os.Stderr, "tearing down: %v\n", err)
		code = 1
	}
	os.Exit(code)
}

// Must fails the test after an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Check reports an error, and lets the test continue.
func Check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// Eventually waits until a check returns nil, and fails the test with its last error after Limit.
func Eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	Within(t, Limit, what, check)
}

// Within is Eventually with another limit.
func Within(t testing.TB, limit time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		case <-tick.C:
		}
	}
}

// Create creates an object and deletes it when the test is over.
func (e *Env) Create(t testing.TB, o client.Object) {
	t.Helper()
	if err := e.Client.Create(t.Context(), o); err != nil {
		t.Fatalf("creating %T %s: %v", o, o.GetName(), err)
	}
	t.Cleanup(func() { e.DeleteAfter(t, o) })
}

// Delete deletes an existing object.
func (e *Env) Delete(t testing.TB, o client.Object) {
	t.Helper()
	if err := e.Client.Delete(t.Context(), o); err != nil {
		t.Fatalf("deleting %T %s: %v", o, o.GetName(), err)
	}
}

// noFinalizers is a patch that removes finalizers.
var noFinalizers = client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))

// DeleteAfter deletes an object, if it exists, in a cleanup. It removes finalizers with which it was sent.
func (e *Env) DeleteAfter(t testing.TB, o client.Object) {
	t.Helper()
	if len(o.GetFinalizers()) > 0 {
		if err := e.Client.Patch(context.Background(), o, noFinalizers); client.IgnoreNotFound(err) != nil {
			t.Errorf("removing the finalizers of %T %s: %v", o, o.GetName(), err)
		}
	}
	if err := e.Client.Delete(context.Background(), o); client.IgnoreNotFound(err) != nil {
		t.Errorf("deleting %T %s: %v", o, o.GetName(), err)
	}
}

// Get reads an existing object.
func (e *Env) Get(t testing.TB, namespace, name string, into client.Object) {
	t.Helper()
	if err := e.Client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, into); err != nil {
		t.Fatalf("reading %T %s/%s: %v", into, namespace, name, err)
	}
}

// Absent is nil if an object does not exist.
func (e *Env) Absent(ctx context.Context, namespace, name string, into client.Object) error {
	switch err := e.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, into); {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	default:
		return fmt.Errorf("%T %s/%s exists", into, namespace, name)
	}
}

// Change reads an object, changes it and writes it, and repeats that after a conflict.
func Change[T client.Object](t testing.TB, e *Env, o T, change func(T)) {
	t.Helper()
	Eventually(t, fmt.Sprintf("changing %T %s", o, o.GetName()), func() error {
		if err := e.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		change(o)
		return e.Client.Update(t.Context(), o)
	})
}
