// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// These tests follow the advice of messages and docs/troubleshooting.md. test/e2e/advice_test.go does so with kubelets.

// JoinDeadlineExceeded: a later deadline is enough.
func TestRaisedDeadlineGivesAnotherToken(t *testing.T) {
	const name = "too-late"
	nb := cluster.NodeBootstrap(name)
	nb.Spec.Token.TTL, nb.Spec.Token.JoinDeadline = &metav1.Duration{Duration: time.Hour}, &metav1.Duration{Duration: time.Hour}
	cluster.Create(t, nb)
	cluster.WaitAwaited(t, name)
	at(t, 2*time.Hour)
	poke(t, name)
	late := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonJoinDeadlineExceeded)
	for _, advice := range []string{"raise it", v1alpha1.ReissueRequestedAtAnnotation} {
		if got := env.ReadyMessage(late); !strings.Contains(got, advice) {
			t.Errorf("the message does not say %q: %s", advice, got)
		}
	}
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) {
		nb.Spec.Token.JoinDeadline = &metav1.Duration{Duration: 24 * time.Hour}
	})
	cluster.WaitAwaited(t, name)
}

// AddressDeclaredElsewhere: an address that only the other NodeBootstrap declares must be moved to this one.
func TestAddressIsMovedFromAnotherNodeBootstrap(t *testing.T) {
	const name, other, address = "serves-moved", "serves-before", "moved.example.com"
	nb, before := declare(t, name, name), declare(t, other, other, address)
	request := askServing(t, name, address)
	waitServing(t, name, metav1.ConditionFalse, csr.ReasonAddressDeclaredElsewhere)
	c := waitCond(t, name, v1alpha1.ConditionServingCertificateApproved, metav1.ConditionFalse)
	if want := "remove it from spec.servingCertificate.addresses of " + other + ", and declare it in " + name; !strings.Contains(c.Message, want) {
		t.Errorf("the message does not say %q: %s", want, c.Message)
	}
	env.Change(t, cluster, before, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ServingCertificate.Addresses = []string{other} })
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) {
		nb.Spec.ServingCertificate.Addresses = append(nb.Spec.ServingCertificate.Addresses, address)
	})
	waitCondition(t, request, certificatesv1.CertificateApproved)
}

// CertificateNotIssued with a failed CSR: the kubelet's next CSR has another key, so only a reissue helps.
func TestSignerThatFailed(t *testing.T) {
	const name = "signer-failed"
	cluster.Create(t, cluster.NodeBootstrap(name))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	request := ask(t, kubeconfig, name, newKey(t))
	waitCondition(t, request, certificatesv1.CertificateApproved)
	env.Eventually(t, "the signer failing", func() error {
		cluster.Get(t, "", request.Name, request)
		request.Status.Conditions = append(request.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: "the CA has expired",
		})
		return cluster.Client.Status().Update(t.Context(), request)
	})
	at(t, 2*time.Minute)
	poke(t, name)
	nb := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonCertificateNotIssued)
	for _, want := range []string{"the CA has expired", "request a reissue"} {
		if got := env.ReadyMessage(nb); !strings.Contains(got, want) {
			t.Errorf("the message does not say %q: %s", want, got)
		}
	}
	_, again := reissue(t, name, "the signer works")
	waitCondition(t, ask(t, again, name, newKey(t)), certificatesv1.CertificateApproved)
}

// columns returns a NodeBootstrap's columns in kubectl get -o wide.
func columns(t *testing.T, name string) map[string]any {
	t.Helper()
	clients, err := kubernetes.NewForConfig(cluster.AdminConfig())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := clients.RESTClient().Get().AbsPath("/apis/nodebootstrap.io/v1alpha1/nodebootstraps/"+name).
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var table metav1.Table
	if err := json.Unmarshal(raw, &table); err != nil || len(table.Rows) != 1 {
		t.Fatalf("%v: %s", err, raw)
	}
	out := map[string]any{}
	for i, c := range table.ColumnDefinitions {
		out[c.Name] = table.Rows[0].Cells[i]
	}
	return out
}

// A binding that approves any name was invisible in kubectl get -o wide, next to READY True and an empty ALARM.
func TestBypassIsInTheColumns(t *testing.T) {
	const name = "bypass-in-columns"
	cluster.Create(t, cluster.NodeBootstrap(name))
	cluster.WaitAwaited(t, name)
	waitCond(t, name, v1alpha1.ConditionApprovalEnforced, metav1.ConditionTrue)
	if got := columns(t, name)["Enforced"]; got != "True" {
		t.Errorf("ENFORCED is %v", got)
	}
	cluster.Create(t, nodeclient("any-name-in-columns", rbacv1.Subject{Kind: rbacv1.GroupKind, Name: "system:bootstrappers"}))
	waitCond(t, name, v1alpha1.ConditionApprovalEnforced, metav1.ConditionFalse)
	if got := columns(t, name); got["Enforced"] != "False" || got["Ready"] != "True" {
		t.Errorf("the columns are %v", got)
	}
}

// The API server accepts the examples in its error messages.
func TestExamplesInRefusalsAreTaken(t *testing.T) {
	var found unstructured.Unstructured
	found.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
	cluster.Get(t, "", rbac.CRDName, &found)
	var crd apiextensionsv1.CustomResourceDefinition
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(found.Object, &crd); err != nil {
		t.Fatal(err)
	}
	spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	tried := 0
	var walk func(path []string, inList bool, s *apiextensionsv1.JSONSchemaProps)
	walk = func(path []string, inList bool, s *apiextensionsv1.JSONSchemaProps) {
		for _, rule := range s.XValidations {
			for _, example := range examplesIn(rule.Message + rule.MessageExpression) {
				tried++
				var value any = example
				if inList {
					value = []any{example}
				}
				nb := &unstructured.Unstructured{Object: map[string]any{}}
				nb.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("NodeBootstrap"))
				nb.SetName("example")
				if err := unstructured.SetNestedField(nb.Object, value, append([]string{"spec"}, path...)...); err != nil {
					t.Fatal(err)
				}
				if err := client.NewDryRunClient(cluster.Client).Create(t.Context(), nb); err != nil {
					t.Errorf("%v: %q: %v", path, example, err)
				}
			}
		}
		for name, property := range s.Properties {
			walk(append(slices.Clone(path), name), false, &property)
		}
		if s.Items != nil && s.Items.Schema != nil {
			walk(path, true, s.Items.Schema)
		}
	}
	walk(nil, false, &spec)
	if tried < 10 {
		t.Errorf("only %d examples are found", tried)
	}
}

var exampleText = regexp.MustCompile(`write for example ([^']*)`)

// examplesIn returns the examples at the end of a message, up to a full stop.
func examplesIn(message string) []string {
	m := exampleText.FindStringSubmatch(message)
	if m == nil {
		return nil
	}
	text, _, _ := strings.Cut(m[1], ". ")
	return strings.Split(strings.ReplaceAll(text, " or ", ", "), ", ")
}

// README.md says which wrong input the API server rejects, which becomes a condition, and which is not checked.
func TestWhatIsNotRefused(t *testing.T) {
	noCertificate := "-----BEGIN CERTIFICATE-----\nbm8gY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n"
	for name, tc := range map[string]struct {
		cluster v1alpha1.ClusterSpec
		status  metav1.ConditionStatus
		reason  string
	}{
		"unchecked-pem":    {v1alpha1.ClusterSpec{Server: cluster.Server(), CABundle: noCertificate}, metav1.ConditionFalse, v1alpha1.ReasonCAInvalid},
		"unchecked-server": {v1alpha1.ClusterSpec{Server: "https://192.0.2.1:6443"}, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode},
		"unchecked-ca":     {v1alpha1.ClusterSpec{Server: cluster.Server(), CABundle: string(cluster.ClientCA())}, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode},
	} {
		t.Run(name, func(t *testing.T) {
			nb := cluster.NodeBootstrap(name)
			nb.Spec.Cluster = tc.cluster
			cluster.Create(t, nb)
			cluster.WaitReady(t, name, tc.status, tc.reason)
		})
	}
}
