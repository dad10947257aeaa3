// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// A kubelet with another node's kubeconfig gets no certificate; its CSR is denied and the alarm raised. The kubeconfig is
// worthless from then on, and a reissue lets the right machine join.
func TestStolenKubeconfig(t *testing.T) {
	t.Parallel()
	const name, thief = "victim", "impostor"
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	before, kubeconfig := cluster.WaitAwaited(t, name)
	startKubelet(t, thief, kubeconfig)
	env.Eventually(t, "the denial", func() error {
		return oneDenied(t, before.Status.Token.ID, csr.ReasonWrongSubject, "system:node:"+thief)
	})
	alarmed := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonTokenMisused)
	if c := meta.FindStatusCondition(alarmed.Status.Conditions, v1alpha1.ConditionTokenMisused); c == nil || c.Reason != csr.ReasonWrongSubject {
		t.Errorf("the alarm is %+v", c)
	}
	env.Check(t, cluster.NothingLeft(t.Context(), name))
	env.Check(t, cluster.Absent(t.Context(), "", thief, &corev1.Node{}))

	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) {
		nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "after the theft"}
	})
	_, fresh := cluster.WaitAwaited(t, name)
	startKubelet(t, name, fresh)
	joined := waitJoined(t, name)
	noAlarm(t, joined)
	for _, r := range sentWith(t, before.Status.Token.ID) {
		if len(r.Status.Certificate) > 0 {
			t.Errorf("the request %s has a certificate", r.Name)
		}
	}
	env.Check(t, cluster.Absent(t.Context(), "", thief, &corev1.Node{}))
}

// If a textbook binding lets kube-controller-manager approve any name for any token, the operator cannot prevent that a thief
// gets another node's certificate. It warns before, raises the alarm after, revokes the token, and does not record that the CSR
// was denied. With the policies installed only the operator approves, and the thief gets nothing.
func TestBypassedApprovalIsRecorded(t *testing.T) {
	const name, thief = "bypassed", "other-name"
	cluster.Create(t, env.Binding("textbook", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", rbacv1.GroupKind, "system:bootstrappers"))
	nb, kubeconfig := cluster.CreateAwaited(t, name)
	env.Eventually(t, "the warning before", func() error {
		cluster.Get(t, "", name, nb)
		c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionApprovalEnforced)
		return conditionIs(c, metav1.ConditionFalse, v1alpha1.ReasonApprovedByOthers)
	})
	tokenID := nb.Status.Token.ID
	startKubelet(t, thief, kubeconfig)
	alarmed := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonTokenMisused)
	env.Check(t, conditionIs(meta.FindStatusCondition(alarmed.Status.Conditions, v1alpha1.ConditionTokenMisused), metav1.ConditionTrue, csr.ReasonWrongSubject))
	env.Check(t, cluster.NothingLeft(t.Context(), name))
	env.Eventually(t, "a record that is true", func() error {
		cluster.Get(t, "", name, nb)
		recorded := map[string]v1alpha1.Verdict{}
		for _, d := range nb.Status.Certificates {
			recorded[string(d.UID)] = d.Verdict
		}
		for _, r := range sentWith(t, tokenID) {
			if issued := len(r.Status.Certificate) > 0; issued != (recorded[string(r.UID)] == v1alpha1.VerdictApproved) {
				return fmt.Errorf("of %s, issued %t, the record says %q", r.Name, issued, recorded[string(r.UID)])
			}
			if policies && approvedFor(&r) != "" {
				t.Fatalf("%s is approved although the guard is installed: %+v", r.Name, r.Status.Conditions)
			}
		}
		return nil
	})
}

func conditionIs(c *metav1.Condition, status metav1.ConditionStatus, reason string) error {
	if c == nil || c.Status != status || c.Reason != reason {
		return fmt.Errorf("the condition is %+v, want %s %s", c, status, reason)
	}
	return nil
}

// send sends a kubelet's CSR for a node, with a key of its own.
func send(t *testing.T, kubeconfig []byte, node string, finalizers ...string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	var request *certificatesv1.CertificateSigningRequest
	env.Eventually(t, "sending a request", func() (err error) {
		request, err = create(t, kubeconfig, node, finalizers...)
		return err
	})
	t.Cleanup(func() { cluster.DeleteAfter(t, request) })
	return request
}

// create sends a kubelet's CSR once.
func create(t *testing.T, kubeconfig []byte, node string, finalizers ...string) (*certificatesv1.CertificateSigningRequest, error) {
	t.Helper()
	request, err := env.KubeletRequest(node)
	env.Must(t, err)
	request.Finalizers = finalizers
	return env.Clientset(t, kubeconfig).CertificatesV1().CertificateSigningRequests().Create(t.Context(), request, metav1.CreateOptions{})
}

// A CSR with a finalizer survived its deletion: another client could still approve it, and kube-controller-manager signed it,
// long after its NodeBootstrap and its token were deleted.
func TestTerminatingRequestIsNotSigned(t *testing.T) {
	const name = "terminating"
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	if policies { // such a CSR is not even admitted
		env.Eventually(t, "the refusal", func() error {
			if _, err := create(t, kubeconfig, name, "example.com/stay"); !operator.Refuses("nodebootstrap-guard-tokens", err) {
				return fmt.Errorf("the policy does not refuse it: %v", err) //nolint:errorlint // nil is printed too
			}
			return nil
		})
		return
	}
	env.Must(t, killManager())
	request := send(t, kubeconfig, name, "example.com/stay")
	cluster.Delete(t, nb)
	env.Must(t, startManager(t.Context()))
	env.Eventually(t, "the revocation", func() error {
		err := cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(request), request)
		if err == nil && request.DeletionTimestamp == nil {
			return errors.New("the request is not being deleted")
		}
		return errors.Join(client.IgnoreNotFound(err), cluster.Absent(t.Context(), "", name, &v1alpha1.NodeBootstrap{}))
	})
	request.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test",
	}}
	if err := cluster.Client.SubResource("approval").Update(t.Context(), request); err == nil {
		cluster.WaitCertificate(t, request)
		t.Fatal("the revoked request was approved, and has a certificate")
	} else if !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) && !apierrors.IsConflict(err) {
		t.Fatal(err)
	}
}

// While the operator is stopped, a machine and a thief send CSRs, in either order: the newest gets the certificate, and the
// status reports both keys.
func TestTwoKeysWhileTheOperatorIsStopped(t *testing.T) {
	const name = "two-keys"
	_, kubeconfig := cluster.CreateAwaited(t, name)
	env.Must(t, killManager())
	requests := []*certificatesv1.CertificateSigningRequest{send(t, kubeconfig, name), send(t, kubeconfig, name)}
	env.Must(t, startManager(t.Context()))
	var c *metav1.Condition
	env.Eventually(t, "the condition "+v1alpha1.ConditionKeyConflict, func() error {
		var nb v1alpha1.NodeBootstrap
		cluster.Get(t, "", name, &nb)
		if c = meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionKeyConflict); c == nil {
			return fmt.Errorf("the conditions are %+v", nb.Status.Conditions)
		}
		return nil
	})
	var reasons []string
	for _, r := range requests {
		cluster.Get(t, "", r.Name, r)
		key, err := csr.Fingerprint(r)
		env.Must(t, err)
		if !strings.Contains(c.Message, key) {
			t.Errorf("the message does not have the key %s: %s", key, c.Message)
		}
		for _, decided := range r.Status.Conditions {
			reasons = append(reasons, decided.Reason)
		}
	}
	slices.Sort(reasons)
	if want := []string{csr.ReasonKubeletClient, csr.ReasonSuperseded}; !slices.Equal(reasons, want) {
		t.Errorf("the requests are decided on with %q, want %q", reasons, want)
	}
}
