// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/test/env"
	"github.com/nodebootstrap/nodebootstrap/test/rendered"
)

// The namespace admits only Pods of the Pod Security Standard restricted, and admits ours: kube-controller-manager has created
// them.
func TestPodsAreMadeInARestrictedNamespace(t *testing.T) {
	var namespace corev1.Namespace
	cluster.Get(t, "", operator.Namespace, &namespace)
	if got := namespace.Labels["pod-security.kubernetes.io/enforce"]; got != "restricted" {
		t.Fatalf("the namespace enforces %q", got)
	}
	env.Eventually(t, "the Pods of the Deployment", func() error {
		var pods corev1.PodList
		err := cluster.Client.List(t.Context(), &pods, client.InNamespace(operator.Namespace))
		if err == nil && len(pods.Items) != 2 {
			err = fmt.Errorf("there are %d, want 2", len(pods.Items))
		}
		return err
	})
}

// The same for the chart's Pods, without and with everything that mounts a volume.
func TestRestrictedNamespaceTakesRenderedPods(t *testing.T) {
	kustomized, err := rendered.Kustomize(t.Context(), "default")
	env.Must(t, err)
	chart, err := rendered.Helm(t.Context())
	env.Must(t, err)
	full, err := rendered.Helm(t.Context(), "--set=cluster.server=https://api.example.com:6443,cluster.ca=PEM,metrics.certSecret=tls")
	env.Must(t, err)
	for name, objects := range map[string]rendered.Objects{"kustomize": kustomized, "helm": chart, "helm with mounts": full} {
		t.Run(name, func(t *testing.T) {
			var deployment appsv1.Deployment
			o := objects[rendered.Key("Deployment", operator.Namespace, operator.ServiceAccount)]
			env.Must(t, runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &deployment, true))
			pod := &corev1.Pod{ObjectMeta: deployment.Spec.Template.ObjectMeta, Spec: deployment.Spec.Template.Spec}
			pod.Namespace, pod.Name = operator.Namespace, "tried"
			try := func() error { return client.NewDryRunClient(cluster.Client).Create(t.Context(), pod.DeepCopy()) }
			env.Check(t, try())
			pod.Spec.SecurityContext.SeccompProfile = nil
			if err := try(); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "PodSecurity") {
				t.Errorf("a Pod without a seccomp profile is not refused: %v", err)
			}
		})
	}
}

// The API server accepts all objects of the chart, with strict field validation.
func TestAPIServerTakesTheChart(t *testing.T) {
	objects, err := rendered.Helm(t.Context(), "--set=networkPolicy.enabled=true,cage.enabled=true,guard.enabled=true,limits.enabled=true,kubeadm.enabled=true,cluster.ca=PEM")
	env.Must(t, err)
	strict := client.WithFieldValidation(client.NewDryRunClient(cluster.Client), metav1.FieldValidationStrict)
	for key, o := range objects {
		if err := strict.Create(t.Context(), o); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// kube-controller-manager type-checks the policies' expressions, and has no warnings.
func TestPoliciesAreWellTyped(t *testing.T) {
	var policies admissionregistrationv1.ValidatingAdmissionPolicyList
	env.Eventually(t, "the check of the types", func() error {
		policies = admissionregistrationv1.ValidatingAdmissionPolicyList{}
		if err := cluster.Client.List(t.Context(), &policies); err != nil {
			return err
		}
		for _, p := range policies.Items {
			if p.Status.ObservedGeneration != p.Generation {
				return fmt.Errorf("%s is not checked yet", p.Name)
			}
		}
		return nil
	})
	if len(policies.Items) != 8 {
		t.Errorf("there are %d policies, want 8", len(policies.Items))
	}
	for _, p := range policies.Items {
		if p.Status.TypeChecking != nil {
			for _, w := range p.Status.TypeChecking.ExpressionWarnings {
				t.Errorf("%s: %s: %s", p.Name, w.FieldRef, w.Warning)
			}
		}
	}
}

// The operator does its whole job under its policies, and is never refused: bindings, token, kubeconfig, status, verdict,
// revocation, and the same again for a reissue.
func TestNodeJoinsWithPoliciesInForce(t *testing.T) {
	const name = "caged-node"
	before, err := audit.Entries()
	env.Must(t, err)
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	kubelet, err := cluster.StartKubelet(t.Context(), localcluster.KubeletConfig{NodeName: name, BootstrapKubeconfig: kubeconfig})
	env.Must(t, err)
	t.Cleanup(func() {
		env.Check(t, kubelet.Stop())
		env.Check(t, cluster.Client.Delete(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	})
	cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonJoined)
	env.Check(t, cluster.NothingLeft(t.Context(), name))
	jane := as(t, owner) // may not reissue for a member, as the administrator may
	refused(t, limits, func() error {
		member := nb.DeepCopy()
		cluster.Get(t, "", name, member)
		reissue(member)
		return jane.Update(t.Context(), member)
	})
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) {
		nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "once"}
	})
	cluster.WaitAwaited(t, name)
	cluster.Delete(t, nb)
	env.Eventually(t, "the deletion of the credential", func() error { return cluster.NothingLeft(t.Context(), name) })
	after, err := audit.Entries()
	env.Must(t, err)
	for _, e := range after[len(before):] {
		if e.ResponseStatus.Code == http.StatusForbidden || e.ResponseStatus.Code == http.StatusUnprocessableEntity {
			t.Errorf("the operator was refused: %s", e)
		}
	}
}
