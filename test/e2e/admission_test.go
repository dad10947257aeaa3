// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/test/adversarial"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// policyOn is a policy that changes a node's kubeconfig Secret when it is created.
func policyOn(node, expression string) string {
	return `apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: changes-` + node + `}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ` + operator.Namespace + `}}
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [secrets], resourceNames: [` + owned.KubeconfigSecretName(node) + `]}
  mutations: [` + expression + `]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: changes-` + node + `}
spec: {policyName: changes-` + node + `}
`
}

// needsMutatingPolicies skips the test without them.
func needsMutatingPolicies(t *testing.T) {
	t.Helper()
	kind := schema.GroupKind{Group: admissionv1.GroupName, Kind: "MutatingAdmissionPolicy"}
	if _, err := cluster.Client.RESTMapper().RESTMapping(kind, "v1"); err != nil {
		t.Skipf("this Kubernetes has no mutating admission policies: %v", err)
	}
}

// installPolicy installs a policy, waits until it changes a node's kubeconfig Secret, and returns its binding.
func installPolicy(t *testing.T, node, expression string, changed func(*corev1.Secret) bool) client.Object {
	t.Helper()
	needsMutatingPolicies(t)
	var policy admissionv1.MutatingAdmissionPolicy
	var binding admissionv1.MutatingAdmissionPolicyBinding
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(policyOn(node, expression)), 4096)
	for _, o := range []client.Object{&policy, &binding} {
		env.Must(t, decoder.Decode(o))
		cluster.Create(t, o)
	}
	env.Eventually(t, "the policy's effect", func() error {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: owned.KubeconfigSecretName(node), Labels: map[string]string{owned.ManagedByLabel: owned.ManagedBy}}}
		if err := cluster.Client.Create(t.Context(), s, client.DryRunAll); err != nil {
			return err
		}
		if !changed(s) {
			return errors.New("Secrets are as they were sent")
		}
		return nil
	})
	return &binding
}

// A policy makes the kubeconfig Secret immutable. The Secret has the right content, so the operator leaves it alone: it
// writes nothing after the credential is published, not even after a restart, and a stock kubelet joins.
func TestPolicyMakesSecretsImmutable(t *testing.T) {
	const name, immutable = "immutable", `{patchType: ApplyConfiguration, applyConfiguration: {expression: "Object{immutable: true}"}}`
	isImmutable := func(s *corev1.Secret) bool { return ptr.Deref(s.Immutable, false) }
	installPolicy(t, name, immutable, isImmutable)
	_, text := cluster.CreateAwaited(t, name)
	before := settledWrites(t)
	env.Must(t, crashManager(t.Context()))
	cluster.WaitAwaited(t, name)
	if after := settledWrites(t); len(after) > len(before) {
		t.Errorf("there are more writes: %v", after[len(before):])
	}
	var s corev1.Secret
	cluster.Get(t, operator.Namespace, owned.KubeconfigSecretName(name), &s)
	if !isImmutable(&s) || !bytes.Equal(s.Data[kubeconfig.Key], text) {
		t.Error("the Secret is not the one that the policy has changed")
	}
	startKubelet(t, name, text)
	waitJoined(t, name)
}

// A policy removes the CA of each kubeconfig Secret, which makes it useless. No credential is published, the condition names the
// Secret and the field, and once the policy is deleted the credential is published without help, as docs/troubleshooting.md says.
func TestPolicyChangesKubeconfigs(t *testing.T) {
	t.Parallel()
	const name = "no-ca"
	noCA := `{patchType: JSONPatch, jsonPatch: {expression: "has(object.data) && 'ca.crt' in object.data ? ` +
		`[JSONPatch{op: 'remove', path: '/data/ca.crt'}] : [JSONPatch{op: 'add', path: '/metadata/labels/changed', value: 'yes'}]"}}`
	binding := installPolicy(t, name, noCA, func(s *corev1.Secret) bool { return s.Labels["changed"] != "" })
	cluster.Create(t, cluster.NodeBootstrap(name))
	nb := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonAdmissionInterferes)
	for _, text := range []string{"Secret " + operator.Namespace + "/bootstrap-kubeconfig-" + name, "data.ca.crt", "mutatingadmissionpolicies"} {
		if message := env.ReadyMessage(nb); !strings.Contains(message, text) {
			t.Errorf("the message does not say %q: %s", text, message)
		}
	}
	env.Check(t, cluster.Absent(t.Context(), operator.Namespace, owned.KubeconfigSecretName(name), &corev1.Secret{}))
	cluster.Delete(t, binding)
	env.Within(t, 2*env.Limit, "the credential", func() error {
		var nb v1alpha1.NodeBootstrap
		cluster.Get(t, "", name, &nb)
		return env.HasReady(&nb, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode)
	})
	_, kubeconfig := cluster.WaitAwaited(t, name)
	startKubelet(t, name, kubeconfig)
	waitJoined(t, name)
}

// If an admission policy adds finalizers to everything that is created, no kubelet gets a certificate, and the denial says why.
// The advice of docs/troubleshooting.md works: once CSRs are exempted, the kubelet joins when it is restarted, and the denied
// CSRs can be deleted after their finalizers are removed.
func TestFinalizersOfAnAdmissionPolicy(t *testing.T) {
	const name = "finalized"
	needsMutatingPolicies(t)
	nb, kubeconfig := cluster.CreateAwaited(t, name)
	binding := addFinalizers(t)
	waitFinalizers(t, 1)

	kubelet := startKubelet(t, name, kubeconfig)
	env.Eventually(t, "the denial", func() error {
		if log, err := os.ReadFile(kubelet.LogFile()); err != nil || bytes.Contains(log, []byte("nodebootstrap-guard-tokens")) {
			return err // the guard, if it is installed, refuses the CSR at once
		}
		return oneDenied(t, nb.Status.Token.ID, csr.ReasonUnexpectedAttributes, "exempt CertificateSigningRequests")
	})
	env.Must(t, kubelet.Stop())
	cluster.Delete(t, binding)
	waitFinalizers(t, 0)
	startKubeletWith(t, localcluster.KubeletConfig{NodeName: name, Dir: kubelet.Dir()})
	waitJoined(t, name)
	for _, r := range sentWith(t, nb.Status.Token.ID) {
		if len(r.Finalizers) == 0 {
			continue
		}
		if len(r.Status.Certificate) > 0 {
			t.Errorf("the request %s has finalizers and a certificate", r.Name)
		}
		cluster.DeleteAfter(t, &r)
		env.Check(t, cluster.Absent(t.Context(), "", r.Name, &certificatesv1.CertificateSigningRequest{}))
	}
}

// addFinalizers installs a policy that gives each CSR a finalizer, and returns the object whose deletion exempts CSRs.
func addFinalizers(t *testing.T) client.Object {
	t.Helper()
	const name = "protect-everything"
	cluster.Create(t, &admissionv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionv1.MutatingAdmissionPolicySpec{
		MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Create},
			Rule: admissionv1.Rule{APIGroups: []string{certificatesv1.GroupName}, APIVersions: []string{"*"},
				Resources: []string{"certificatesigningrequests"}},
		}}}},
		ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
		Mutations: []admissionv1.Mutation{{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{
			Expression: `[JSONPatch{op: "add", path: "/metadata/finalizers", value: ["example.com/protect"]}]`,
		}}},
	}})
	binding := &admissionv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: name}}
	cluster.Create(t, binding)
	return binding
}

// waitFinalizers waits until the API server gives a CSR so many finalizers.
func waitFinalizers(t *testing.T, want int) {
	t.Helper()
	key := env.Key(t)
	env.Eventually(t, "the policy's effect", func() error {
		r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "tried-"}, Spec: adversarial.GoodClient("tried", "tried", key)}
		if err := cluster.Client.Create(t.Context(), r, client.DryRunAll); err != nil {
			return err
		}
		if len(r.Finalizers) != want {
			return fmt.Errorf("the finalizers are %q", r.Finalizers)
		}
		return nil
	})
}
