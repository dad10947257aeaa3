// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// setApproval changes who approves, and waits until the operator has observed it.
func setApproval(t *testing.T, name string, approval v1alpha1.Approval) {
	t.Helper()
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = approval })
	generation := nb.Generation
	env.Eventually(t, "the observed change", func() error {
		cluster.Get(t, "", name, nb)
		if nb.Status.ObservedGeneration < generation {
			return errors.New("it is not observed yet")
		}
		return nil
	})
}

// Who approves can change while a CSR waits: the current spec decides.
func TestApprovalChangesWhileARequestWaits(t *testing.T) {
	const name = "approval-changes"
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	request := ask(t, kubeconfig, name, newKey(t))
	cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonAwaitingApproval)

	setApproval(t, name, v1alpha1.ApprovalClusterWide)
	env.Eventually(t, "the token's groups", func() error {
		if groups := string(theToken(t, name).Data[bootstrapapi.BootstrapTokenExtraGroupsKey]); groups != token.Group+","+token.ClusterWideGroup {
			return fmt.Errorf("they are %s", groups)
		}
		return nil
	})
	cluster.Get(t, "", request.Name, request)
	if len(request.Status.Conditions) > 0 {
		t.Errorf("the CSR is decided: %+v", request.Status.Conditions)
	}

	setApproval(t, name, v1alpha1.ApprovalNode)
	waitCondition(t, request, certificatesv1.CertificateApproved)
	env.Eventually(t, "the token's groups", func() error {
		if groups := string(theToken(t, name).Data[bootstrapapi.BootstrapTokenExtraGroupsKey]); groups != token.Group {
			return fmt.Errorf("they are %s", groups)
		}
		return nil
	})
}

// A shorter ttl shortens the current token; the kubeconfig and the secret part stay.
func TestTTLChanges(t *testing.T) {
	const name = "ttl-changes"
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	before, text := cluster.WaitAwaited(t, name)
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Token.TTL = &metav1.Duration{Duration: time.Hour} })
	env.Eventually(t, "the token being shortened", func() error {
		cluster.Get(t, "", name, nb)
		expires, err := time.Parse(time.RFC3339, string(theToken(t, name).Data[bootstrapapi.BootstrapTokenExpirationKey]))
		if err != nil {
			return err
		}
		if left := time.Until(expires); left > time.Hour+time.Minute || !nb.Status.Token.ExpirationTime.Time.Equal(expires) {
			return fmt.Errorf("it expires at %s, and the status says %s", expires, nb.Status.Token.ExpirationTime)
		}
		return nil
	})
	if nb.Status.Token.ID != before.Status.Token.ID || !bytes.Equal(kubeconfigSecret(t, name).Data[kubeconfig.Key], text) {
		t.Error("there is another credential")
	}
}

// A changed endpoint is written into the kubeconfig with the same token.
func TestServerChanges(t *testing.T) {
	const name, moved = "server-changes", "https://moved.example.com:6443"
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	before, _ := cluster.WaitAwaited(t, name)
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Cluster.Server = moved })
	env.Eventually(t, "the kubeconfig being rendered again", func() error {
		cluster.Get(t, "", name, nb)
		if nb.Status.Server != moved || !bytes.Contains(kubeconfigSecret(t, name).Data[kubeconfig.Key], []byte(moved)) {
			return fmt.Errorf("the status says %s", nb.Status.Server)
		}
		return nil
	})
	if nb.Status.Token.ID != before.Status.Token.ID {
		t.Error("there is another token")
	}
}
