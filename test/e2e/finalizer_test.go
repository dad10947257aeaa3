// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/adversarial"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// If an admission policy adds finalizers to everything that is created, no kubelet gets a certificate, and the denial says why.
// The advice of docs/troubleshooting.md works: once CSRs are exempted, the kubelet joins when it is restarted, and the denied
// CSRs can be deleted after their finalizers are removed.
func TestFinalizersOfAnAdmissionPolicy(t *testing.T) {
	const name = "finalized"
	kind := schema.GroupKind{Group: admissionv1.GroupName, Kind: "MutatingAdmissionPolicy"}
	if _, err := cluster.Client.RESTMapper().RESTMapping(kind, "v1"); err != nil {
		t.Skipf("this Kubernetes has no mutating admission policies: %v", err)
	}
	cluster.Create(t, cluster.NodeBootstrap(name))
	nb, kubeconfig := cluster.WaitAwaited(t, name)
	binding := addFinalizers(t)
	waitFinalizers(t, 1)

	kubelet := startKubelet(t, name, kubeconfig)
	env.Eventually(t, "the denial", func() error {
		for _, r := range sentWith(t, nb.Status.Token.ID) {
			for _, c := range r.Status.Conditions {
				if c.Type == certificatesv1.CertificateDenied && c.Reason == csr.ReasonUnexpectedAttributes && strings.Contains(c.Message, "exempt CertificateSigningRequests") {
					return nil
				}
			}
		}
		if log, err := os.ReadFile(kubelet.LogFile()); err != nil || bytes.Contains(log, []byte("nodebootstrap-guard-tokens")) {
			return err // the guard, if it is installed, refuses the CSR at once
		}
		return errors.New("no request is denied")
	})
	if err := kubelet.Stop(); err != nil {
		t.Fatal(err)
	}
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
		if err := cluster.Absent(t.Context(), "", r.Name, &certificatesv1.CertificateSigningRequest{}); err != nil {
			t.Error(err)
		}
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
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
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
