// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
		"as it is made":           {func(*corev1.Secret) {}, false},
		"no label":                {func(s *corev1.Secret) { s.Labels = nil }, false},
		"no annotation":           {func(s *corev1.Secret) { s.Annotations = nil }, false},
		"no owner":                {func(s *corev1.Secret) { s.OwnerReferences = nil }, false},
		"no owner, no label":      {func(s *corev1.Secret) { s.OwnerReferences, s.Labels = nil, nil }, true},
		"no owner, no annotation": {func(s *corev1.Secret) { s.OwnerReferences, s.Annotations = nil, nil }, true},
		"another kind of owner":   {func(s *corev1.Secret) { s.OwnerReferences[0].Kind = "ConfigMap" }, true},
		"nothing":                 {bare, true},
		"nothing, cluster-wide":   {func(s *corev1.Secret) { bare(s); groups("system:bootstrappers:a," + ClusterWideGroup)(s) }, true},
		"nothing, another group":  {func(s *corev1.Secret) { bare(s); groups(Group + "2")(s) }, false},
		"nothing, a space":        {func(s *corev1.Secret) { bare(s); groups(" " + Group)(s) }, false},
		"nothing, another type":   {func(s *corev1.Secret) { bare(s); s.Type = corev1.SecretTypeOpaque }, false},
		"another namespace":       {func(s *corev1.Secret) { bare(s); s.Namespace = metav1.NamespaceDefault }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := tokenSecret(1, young)
			tt.edit(s)
			if got := Stray(s); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// A token is known by its id when its Secret tells nothing else.
func TestGave(t *testing.T) {
	nb := nodeBootstrap()
	if nb.Status.LastTokenID = ""; Gave(nb, nthID(1)) {
		t.Error("a NodeBootstrap without a token has given an id")
	}
	nb.Status = statusOf(4, young)
	for n, want := range map[int]bool{1: true, 3: true, 4: true, 5: false, 9: false} {
		if got := Gave(nb, nthID(n)); got != want {
			t.Errorf("the id %d: got %v", n, got)
		}
	}
	if nb.Status.LastTokenID = ""; !Gave(nb, nthID(4)) || !Gave(nb, nthID(2)) || Gave(nb, nthID(5)) {
		t.Error("the id of the present token does not tell")
	}
	for _, id := range []string{"", "abcdef"} {
		if Gave(nb, id) {
			t.Errorf("%q was given", id)
		}
	}
	if TokenIDOfSecret("bootstrap-token-abcdef") != "abcdef" || TokenIDOfSecret("bootstrap-token-ABC") != "" || TokenIDOfSecret("abcdef") != "" {
		t.Error("ids are not those of the Secrets' names")
	}
}
