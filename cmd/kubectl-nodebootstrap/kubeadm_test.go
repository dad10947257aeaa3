// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
)

// The output is the same whatever can be found out about kubeadm.
func TestWarningForKubeadm(t *testing.T) {
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: kubeadmConfig}}
	secret := renderedSecret(t)
	published := string(secret.Data[kubeconfig.Key])
	for name, tc := range map[string]struct {
		args    []string
		kubeadm bool
		forUser error
		answer  bool
		err     error
		asks    bool
		warns   bool
	}{
		"not a kubeadm cluster":        {},
		"the user may not know":        {kubeadm: true, forUser: forbidden(corev1.Resource("configmaps"), kubeadmConfig)},
		"the component is installed":   {kubeadm: true, asks: true, answer: true},
		"the component is missing":     {kubeadm: true, asks: true, warns: true},
		"the token is not valid (yet)": {kubeadm: true, asks: true, err: errors.New("Unauthorized")},
		"userdata":                     {args: []string{"userdata", node, "--with", "kubeadm"}, kubeadm: true, asks: true, warns: true},
		"userdata without kubeadm":     {args: []string{"userdata", node, "--with", "kubelet"}, kubeadm: true},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.args == nil {
				tc.args = []string{"kubeconfig", node}
			}
			cl := cluster{objects: []client.Object{awaiting(), secret.DeepCopy()}}
			if tc.kubeadm {
				cl.objects = append(cl.objects, config.DeepCopy())
			}
			if tc.forUser != nil {
				cl.funcs = failingGet[*corev1.ConfigMap](tc.forUser)
			}
			c := cl.client(t)
			var asked []authorizationv1.ResourceAttributes
			connectWithToken := func(token string) (client.Client, error) {
				if token != "abcdef."+canary {
					t.Errorf("it connects with %q", token)
				}
				return interceptor.NewClient(c, interceptor.Funcs{
					Create: func(_ context.Context, _ client.WithWatch, o client.Object, _ ...client.CreateOption) error {
						review := o.(*authorizationv1.SelfSubjectAccessReview)
						asked = append(asked, *review.Spec.ResourceAttributes)
						review.Status.Allowed = tc.answer
						return tc.err
					},
				}), nil
			}
			streams, _, out, errOut := genericiooptions.NewTestIOStreams()
			cmd := newCommand(streams, func() (client.WithWatch, error) { return c, nil }, connectWithToken)
			cmd.SetArgs(tc.args)
			if err := cmd.ExecuteContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			if tc.args[0] == "kubeconfig" && out.String() != published {
				t.Errorf("it prints %q", out)
			}
			if warns := strings.Contains(errOut.String(), "kubectl apply -k config/components/kubeadm"); warns != tc.warns || strings.Contains(errOut.String(), canary) {
				t.Errorf("the error output is %q", errOut)
			}
			want := authorizationv1.ResourceAttributes{Verb: "get", Namespace: metav1.NamespaceSystem, Resource: "configmaps", Name: kubeadmConfig}
			if tc.asks != (len(asked) == 1) || tc.asks && asked[0] != want {
				t.Errorf("it asks for %+v", asked)
			}
		})
	}
}
