// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

func TestStray(t *testing.T) {
	groups := func(text string) func(*corev1.Secret) {
		return func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte(text) }
	}
	bare := func(s *corev1.Secret) { s.Labels, s.Annotations, s.OwnerReferences = nil, nil, nil }
	tests := map[string]struct {
		edit func(*corev1.Secret)
		want bool
	}{
		"unchanged":               {func(*corev1.Secret) {}, false},
		"no label":                {func(s *corev1.Secret) { s.Labels = nil }, false},
		"no annotation":           {func(s *corev1.Secret) { s.Annotations = nil }, false},
		"no owner":                {func(s *corev1.Secret) { s.OwnerReferences = nil }, false},
		"no owner, no label":      {func(s *corev1.Secret) { s.OwnerReferences, s.Labels = nil, nil }, true},
		"no owner, no annotation": {func(s *corev1.Secret) { s.OwnerReferences, s.Annotations = nil, nil }, true},
		"another kind of owner":   {func(s *corev1.Secret) { s.OwnerReferences[0].Kind = "ConfigMap" }, true},
		"nothing":                 {bare, true},
		"nothing, cluster-wide":   {func(s *corev1.Secret) { bare(s); groups("system:bootstrappers:a," + token.ClusterWideGroup)(s) }, true},
		"nothing, another group":  {func(s *corev1.Secret) { bare(s); groups(token.Group + "2")(s) }, false},
		"nothing, a space":        {func(s *corev1.Secret) { bare(s); groups(" " + token.Group)(s) }, false},
		"nothing, another type":   {func(s *corev1.Secret) { bare(s); s.Type = corev1.SecretTypeOpaque }, false},
		"another namespace":       {func(s *corev1.Secret) { bare(s); s.Namespace = metav1.NamespaceDefault }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := nodetest.TokenSecret(1, nodetest.Young)
			tt.edit(s)
			if got := token.Stray(s); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
