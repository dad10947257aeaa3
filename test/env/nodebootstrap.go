// SPDX-License-Identifier: Apache-2.0

package env

import (
	"context"
	"fmt"
	"slices"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// NodeBootstrap is one with the local cluster's endpoint in it.
func (e *Env) NodeBootstrap(name string) *v1alpha1.NodeBootstrap {
	return &v1alpha1.NodeBootstrap{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.NodeBootstrapSpec{Cluster: v1alpha1.ClusterSpec{Server: e.Server()}},
	}
}

// HasReady is nil if a NodeBootstrap's Ready condition is about its current generation and has a status and reason.
func HasReady(nb *v1alpha1.NodeBootstrap, status metav1.ConditionStatus, reason string) error {
	c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionReady)
	if c == nil || c.Status != status || c.Reason != reason || c.ObservedGeneration != nb.Generation {
		return fmt.Errorf("the condition Ready of %s is %+v, want %s %s", nb.Name, c, status, reason)
	}
	return nil
}

// WaitReady waits for a Ready condition and returns the NodeBootstrap that has it.
func (e *Env) WaitReady(t testing.TB, name string, status metav1.ConditionStatus, reason string) *v1alpha1.NodeBootstrap {
	t.Helper()
	var nb v1alpha1.NodeBootstrap
	Eventually(t, "NodeBootstrap "+name, func() error {
		nb = v1alpha1.NodeBootstrap{}
		if err := e.Client.Get(t.Context(), client.ObjectKey{Name: name}, &nb); err != nil {
			return err
		}
		return HasReady(&nb, status, reason)
	})
	return &nb
}

// ReadyMessage is the message of the Ready condition.
func ReadyMessage(nb *v1alpha1.NodeBootstrap) string {
	return meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionReady).Message
}

// WaitAwaited waits until a node's credential is published, and returns both.
func (e *Env) WaitAwaited(t testing.TB, name string) (*v1alpha1.NodeBootstrap, []byte) {
	t.Helper()
	nb := e.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode)
	var secret corev1.Secret
	e.Get(t, operator.Namespace, owned.KubeconfigSecretName(name), &secret)
	return nb, secret.Data[kubeconfig.Key]
}

// CreateAwaited creates a NodeBootstrap without a spec and waits for its credential.
func (e *Env) CreateAwaited(t testing.TB, name string) (*v1alpha1.NodeBootstrap, []byte) {
	t.Helper()
	e.Create(t, e.NodeBootstrap(name))
	return e.WaitAwaited(t, name)
}

// WaitCertificate waits until a CSR has its certificate.
func (e *Env) WaitCertificate(t testing.TB, r *certificatesv1.CertificateSigningRequest) {
	t.Helper()
	Eventually(t, "the certificate of the request "+r.Name, func() error {
		if e.Get(t, "", r.Name, r); len(r.Status.Certificate) == 0 {
			return fmt.Errorf("there is none: %+v", r.Status)
		}
		return nil
	})
}

// TokenSecrets are the token Secrets for a node.
func (e *Env) TokenSecrets(ctx context.Context, node string) ([]corev1.Secret, error) {
	var list corev1.SecretList
	if err := e.Client.List(ctx, &list, client.InNamespace(token.Namespace)); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(s corev1.Secret) bool { return owned.NodeOf(&s) != node }), nil
}

// Requests are the CSRs that were sent with tokens of the operator's.
func (e *Env) Requests(ctx context.Context) ([]certificatesv1.CertificateSigningRequest, error) {
	var list certificatesv1.CertificateSigningRequestList
	if err := e.Client.List(ctx, &list); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(r certificatesv1.CertificateSigningRequest) bool {
		return !slices.Contains(r.Spec.Groups, token.Group)
	}), nil
}

// NothingLeft is nil if a node has neither token nor kubeconfig nor unissued CSR.
func (e *Env) NothingLeft(ctx context.Context, node string) error {
	tokens, err := e.TokenSecrets(ctx, node)
	if err != nil {
		return err
	}
	if len(tokens) > 0 {
		return fmt.Errorf("%d token Secrets of %s are left", len(tokens), node)
	}
	requests, err := e.Requests(ctx)
	if err != nil {
		return err
	}
	for _, r := range requests {
		if csr.RequestedNode(&r) == node && len(r.Status.Certificate) == 0 && len(r.Status.Conditions) == 0 {
			return fmt.Errorf("the request %s is left without a certificate", r.Name)
		}
	}
	return e.Absent(ctx, operator.Namespace, owned.KubeconfigSecretName(node), &corev1.Secret{})
}
