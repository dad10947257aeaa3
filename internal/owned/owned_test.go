// SPDX-License-Identifier: Apache-2.0

package owned_test

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
)

func TestRestored(t *testing.T) {
	tests := map[string]struct {
		edit    func(*corev1.Secret)
		differs bool
	}{
		"as it should be":      {func(*corev1.Secret) {}, false},
		"another's label":      {func(s *corev1.Secret) { s.Labels["team"] = "a" }, false},
		"another's annotation": {func(s *corev1.Secret) { s.Annotations["team"] = "a" }, false},
		"what the server adds": {func(s *corev1.Secret) {
			s.ResourceVersion, s.ManagedFields = "7", []metav1.ManagedFieldsEntry{{Manager: "x"}}
		}, false},
		"the kubeconfig edited":   {func(s *corev1.Secret) { s.Data[kubeconfig.Key] = []byte("x") }, true},
		"the CA taken out":        {func(s *corev1.Secret) { delete(s.Data, kubeconfig.CAKey) }, true},
		"another key":             {func(s *corev1.Secret) { s.Data["x"] = nil }, true},
		"no data":                 {func(s *corev1.Secret) { s.Data = nil }, true},
		"our label taken out":     {func(s *corev1.Secret) { s.Labels = nil }, true},
		"our label edited":        {func(s *corev1.Secret) { s.Labels[owned.ManagedByLabel] = "helm" }, true},
		"our annotation out":      {func(s *corev1.Secret) { s.Annotations = nil }, true},
		"the node's name edited":  {func(s *corev1.Secret) { s.Annotations[owned.NodeNameAnnotation] = "x" }, true},
		"no owner":                {func(s *corev1.Secret) { s.OwnerReferences = nil }, true},
		"a former owner":          {func(s *corev1.Secret) { s.OwnerReferences[0].UID = nodetest.FormerUID }, true},
		"a second owner":          {func(s *corev1.Secret) { s.OwnerReferences = append(s.OwnerReferences, metav1.OwnerReference{UID: "x"}) }, true},
		"an owner, not in charge": {func(s *corev1.Secret) { s.OwnerReferences[0].Controller = nil }, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			want, have := nodetest.KubeconfigSecret(1), nodetest.KubeconfigSecret(1)
			have.Labels["mine"], have.Annotations["mine"] = "yes", "yes"
			tt.edit(have)
			before := have.DeepCopy()
			got := owned.Restored(have, want)
			if (got != nil) != tt.differs {
				t.Fatalf("got %v", got)
			}
			if !reflect.DeepEqual(have, before) {
				t.Error("the input was changed, which may be in a cache")
			}
			if got == nil {
				return
			}
			if owned.Restored(got, want) != nil {
				t.Error("the restored Secret still differs")
			}
			if have.Labels != nil && got.Labels["mine"] != "yes" || have.Annotations != nil && got.Annotations["mine"] != "yes" {
				t.Errorf("others' labels %v or annotations %v were removed", got.Labels, got.Annotations)
			}
		})
	}
}

func TestOurs(t *testing.T) {
	tests := map[string]struct {
		edit func(*corev1.Secret)
		want bool
	}{
		"unchanged":               {func(*corev1.Secret) {}, true},
		"of a former one":         {func(s *corev1.Secret) { s.OwnerReferences[0].UID = nodetest.FormerUID }, true},
		"of an older API version": {func(s *corev1.Secret) { s.OwnerReferences[0].APIVersion = "nodebootstrap.io/v1" }, true},
		"edited labels":           {func(s *corev1.Secret) { s.Labels, s.Annotations = nil, nil }, true},
		"an orphan":               {func(s *corev1.Secret) { s.OwnerReferences = nil }, true},
		"an orphan, no label":     {func(s *corev1.Secret) { s.OwnerReferences, s.Labels = nil, nil }, false},
		"an orphan, no name":      {func(s *corev1.Secret) { s.OwnerReferences, s.Annotations = nil, nil }, false},
		"another node's orphan":   {func(s *corev1.Secret) { s.OwnerReferences, s.Annotations[owned.NodeNameAnnotation] = nil, "worker-2" }, false},
		"another manager's":       {func(s *corev1.Secret) { s.OwnerReferences, s.Labels[owned.ManagedByLabel] = nil, "helm" }, false},
		"another node's":          {func(s *corev1.Secret) { s.OwnerReferences[0].Name = "worker-2" }, false},
		"another kind's":          {func(s *corev1.Secret) { s.OwnerReferences[0].Kind = "Machine" }, false},
		"another group's":         {func(s *corev1.Secret) { s.OwnerReferences[0].APIVersion = "nodebootstrap.io.example.com/v1alpha1" }, false},
		"owned, not in charge":    {func(s *corev1.Secret) { s.OwnerReferences[0].Controller = nil; s.Labels = nil }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := nodetest.TokenSecret(1, nodetest.Young)
			tt.edit(s)
			if got := owned.Ours(s, nodetest.NodeName); got != tt.want {
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
		"a token's Secret":       {nodetest.TokenSecret(1, nodetest.Young).ObjectMeta, nodetest.NodeName},
		"a kubeconfig":           {nodetest.KubeconfigSecret(1).ObjectMeta, nodetest.NodeName},
		"a kubeconfig, by name":  {metav1.ObjectMeta{Name: "bootstrap-kubeconfig-worker-2"}, "worker-2"},
		"the annotation decides": {metav1.ObjectMeta{Name: "bootstrap-kubeconfig-worker-2", Annotations: map[string]string{owned.NodeNameAnnotation: nodetest.NodeName}}, nodetest.NodeName},
		"another's":              {metav1.ObjectMeta{Name: "worker-2"}, ""},
		"a token without a node": {metav1.ObjectMeta{Name: "bootstrap-token-abc123"}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := owned.NodeOf(&tt.child); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
