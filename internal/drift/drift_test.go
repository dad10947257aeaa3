// SPDX-License-Identifier: Apache-2.0

package drift_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/drift"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

func TestSecretDifference(t *testing.T) {
	tests := map[string]struct {
		edit          func(*corev1.Secret)
		needed, other []string
	}{
		"nothing":                {func(*corev1.Secret) {}, nil, nil},
		"immutable":              {func(s *corev1.Secret) { s.Immutable = new(true) }, nil, nil},
		"a label of others":      {func(s *corev1.Secret) { s.Labels["mine"] = "yes" }, nil, nil},
		"no label":               {func(s *corev1.Secret) { s.Labels = nil }, nil, []string{"metadata.labels[" + owned.ManagedByLabel + "]"}},
		"another label":          {func(s *corev1.Secret) { s.Labels[owned.ManagedByLabel] = "x" }, nil, []string{"metadata.labels[" + owned.ManagedByLabel + "]"}},
		"no annotation":          {func(s *corev1.Secret) { delete(s.Annotations, owned.NodeNameAnnotation) }, nil, []string{"metadata.annotations[" + owned.NodeNameAnnotation + "]"}},
		"created for no reissue": {func(s *corev1.Secret) { delete(s.Annotations, v1alpha1.ReissueRequestedAtAnnotation) }, []string{"metadata.annotations[" + v1alpha1.ReissueRequestedAtAnnotation + "]"}, nil},
		"no owner":               {func(s *corev1.Secret) { s.OwnerReferences = nil }, []string{"metadata.ownerReferences"}, nil},
		"another owner":          {func(s *corev1.Secret) { s.OwnerReferences[0].UID = nodetest.FormerUID }, []string{"metadata.ownerReferences"}, nil},
		"no controller":          {func(s *corev1.Secret) { s.OwnerReferences[0].Controller = nil }, []string{"metadata.ownerReferences"}, nil},
		"a further owner": {func(s *corev1.Secret) {
			s.OwnerReferences = append(s.OwnerReferences, metav1.OwnerReference{Kind: "Other"})
		}, nil, []string{"metadata.ownerReferences"}},
		"type":              {func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }, []string{"type"}, nil},
		"description":       {func(s *corev1.Secret) { s.Data[bootstrapapi.BootstrapTokenDescriptionKey] = nil }, nil, []string{"data.description"}},
		"further data":      {func(s *corev1.Secret) { s.Data["more"], s.Data["and-more"] = nil, nil }, nil, []string{"data"}},
		"groups":            {func(s *corev1.Secret) { s.Data[bootstrapapi.BootstrapTokenExtraGroupsKey] = []byte("x") }, []string{"data.auth-extra-groups"}, nil},
		"no usage":          {func(s *corev1.Secret) { delete(s.Data, bootstrapapi.BootstrapTokenUsageAuthentication) }, []string{"data.usage-bootstrap-authentication"}, nil},
		"expiration and id": {func(s *corev1.Secret) { s.Data["expiration"], s.Data["token-id"] = nil, nil }, []string{"data.expiration", "data.token-id"}, nil},
		"no data and no label": {func(s *corev1.Secret) { s.Data, s.Labels = nil, nil }, []string{"data.auth-extra-groups", "data.expiration",
			"data.token-id", "data.token-secret", "data.usage-bootstrap-authentication"}, []string{"data.description", "metadata.labels[" + owned.ManagedByLabel + "]"}},
	}
	nb := nodetest.NodeBootstrap()
	nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "again"}
	want := token.NewSecret(nb, nodetest.NthID(1), nodetest.Canary, nodetest.Now.Add(time.Hour))
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			have := want.DeepCopy()
			tt.edit(have)
			got := drift.OfSecret(have, want)
			if !slices.Equal(got.Needed, tt.needed) || !slices.Equal(got.Other, tt.other) {
				t.Errorf("got %q and %q", got.Needed, got.Other)
			}
			problem := (&drift.Interference{Object: "Secret x", Difference: got, ByAdmission: true}).Problem()
			nodetest.Leaks(t, "the message", problem.Message)
		})
	}
}

// The cache has only a digest of a kubeconfig Secret's data.
func TestSecretDifferenceOfADigest(t *testing.T) {
	want := nodetest.KubeconfigSecret(1)
	have := want.DeepCopy()
	have.Data = kubeconfig.Digest(have.Data)
	if got := drift.OfSecret(have, want); len(got.Fields()) > 0 {
		t.Errorf("of the same data: %q", got.Fields())
	}
	have.Data = kubeconfig.Digest(map[string][]byte{})
	if got := drift.OfSecret(have, want); !slices.Equal(got.Needed, []string{"data"}) {
		t.Errorf("of other data: %q", got.Needed)
	}
}

func TestBindingDifference(t *testing.T) {
	want := rbac.Binding(rbac.BindingCreateCSRs)
	want.OwnerReferences = []metav1.OwnerReference{{Kind: "CustomResourceDefinition", Name: rbac.CRDName}}
	for name, tt := range map[string]struct {
		edit          func(*rbacv1.ClusterRoleBinding)
		needed, other int
	}{
		"nothing":           {func(*rbacv1.ClusterRoleBinding) {}, 0, 0},
		"no label":          {func(b *rbacv1.ClusterRoleBinding) { b.Labels = nil }, 0, 1},
		"no owner":          {func(b *rbacv1.ClusterRoleBinding) { b.OwnerReferences = nil }, 0, 1},
		"neither":           {func(b *rbacv1.ClusterRoleBinding) { b.Labels, b.OwnerReferences = nil, nil }, 2, 0},
		"no subjects":       {func(b *rbacv1.ClusterRoleBinding) { b.Subjects = nil }, 1, 0},
		"a further subject": {func(b *rbacv1.ClusterRoleBinding) { b.Subjects = append(b.Subjects, rbacv1.Subject{}) }, 1, 0},
		"another role":      {func(b *rbacv1.ClusterRoleBinding) { b.RoleRef.Name = "cluster-admin" }, 1, 0},
		"a label of others": {func(b *rbacv1.ClusterRoleBinding) { b.Labels["mine"] = "yes" }, 0, 0},
	} {
		have := want.DeepCopy()
		tt.edit(have)
		if got := drift.OfBinding(have, want); len(got.Needed) != tt.needed || len(got.Other) != tt.other {
			t.Errorf("%s: %q and %q", name, got.Needed, got.Other)
		}
	}
}

// Fields that an older CustomResourceDefinition drops do no harm; those that decisions use must be stored.
func TestStatusDifference(t *testing.T) {
	sent := nodetest.StatusOf(1, time.Hour)
	sent.Certificates = []v1alpha1.CertificateDecision{nodetest.DeniedDecision("a", 1, time.Minute)}
	sent.Certificates[0].Message = "said"
	sent.Keys, sent.APIServerHosts, sent.CAFingerprint = []v1alpha1.SentKey{{Name: "a"}}, []string{"a"}, "SHA256:a"
	sent.AwaitingSince = &metav1.Time{Time: nodetest.Now.Add(time.Nanosecond)}
	stored := func(edit func(*v1alpha1.NodeBootstrapStatus)) *v1alpha1.NodeBootstrapStatus {
		s := sent.DeepCopy()
		s.AwaitingSince = &metav1.Time{Time: nodetest.Now} // whole seconds
		edit(s)
		return s
	}
	for name, tt := range map[string]struct {
		edit          func(*v1alpha1.NodeBootstrapStatus)
		needed, other []string
	}{
		"nothing": {func(*v1alpha1.NodeBootstrapStatus) {}, nil, nil},
		"an older CRD": {func(s *v1alpha1.NodeBootstrapStatus) {
			s.Keys, s.APIServerHosts, s.CAFingerprint, s.Certificates[0].Message = nil, nil, "", ""
		}, nil, []string{"status.apiServerHosts", "status.caFingerprint", "status.certificates", "status.keys"}},
		"no token":        {func(s *v1alpha1.NodeBootstrapStatus) { s.Token = nil }, []string{"status.token"}, nil},
		"another id":      {func(s *v1alpha1.NodeBootstrapStatus) { s.LastTokenID = "aaaaaa" }, []string{"status.lastTokenID"}, nil},
		"no decisions":    {func(s *v1alpha1.NodeBootstrapStatus) { s.Certificates = nil }, []string{"status.certificates"}, nil},
		"another verdict": {func(s *v1alpha1.NodeBootstrapStatus) { s.Certificates[0].Verdict = v1alpha1.VerdictApproved }, []string{"status.certificates"}, nil},
		"no conditions":   {func(s *v1alpha1.NodeBootstrapStatus) { s.Conditions = nil }, []string{"status.conditions"}, nil},
		"something more":  {func(s *v1alpha1.NodeBootstrapStatus) { s.NodeUID = "a" }, []string{"status.nodeUID"}, nil},
	} {
		if got := drift.OfStatus(stored(tt.edit), &sent); !slices.Equal(got.Needed, tt.needed) || !slices.Equal(got.Other, tt.other) {
			t.Errorf("%s: %q and %q", name, got.Needed, got.Other)
		}
	}
}

// Messages name the object and at most a few fields.
func TestInterferenceProblem(t *testing.T) {
	i := drift.Interference{Object: "Secret a/b", Difference: drift.Difference{Needed: slices.Repeat([]string{"data.x"}, 20), Other: []string{"type"}}}
	for _, i.ByAdmission = range []bool{true, false} {
		p := i.Problem()
		if !strings.Contains(p.Message, "Secret a/b") || strings.Count(p.Message, "data.x") != drift.MaxFields {
			t.Errorf("%s: %s", p.Reason, p.Message)
		}
	}
}
