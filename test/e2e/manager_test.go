// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// Deleting the NodeBootstrap before the node has joined leaves nothing, and deleting the last one also deletes the bindings.
func TestDeletedBeforeJoining(t *testing.T) {
	const name = "never-joins"
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	cluster.Delete(t, nb)
	env.Eventually(t, "the deletion of everything", func() error { return cluster.NothingLeft(t.Context(), name) })
	env.Eventually(t, "the token being refused", func() error {
		if out, err := kubectlAs(t, kubeconfig, "auth", "whoami"); err == nil {
			return fmt.Errorf("kubectl says %s", out)
		}
		return nil
	})
	waitNoBindings(t)
}

func waitNoBindings(t *testing.T) {
	t.Helper()
	env.Eventually(t, "the deletion of the bindings", func() error {
		for _, binding := range rbac.BindingNames {
			if err := cluster.Absent(t.Context(), "", binding, &rbacv1.ClusterRoleBinding{}); err != nil {
				return err
			}
		}
		return nil
	})
}

// The next manager cleans up after NodeBootstraps that were deleted while no manager ran, including a pending CSR.
func TestDeletedWhileTheManagerIsDown(t *testing.T) {
	const name = "deleted-meanwhile"
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual
	cluster.Create(t, nb)
	awaited, kubeconfig := cluster.WaitAwaited(t, name)
	startKubelet(t, name, kubeconfig)
	cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonAwaitingApproval)
	env.Must(t, killManager())
	cluster.Delete(t, nb)
	env.Must(t, startManager(t.Context()))
	env.Eventually(t, "the deletion of everything", func() error {
		if requests := sentWith(t, awaited.Status.Token.ID); len(requests) > 0 {
			return fmt.Errorf("%d requests are left", len(requests))
		}
		return cluster.NothingLeft(t.Context(), name)
	})
	waitNoBindings(t)
}

// The manager is killed at each step of a join, and the end state is the same.
func TestManagerKilledAtEachStep(t *testing.T) {
	for step, happened := range map[string]func(watch.Event) bool{
		"resource-applied":     func(e watch.Event) bool { _, ok := e.Object.(*v1alpha1.NodeBootstrap); return ok },
		"token-minted":         isSecret(token.Namespace, watch.Added),
		"kubeconfig-published": isSecret(operator.Namespace, watch.Added),
		"csr-seen":             isRequest(func(*certificatesv1.CertificateSigningRequest) bool { return true }),
		"csr-approved":         isRequest(func(r *certificatesv1.CertificateSigningRequest) bool { return len(r.Status.Conditions) > 0 }),
		"node-registered":      func(e watch.Event) bool { _, ok := e.Object.(*corev1.Node); return ok },
		"token-revoked":        isSecret(token.Namespace, watch.Deleted),
	} {
		t.Run(step, func(t *testing.T) {
			name := "killed-at-" + step
			crashed := crashWhen(t, name, happened)
			_, kubeconfig := cluster.CreateAwaited(t, name)
			startKubelet(t, name, kubeconfig)
			waitNodeReady(t, name)
			select {
			case err := <-crashed:
				env.Must(t, err)
			case <-time.After(env.Limit):
				t.Fatal("the step was not seen")
			}
			waitJoined(t, name)
		})
	}
}

func isSecret(namespace string, kind watch.EventType) func(watch.Event) bool {
	return func(e watch.Event) bool {
		s, ok := e.Object.(*corev1.Secret)
		return ok && s.Namespace == namespace && e.Type == kind
	}
}

func isRequest(is func(*certificatesv1.CertificateSigningRequest) bool) func(watch.Event) bool {
	return func(e watch.Event) bool {
		r, ok := e.Object.(*certificatesv1.CertificateSigningRequest)
		return ok && is(r)
	}
}

// crashWhen kills the manager at the first matching change of an object for a node, and restarts it.
func crashWhen(t *testing.T, node string, happened func(watch.Event) bool) <-chan error {
	t.Helper()
	events := make(chan watch.Event)
	for _, list := range []client.ObjectList{
		&v1alpha1.NodeBootstrapList{}, &corev1.SecretList{}, &certificatesv1.CertificateSigningRequestList{}, &corev1.NodeList{},
	} {
		w, err := cluster.Client.Watch(t.Context(), list)
		env.Must(t, err)
		go func() {
			for e := range w.ResultChan() {
				select {
				case events <- e:
				case <-t.Context().Done():
				}
			}
		}()
	}
	crashed := make(chan error, 1)
	began := time.Now().Truncate(time.Second)
	go func() {
		for {
			select {
			case e := <-events:
				o, ok := e.Object.(client.Object)
				if !ok || !concerns(o, node, began) || !happened(e) {
					continue
				}
				crashed <- crashManager(context.WithoutCancel(t.Context()))
				return
			case <-t.Context().Done():
				return
			}
		}
	}()
	return crashed
}

func concerns(o client.Object, node string, since time.Time) bool {
	if r, ok := o.(*certificatesv1.CertificateSigningRequest); ok {
		return slices.Contains(r.Spec.Groups, token.Group) && !r.CreationTimestamp.Time.Before(since)
	}
	return o.GetName() == node || owned.NodeOf(o) == node
}

// The operator writes nothing in a settled cluster, and never sends a request for which it lacks a permission.
func TestSettledClusterSeesNoWrites(t *testing.T) {
	const awaited, joined = "settled-awaited", "settled-joined"
	cluster.Create(t, cluster.NodeBootstrap(awaited))
	_, kubeconfig := cluster.CreateAwaited(t, joined)
	startKubelet(t, joined, kubeconfig)
	waitJoined(t, joined)
	cluster.WaitAwaited(t, awaited)
	before := settledWrites(t)
	if err := crashManager(t.Context()); err != nil { // the new one reconciles everything, and finds nothing to do
		t.Fatal(err)
	}
	select { // not a wait for something: the time in which nothing may be written, with several heartbeats of the node
	case <-time.After(25 * time.Second):
	case <-t.Context().Done():
	}
	after := settledWrites(t)
	for _, write := range after[len(before):] {
		t.Errorf("a write in a settled cluster: %s", write)
	}
	entries, err := audit.Entries()
	env.Must(t, err)
	for _, e := range entries {
		if e.Forbidden() {
			t.Errorf("the operator's RBAC does not allow what it does: %s", e)
		}
	}
}

// settledWrites is the record once it has stopped growing.
func settledWrites(t *testing.T) []env.Entry {
	t.Helper()
	last, quiet := -1, 0
	var writes []env.Entry
	env.Eventually(t, "the record of writes", func() error {
		var err error
		if writes, err = audit.Writes(); err != nil {
			return err
		}
		if len(writes) != last {
			last, quiet = len(writes), 0
		}
		if quiet++; quiet < 40 { // a second
			return fmt.Errorf("still growing, at %d", last)
		}
		return nil
	})
	return writes
}
