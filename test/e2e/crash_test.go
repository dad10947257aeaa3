// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"slices"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

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
			cluster.Create(t, cluster.NodeBootstrap(name))
			_, kubeconfig := cluster.WaitAwaited(t, name)
			startKubelet(t, name, kubeconfig)
			waitNodeReady(t, name)
			select {
			case err := <-crashed:
				if err != nil {
					t.Fatal(err)
				}
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
		if err != nil {
			t.Fatal(err)
		}
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
