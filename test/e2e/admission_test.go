// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
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

// installPolicy installs a policy, waits until it changes a node's kubeconfig Secret, and returns its binding.
func installPolicy(t *testing.T, node, expression string, changed func(*corev1.Secret) bool) client.Object {
	t.Helper()
	kind := schema.GroupKind{Group: admissionv1.GroupName, Kind: "MutatingAdmissionPolicy"}
	if _, err := cluster.Client.RESTMapper().RESTMapping(kind, "v1"); err != nil {
		t.Skipf("this Kubernetes has no mutating admission policies: %v", err)
	}
	var policy admissionv1.MutatingAdmissionPolicy
	var binding admissionv1.MutatingAdmissionPolicyBinding
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(policyOn(node, expression)), 4096)
	for _, o := range []client.Object{&policy, &binding} {
		if err := decoder.Decode(o); err != nil {
			t.Fatal(err)
		}
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
	cluster.Create(t, cluster.NodeBootstrap(name))
	_, text := cluster.WaitAwaited(t, name)
	before := settledWrites(t)
	if err := crashManager(t.Context()); err != nil {
		t.Fatal(err)
	}
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
	if err := cluster.Absent(t.Context(), operator.Namespace, owned.KubeconfigSecretName(name), &corev1.Secret{}); err != nil {
		t.Error(err)
	}
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
