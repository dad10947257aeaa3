// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/duration"
	utilversion "k8s.io/apimachinery/pkg/util/version"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/version"
)

// installCommand installs what docs/install.md renders.
const installCommand = "kubectl apply -f dist/install.yaml"

// crdCommand works in a clone of the repository.
const crdCommand = "kubectl apply -k config/crd"

func crd(f *Facts) []Result {
	switch {
	case f.CRD.Err != nil:
		return unread(f.CRD.Err)
	case f.CRD.Value == nil:
		return failed(crdCommand, "the CustomResourceDefinition does not exist: the operator is not installed")
	}
	schema, served := servedSchema(f.CRD.Value)
	if !served {
		return failed(crdCommand, "it does not serve %s yet. If it lasts, apply the CustomResourceDefinition of this version, in the chart by helm upgrade", v1alpha1.GroupVersion)
	}
	if missing := missingFields(reflect.TypeFor[v1alpha1.NodeBootstrap](), schema, ""); len(missing) > 0 {
		return failed(crdCommand, "it is of an earlier version than this plugin, without %s. Apply that of this version, in the chart by helm upgrade",
			strings.Join(missing[:min(len(missing), 5)], ", "))
	}
	return passed("it serves %s, with all fields of this version", v1alpha1.GroupVersion)
}

// servedSchema is the schema of our version in an established CustomResourceDefinition.
func servedSchema(crd map[string]any) (map[string]any, bool) {
	established := false
	conditions, _, _ := unstructured.NestedSlice(crd, "status", "conditions")
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == "Established" && c["status"] == "True" {
			established = true
		}
	}
	versions, _, _ := unstructured.NestedSlice(crd, "spec", "versions")
	for _, v := range versions {
		if v, ok := v.(map[string]any); ok && v["name"] == v1alpha1.GroupVersion.Version && v["served"] == true {
			schema, found, _ := unstructured.NestedMap(v, "schema", "openAPIV3Schema")
			return schema, established && found
		}
	}
	return nil, false
}

// missingFields are the fields of a Go type of ours that a schema lacks.
func missingFields(t reflect.Type, schema map[string]any, path string) []string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Slice {
		items, _ := schema["items"].(map[string]any)
		return missingFields(t.Elem(), items, path)
	}
	if t.Kind() != reflect.Struct || t.PkgPath() != reflect.TypeFor[v1alpha1.NodeBootstrap]().PkgPath() {
		return nil
	}
	properties, _ := schema["properties"].(map[string]any)
	var out []string
	for i := range t.NumField() {
		field := t.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		below, found := properties[name].(map[string]any)
		if !found {
			out = append(out, path+name)
			continue
		}
		out = append(out, missingFields(field.Type, below, path+name+".")...)
	}
	return out
}

func operatorRunning(f *Facts) []Result {
	d := f.Deployment.Value
	switch {
	case f.Deployment.Err != nil:
		return unread(f.Deployment.Err)
	case d == nil && f.leads():
		return passed("it runs outside the cluster: there is no Deployment with the label app.kubernetes.io/name=nodebootstrap")
	case d == nil:
		return failed(installCommand, "there is no Deployment with the label app.kubernetes.io/name=nodebootstrap")
	case wanted(d) == 0:
		return failed(fmt.Sprintf("kubectl scale -n %s deployment/%s --replicas=2", d.Namespace, d.Name), "the Deployment %s/%s has no replicas", d.Namespace, d.Name)
	case d.Status.ReadyReplicas > 0 && d.Status.ReadyReplicas < wanted(d):
		return warning(describePods(d), "%d of %d Pods of the Deployment %s/%s are ready%s", d.Status.ReadyReplicas, wanted(d), d.Namespace, d.Name, f.whyNotReady())
	case d.Status.ReadyReplicas > 0:
		return passed("%d of %d Pods of the Deployment %s/%s are ready", d.Status.ReadyReplicas, wanted(d), d.Namespace, d.Name)
	case f.leads():
		return warning(describePods(d), "no Pod of the Deployment %s/%s is ready%s. A manager outside the cluster does the work", d.Namespace, d.Name, f.whyNotReady())
	}
	return failed(describePods(d), "no Pod of the Deployment %s/%s is ready%s", d.Namespace, d.Name, f.whyNotReady())
}

func wanted(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

func describePods(d *appsv1.Deployment) string {
	return fmt.Sprintf("kubectl describe pods -n %s -l app.kubernetes.io/name=nodebootstrap", d.Namespace)
}

// whyNotReady is what the first Pod that is not ready says about it.
func (f *Facts) whyNotReady() string {
	for _, p := range f.Pods.Value {
		for _, c := range p.Status.ContainerStatuses {
			if w := c.State.Waiting; w != nil {
				return fmt.Sprintf(": the Pod %s waits: %s %.200s", p.Name, w.Reason, w.Message)
			}
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				return fmt.Sprintf(": the Pod %s is not scheduled: %.200s", p.Name, c.Message)
			}
		}
	}
	return ""
}

// leads reports whether a manager renews the Lease of the leader election.
func (f *Facts) leads() bool {
	l := f.Leader.Value
	return l != nil && holder(l) != "" && f.ServerTime.Before(heldUntil(l))
}

func holder(l *coordinationv1.Lease) string {
	if l.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.Spec.HolderIdentity
}

// leaseSlack is for the clocks: the holder of a Lease writes its own time, and that of the API server is known to the second.
const leaseSlack = 5 * time.Second

func heldUntil(l *coordinationv1.Lease) time.Time {
	if l.Spec.RenewTime == nil || l.Spec.LeaseDurationSeconds == nil {
		return time.Time{}
	}
	return l.Spec.RenewTime.Add(time.Duration(*l.Spec.LeaseDurationSeconds)*time.Second + leaseSlack)
}

func operatorLeading(f *Facts) []Result {
	restart := "bin/manager --kubeconfig KUBECONFIG --leader-elect"
	if d := f.Deployment.Value; d != nil {
		restart = fmt.Sprintf("kubectl rollout restart -n %s deployment/%s", d.Namespace, d.Name)
	}
	l := f.Leader.Value
	switch {
	case f.Leader.Err != nil:
		return unread(f.Leader.Err)
	case l == nil:
		return failed(restart, "no manager has ever led: there is no Lease in the namespace %s", f.Namespace)
	case holder(l) == "":
		return failed(restart, "no manager leads: the last one ended and gave the Lease back")
	case !f.leads():
		return failed(restart, "no manager leads: %s renewed the Lease last %s ago", holder(l), age(f, l.Spec.RenewTime.Time))
	}
	return passed("%s leads", holder(l))
}

func age(f *Facts, since time.Time) string { return duration.HumanDuration(f.ServerTime.Sub(since)) }

// OperatorVersion is the version of the operator: that of the label app.kubernetes.io/version of its Lease, which the manager that leads sets,
// or of its Deployment, which the chart sets, or else the tag of the image. Both can be nil. It is empty if none is a version.
func OperatorVersion(l *coordinationv1.Lease, d *appsv1.Deployment) string {
	var candidates []string
	if l != nil {
		candidates = append(candidates, l.Labels[version.Label])
	}
	if d != nil {
		candidates = append(candidates, d.Labels[version.Label])
		for _, c := range d.Spec.Template.Spec.Containers {
			image, _, _ := strings.Cut(c.Image, "@")
			_, tag, _ := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
			candidates = append(candidates, tag)
		}
	}
	i := slices.IndexFunc(candidates, func(v string) bool { _, err := utilversion.ParseSemantic(v); return err == nil })
	if i < 0 {
		return ""
	}
	return candidates[i]
}

func operatorVersion(f *Facts) []Result {
	if f.Deployment.Err != nil {
		return unread(f.Deployment.Err)
	}
	operator, err := utilversion.ParseSemantic(OperatorVersion(f.Leader.Value, f.Deployment.Value))
	plugin, pluginErr := utilversion.ParseSemantic(f.Plugin)
	switch {
	case err != nil:
		return skipped("unknown: neither the label %s of the Lease or of the Deployment nor the image has a version", version.Label)
	case pluginErr != nil:
		return skipped("v%s. This plugin is a build without a version", operator)
	case operator.Major() != plugin.Major() || operator.Minor() != plugin.Minor():
		return warning("", "v%s, and this plugin is v%s: use the plugin of the operator's version", operator, plugin)
	}
	return passed("v%s, and this plugin is v%s", operator, plugin)
}
