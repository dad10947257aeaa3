// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// authenticates is nil if a bootstrap kubeconfig is accepted as that of a token.
func authenticates(t *testing.T, kubeconfig []byte, tokenID string) error {
	t.Helper()
	who, err := kubectlAs(t, kubeconfig, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
	if err != nil || who != "system:bootstrap:"+tokenID {
		return fmt.Errorf("with the kubeconfig kubectl is %q (%w)", who, err)
	}
	return nil
}

// waitRefused waits until the status says that a write is refused, and by which component.
func waitRefused(t *testing.T, name, by string) {
	t.Helper()
	nb := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonWriteFailed)
	if message := env.ReadyMessage(nb); !strings.Contains(message, by) {
		t.Errorf("the message does not say what refuses: %s", message)
	}
}

// While the operator's writes are refused, the status says so; once they are accepted, the credential is published.
func TestWritesAreRefusedForAWhile(t *testing.T) {
	t.Run("by admission", func(t *testing.T) {
		const name = "refused-admission"
		policy := &admissionregistrationv1.ValidatingAdmissionPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: "no-tokens-today"},
			Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
				MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
					RuleWithOperations: admissionregistrationv1.RuleWithOperations{
						Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
						Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"secrets"}},
					},
				}}},
				Validations: []admissionregistrationv1.Validation{{Expression: "object.metadata.namespace != 'kube-system'", Message: "no tokens today"}},
			},
		}
		cluster.Create(t, policy)
		binding := &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
			ObjectMeta: metav1.ObjectMeta{Name: policy.Name},
			Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
				PolicyName: policy.Name, ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
			},
		}
		cluster.Create(t, binding)
		env.Eventually(t, "the policy being in force", func() error {
			probe := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: token.Namespace, GenerateName: "probe-"}}
			if err := cluster.Client.Create(t.Context(), probe, client.DryRunAll); err == nil {
				return errors.New("it is not")
			}
			return nil
		})
		cluster.Create(t, cluster.NodeBootstrap(name))
		waitRefused(t, name, "no tokens today")
		cluster.Delete(t, binding)
		cluster.WaitAwaited(t, name)
	})
	t.Run("by quota", func(t *testing.T) {
		const name = "refused-quota"
		quota := &corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: "no-secrets"},
			Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourceSecrets: resource.MustParse("0")}},
		}
		cluster.Create(t, quota)
		cluster.Create(t, cluster.NodeBootstrap(name))
		waitRefused(t, name, "quota")
		cluster.Delete(t, quota)
		cluster.WaitAwaited(t, name)
	})
}

// The operator's namespace is deleted with its content, and reinstalled: the same tokens are published again.
func TestNamespaceDeletedAndInstalledAgain(t *testing.T) {
	const name = "survives-namespace"
	before, _ := cluster.CreateAwaited(t, name)
	if err := killManager(); err != nil { // its Pod would be deleted with the namespace
		t.Fatal(err)
	}
	cluster.Delete(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: operator.Namespace}})
	env.Eventually(t, "the deletion of the namespace", func() error {
		return cluster.Absent(t.Context(), "", operator.Namespace, &corev1.Namespace{})
	})
	env.Must(t, install(t.Context()))
	env.Must(t, startManager(t.Context()))
	var text []byte
	env.Eventually(t, "the kubeconfig being published again", func() error {
		var secret corev1.Secret
		err := cluster.Client.Get(t.Context(), client.ObjectKey{Namespace: operator.Namespace, Name: owned.KubeconfigSecretName(name)}, &secret)
		text = secret.Data[kubeconfig.Key]
		return err
	})
	env.Check(t, authenticates(t, text, before.Status.Token.ID))
}

// The CustomResourceDefinition is deleted under a running manager: nothing is left, and after a reinstallation everything works
// as before.
func TestCRDDeletedAndInstalledAgain(t *testing.T) {
	const name = "survives-crd"
	env.Must(t, cluster.Client.Create(t.Context(), cluster.NodeBootstrap(name)))
	cluster.WaitAwaited(t, name)
	env.Must(t, kubectl(t, "delete", "crd", rbac.CRDName))
	env.Eventually(t, "the deletion of everything that it owned", func() error {
		return cluster.NothingLeft(t.Context(), name)
	})
	waitNoBindings(t)
	env.Must(t, install(t.Context()))
	nb, kubeconfig := cluster.CreateAwaited(t, name)
	env.Check(t, authenticates(t, kubeconfig, nb.Status.Token.ID))
}

// Two managers run at the same time, as when a leader is lost during a reconcile: one credential, and one join.
func TestTwoManagers(t *testing.T) {
	second, err := operator.Start(t.Context(), cluster.Cluster, allowClusterWide)
	env.Must(t, err)
	t.Cleanup(func() {
		env.Check(t, second.Kill())
	})
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("twice-managed-%d", i))
		cluster.Create(t, cluster.NodeBootstrap(names[i]))
	}
	for _, name := range names {
		nb, kubeconfig := cluster.WaitAwaited(t, name)
		tokens, err := cluster.TokenSecrets(t.Context(), name)
		if err != nil || len(tokens) != 1 {
			t.Errorf("%d tokens of %s (%v), want 1", len(tokens), name, err)
		}
		env.Check(t, authenticates(t, kubeconfig, nb.Status.Token.ID))
	}
	_, kubeconfig := cluster.WaitAwaited(t, names[0])
	startKubelet(t, names[0], kubeconfig)
	waitJoined(t, names[0])
}
