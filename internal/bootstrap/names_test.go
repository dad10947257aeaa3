// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestOurs(t *testing.T) {
	tests := map[string]struct {
		edit func(*corev1.Secret)
		want bool
	}{
		"as it was made":          {func(*corev1.Secret) {}, true},
		"of a former one":         {func(s *corev1.Secret) { s.OwnerReferences[0].UID = formerUID }, true},
		"of an older API version": {func(s *corev1.Secret) { s.OwnerReferences[0].APIVersion = "nodebootstrap.io/v1" }, true},
		"edited labels":           {func(s *corev1.Secret) { s.Labels, s.Annotations = nil, nil }, true},
		"an orphan":               {func(s *corev1.Secret) { s.OwnerReferences = nil }, true},
		"an orphan, no label":     {func(s *corev1.Secret) { s.OwnerReferences, s.Labels = nil, nil }, false},
		"an orphan, no name":      {func(s *corev1.Secret) { s.OwnerReferences, s.Annotations = nil, nil }, false},
		"another node's orphan":   {func(s *corev1.Secret) { s.OwnerReferences, s.Annotations[NodeNameAnnotation] = nil, "worker-2" }, false},
		"another manager's":       {func(s *corev1.Secret) { s.OwnerReferences, s.Labels[ManagedByLabel] = nil, "helm" }, false},
		"another node's":          {func(s *corev1.Secret) { s.OwnerReferences[0].Name = "worker-2" }, false},
		"another kind's":          {func(s *corev1.Secret) { s.OwnerReferences[0].Kind = "Machine" }, false},
		"another group's":         {func(s *corev1.Secret) { s.OwnerReferences[0].APIVersion = "nodebootstrap.io.example.com/v1alpha1" }, false},
		"owned, not in charge":    {func(s *corev1.Secret) { s.OwnerReferences[0].Controller = nil; s.Labels = nil }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := tokenSecret(1, young)
			tt.edit(s)
			if got := Ours(s, testNode); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestNodeOfChild(t *testing.T) {
	tests := map[string]struct {
		child metav1.ObjectMeta
		want  string
	}{
		"a token's Secret":         {tokenSecret(1, young).ObjectMeta, testNode},
		"a kubeconfig":             {kubeconfigSecret(1).ObjectMeta, testNode},
		"a kubeconfig, by name":    {metav1.ObjectMeta{Name: "bootstrap-kubeconfig-worker-2"}, "worker-2"},
		"the annotation decides":   {metav1.ObjectMeta{Name: "bootstrap-kubeconfig-worker-2", Annotations: map[string]string{NodeNameAnnotation: testNode}}, testNode},
		"another's":                {metav1.ObjectMeta{Name: "worker-2"}, ""},
		"a token that is nobody's": {metav1.ObjectMeta{Name: "bootstrap-token-abc123"}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := NodeOfChild(&tt.child); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTokenIDOfUser(t *testing.T) {
	for user, want := range map[string]string{
		"system:bootstrap:abc123":   "abc123",
		"system:bootstrap:ABC123":   "",
		"system:bootstrap:abc1234":  "",
		"system:bootstrap:":         "",
		"system:bootstrap:abc123\n": "",
		"system:node:abc123":        "",
		"abc123":                    "",
		"":                          "",
	} {
		if got := TokenIDOfUser(user); got != want {
			t.Errorf("%q: got %q, want %q", user, got, want)
		}
	}
}
