// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/nodebootstrap/nodebootstrap/internal/version"
)

func leaderLease(namespace, operator string) *coordinationv1.Lease {
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "nodebootstrap.nodebootstrap.io", Labels: map[string]string{"app.kubernetes.io/version": operator}}}
}

func managers(namespace, image string) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "nodebootstrap-manager", Labels: map[string]string{"app.kubernetes.io/name": "nodebootstrap"}}}
	d.Spec.Template.Spec.Containers = []corev1.Container{{Image: image}}
	return d
}

func TestVersion(t *testing.T) {
	plugin := "Plugin:    " + version.Name() + ", go"
	denied := forbidden(schema.GroupResource{Resource: "leases"}, "")
	for name, tc := range map[string]struct {
		cluster cluster
		args    []string
		want    []string
		without string
	}{
		"the same":        {cluster{objects: []client.Object{leaderLease(namespace, version.Name())}}, nil, []string{plugin, "Operator:  " + version.Name() + ", in the namespace nodebootstrap-system\n"}, "!"},
		"another":         {cluster{objects: []client.Object{leaderLease(namespace, "v9.9.9"), managers(namespace, "registry:5000/nodebootstrap:v1.0.0")}}, nil, []string{"Operator:  v9.9.9", "image registry:5000/nodebootstrap:v1.0.0", "! the plugin is " + version.Name() + " and the operator is v9.9.9"}, ""},
		"only an image":   {cluster{objects: []client.Object{managers(namespace, "registry:5000/nodebootstrap:v1.0.0@sha256:00")}}, nil, []string{"Operator:  v1.0.0,", "the operator is v1.0.0"}, ""},
		"a moving tag":    {cluster{objects: []client.Object{managers(namespace, "nodebootstrap:latest")}}, nil, []string{"Operator:  unknown version", "image nodebootstrap:latest"}, "!"},
		"no tag":          {cluster{objects: []client.Object{managers(namespace, "registry:5000/nodebootstrap")}}, nil, []string{"Operator:  unknown version"}, "!"},
		"elsewhere":       {cluster{objects: []client.Object{leaderLease("ops", "v9.9.9")}}, []string{"-n", "ops"}, []string{"Operator:  v9.9.9, in the namespace ops"}, ""},
		"not found":       {cluster{}, nil, []string{plugin, "Operator:  unknown: the operator was not found in the namespace nodebootstrap-system. If it is installed elsewhere, add --namespace\n"}, "!"},
		"no cluster":      {cluster{err: errors.New("no configuration")}, nil, []string{plugin, "Operator:  unknown: no configuration\n"}, "!"},
		"only the client": {cluster{err: errors.New("no configuration")}, []string{"--client"}, []string{plugin}, "Operator"},
		"forbidden": {cluster{funcs: interceptor.Funcs{
			Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
				return denied
			},
			List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error { return denied },
		}}, nil, []string{"Operator:  unknown: cannot read the operator's version", "no rule allows it"}, "!"},
		"forbidden Lease": {cluster{objects: []client.Object{managers(namespace, "nodebootstrap:v1.0.0")}, funcs: interceptor.Funcs{
			Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
				return denied
			},
		}}, nil, []string{"Operator:  v1.0.0"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := tc.cluster.succeeds(t, append([]string{"version"}, tc.args...)...)
			mention(t, "the output", r.out, tc.want...)
			if tc.without != "" && strings.Contains(r.out, tc.without) {
				t.Errorf("it says %q:\n%s", tc.without, r.out)
			}
		})
	}
	var v versions
	r := cluster{objects: []client.Object{leaderLease(namespace, "v9.9.9")}}.succeeds(t, "version", "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &v); err != nil {
		t.Fatal(err)
	}
	if v.Client != version.This() || v.Operator == nil || v.Operator.Version != "v9.9.9" || v.Skew == "" {
		t.Errorf("as JSON it is %s", r.out)
	}
	if r := (cluster{}).succeeds(t, "-v"); r.out != version.String()+"\n" {
		t.Errorf("-v prints %q", r.out)
	}
}
