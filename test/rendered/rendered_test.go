// SPDX-License-Identifier: Apache-2.0

package rendered

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/diff"
)

// The chart installs the same objects as config/, so that tests of one apply to the other.
func TestChartIsConfig(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		values []string
	}{
		"default":   {"default", nil},
		"hardened":  {"overlays/hardened", []string{"--set=networkPolicy.enabled=true,cage.enabled=true,guard.enabled=true,limits.enabled=true"}},
		"kubeadm":   {"overlays/kubeadm", []string{"--set=networkPolicy.enabled=true,cage.enabled=true,guard.enabled=true,limits.enabled=true,kubeadm.enabled=true"}},
		"monitored": {"overlays/monitored", []string{"--set=networkPolicy.enabled=true,cage.enabled=true,guard.enabled=true,limits.enabled=true,serviceMonitor.enabled=true,prometheusRule.enabled=true,dashboard.enabled=true"}},
	} {
		t.Run(name, func(t *testing.T) {
			want, err := Kustomize(t.Context(), c.config)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Helm(t.Context(), c.values...)
			if err != nil {
				t.Fatal(err)
			}
			delete(want, Key("Namespace", "", namespace)) // helm creates the namespace with --create-namespace
			for _, key := range slices.Sorted(maps.Keys(want)) {
				switch {
				case got[key] == nil:
					t.Errorf("the chart has no %s", key)
				case !equality.Semantic.DeepEqual(want[key], withoutHelm(got[key])):
					t.Errorf("%s differs (- config, + chart): %s", key, diff.Diff(want[key].Object, got[key].Object))
				}
			}
			for key := range got {
				if want[key] == nil {
					t.Errorf("config/%s has no %s", c.config, key)
				}
			}
		})
	}
}

// withoutHelm is an object without the labels and annotations that only Helm needs.
func withoutHelm(o *unstructured.Unstructured) *unstructured.Unstructured {
	labels, annotations := o.GetLabels(), o.GetAnnotations()
	delete(labels, "app.kubernetes.io/managed-by")
	delete(labels, "app.kubernetes.io/instance")
	maps.DeleteFunc(labels, func(k, _ string) bool { return strings.HasPrefix(k, "helm.sh/") })
	maps.DeleteFunc(annotations, func(k, _ string) bool { return strings.HasPrefix(k, "helm.sh/") })
	o.SetLabels(labels)
	if len(annotations) > 0 || o.GetAnnotations() != nil {
		o.SetAnnotations(annotations)
	}
	return o
}

// Each value of the chart ends up where the manager reads it.
func TestChartValues(t *testing.T) {
	for name, c := range map[string]struct{ values, arg string }{
		"server":       {"--set=cluster.server=https://api.example.com:6443", "--cluster-server=https://api.example.com:6443"},
		"CA":           {"--set=cluster.ca=PEM", "--cluster-ca-file=/etc/nodebootstrap/ca/ca.crt"},
		"CA ConfigMap": {"--set=cluster.caConfigMap.name=theirs", "--cluster-ca-file=/etc/nodebootstrap/ca/ca.crt"},
		"certificate":  {"--set=metrics.certSecret=theirs", "--metrics-cert-dir=/etc/nodebootstrap/metrics"},
		"cluster-wide": {"--set=allowClusterWideApproval=true", "--allow-cluster-wide-approval"},
		"more":         {"--set=extraArgs={--zap-log-level=debug}", "--zap-log-level=debug"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Helm(t.Context(), c.values)
			if err != nil {
				t.Fatal(err)
			}
			containers, _, err := unstructured.NestedSlice(got[Key("Deployment", namespace, "nodebootstrap-manager")].Object, "spec", "template", "spec", "containers")
			if err != nil || len(containers) != 1 {
				t.Fatalf("containers are %v (%v)", containers, err)
			}
			args, _, err := unstructured.NestedStringSlice(containers[0].(map[string]any), "args")
			if err != nil || !slices.Contains(args, c.arg) {
				t.Errorf("the arguments are %q (%v), want %s among them", args, err, c.arg)
			}
		})
	}
	t.Run("misspelt", func(t *testing.T) {
		if _, err := Helm(t.Context(), "--set=cluster.sever=https://api.example.com"); err == nil {
			t.Error("a value that nothing reads is accepted")
		}
	})
}

// In another namespace no object mentions that of config/.
func TestChartInAnotherNamespace(t *testing.T) {
	objects, err := Helm(t.Context(), "--namespace=elsewhere", "--set=networkPolicy.enabled=true,cage.enabled=true,guard.enabled=true,limits.enabled=true,kubeadm.enabled=true,serviceMonitor.enabled=true,prometheusRule.enabled=true,dashboard.enabled=true")
	if err != nil {
		t.Fatal(err)
	}
	for key, o := range objects {
		if content, err := o.MarshalJSON(); err != nil || strings.Contains(string(content), namespace) {
			t.Errorf("%s names the namespace %s (%v)", key, namespace, err)
		}
	}
}
