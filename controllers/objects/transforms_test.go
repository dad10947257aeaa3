// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"reflect"
	"runtime/debug"
	"strings"
	"testing"
	"time"
	"unsafe"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

func transformed[T runtime.Object](t *testing.T, f toolscache.TransformFunc, o T) T {
	t.Helper()
	out, err := f(o.DeepCopyObject())
	if err != nil {
		t.Fatal(err)
	}
	return out.(T)
}

func wanted(name string) *v1alpha1.NodeBootstrap {
	return &v1alpha1.NodeBootstrap{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: "u", ResourceVersion: "1", Generation: 2, Labels: map[string]string{"a": "b"}, ManagedFields: []metav1.ManagedFieldsEntry{{}},
			Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: "{}", v1alpha1.ReissueRequestedAtAnnotation: "now"},
		},
		Spec: v1alpha1.NodeBootstrapSpec{Cluster: v1alpha1.ClusterSpec{CABundle: strings.Clone("a CA bundle")}},
		Status: v1alpha1.NodeBootstrapStatus{Conditions: []metav1.Condition{{
			Type: strings.Clone(v1alpha1.ConditionReady), Status: metav1.ConditionTrue, Reason: strings.Clone(v1alpha1.ReasonJoined), Message: "m",
		}}},
	}
}

func kubeconfigSecret(t *testing.T, nb *v1alpha1.NodeBootstrap) *corev1.Secret {
	t.Helper()
	s, err := kubeconfig.NewSecret(nb, "ns", kubeconfig.Cluster{Server: "https://api.example.com"}, token.Token{ID: "abcdef", Secret: token.NewSecretPart("0123456789abcdef")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// client-go transforms listed objects twice: at a restart, all kubeconfigs were written again.
func TestTransformingTwiceChangesNothing(t *testing.T) {
	nb := wanted("worker-1")
	issued := hostileRequest("system:bootstrap:abcdef", token.Group)
	issued.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "a"}, {Manager: "b", Subresource: "status", Time: &metav1.Time{Time: time.Unix(1, 0)},
		FieldsV1: metav1.NewFieldsV1(`{"f:status":{"f:certificate":{}}}`)}}
	foreign := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"a": "b"}}, Data: map[string][]byte{"a": []byte("b")}}
	for what, tt := range map[string]struct {
		f toolscache.TransformFunc
		o runtime.Object
	}{
		"kubeconfig":    {transformSecret, kubeconfigSecret(t, nb)},
		"token":         {transformSecret, token.NewSecret(nb, "abcdef", "0123456789abcdef", time.Unix(1, 0))},
		"foreign":       {transformSecret, foreign},
		"NodeBootstrap": {transformNodeBootstrap, nb},
		"Node":          {stripNode, NodeMetadata()},
		"request":       {cutRequest, &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{Request: make([]byte, 1<<20), Groups: []string{token.Group}}}},
		"renewal":       {cutRequest, hostileRenewal(100)},
		"issued":        {cutRequest, issued},
		"binding":       {stripBinding, &rbacv1.ClusterRoleBinding{Subjects: []rbacv1.Subject{{Name: "x"}}}},
	} {
		once := transformed(t, tt.f, tt.o)
		if twice := transformed(t, tt.f, once); !reflect.DeepEqual(once, twice) {
			t.Errorf("%s: once gives %v, twice gives %v", what, once, twice)
		}
	}
}

// Of a CSR with which a node has renewed its certificate the cache keeps the node and the certificate, and of an issued one when it was issued.
func TestWhatIsKeptOfIssuedRequests(t *testing.T) {
	renewal := transformed(t, cutRequest, hostileRenewal(100))
	if RenewingNode(renewal) != "worker-1" || len(renewal.Status.Certificate) != 100 || renewal.Status.Conditions != nil || renewal.Spec.Request != nil || renewal.ManagedFields != nil {
		t.Errorf("a renewal is kept as %+v", renewal)
	}
	if pending := transformed(t, cutRequest, hostileRenewal(0)); RenewingNode(pending) != "" || pending.Spec.Username != "" {
		t.Errorf("a pending one is kept as %+v", pending)
	}
	if serving := transformed(t, cutRequest, hostileRequest("system:node:worker-1")); RenewingNode(serving) != "" || lifecycle.ServingNode(serving) != "worker-1" {
		t.Errorf("one for a serving certificate is kept as %+v", serving)
	}
	at := metav1.Time{Time: time.Unix(1, 0)}
	issued := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{Groups: []string{token.Group}}}
	issued.Status.Certificate = []byte("certificate")
	issued.ManagedFields = []metav1.ManagedFieldsEntry{{Subresource: "approval", Time: &metav1.Time{}}, {Subresource: "status", Time: &at, FieldsV1: metav1.NewFieldsV1(`{"f:status":{"f:certificate":{}}}`)}}
	if kept := transformed(t, cutRequest, issued); csr.IssuedAt(kept) == nil || !csr.IssuedAt(kept).Equal(&at) || len(kept.ManagedFields) != 1 || kept.ManagedFields[0].FieldsV1 != nil {
		t.Errorf("an issued one is kept with %+v", kept.ManagedFields)
	}
}

// Data that the cache leaves out of a Secret of ours must not look like someone's edit.
func TestTransformedSecretsAreAsTheyShouldBe(t *testing.T) {
	nb := wanted("worker-1")
	text := kubeconfigSecret(t, nb)
	if got := kubeconfig.Restored(transformed(t, transformSecret, text), text); got != nil {
		t.Errorf("the kubeconfig would be written again: %v", got)
	}
	secret := token.NewSecret(nb, "abcdef", "0123456789abcdef", time.Unix(1, 0))
	if got := owned.Restored(transformed(t, transformSecret, secret), secret); got != nil {
		t.Errorf("the token would be written again: %v", got)
	}
}

// The content of others' Secrets is not kept, not even in kubectl's last-applied annotation.
func TestForeignSecretsAreStripped(t *testing.T) {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{
			corev1.LastAppliedConfigAnnotation: "content", owned.NodeNameAnnotation: "worker-1"}},
		Data: map[string][]byte{"a": []byte("content")},
	}
	want := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "a", Annotations: map[string]string{owned.NodeNameAnnotation: "worker-1"}}}
	if got := transformed(t, transformSecret, s); !reflect.DeepEqual(got, want) {
		t.Errorf("this is kept: %+v", got)
	}
}

// Only the fields of a NodeBootstrap that decisions depend on are kept.
func TestNodeBootstrapsAreStripped(t *testing.T) {
	got := transformed(t, transformNodeBootstrap, wanted("worker-1"))
	want := wanted("worker-1")
	want.Labels, want.ManagedFields = nil, nil
	delete(want.Annotations, corev1.LastAppliedConfigAnnotation)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("this is kept: %+v", got)
	}
}

// Values that thousands of objects share are in memory once.
func TestTransformsShare(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // values from before a garbage collection are not shared with later ones
	same := func(a, b string) bool { return a == b && unsafe.StringData(a) == unsafe.StringData(b) }
	a, b := transformed(t, transformNodeBootstrap, wanted("a")), transformed(t, transformNodeBootstrap, wanted("b"))
	if x, y := a.Status.Conditions[0], b.Status.Conditions[0]; !same(x.Type, y.Type) || !same(x.Reason, y.Reason) {
		t.Error("conditions have types and reasons of their own")
	}
	if !same(a.Spec.Cluster.CABundle, b.Spec.Cluster.CABundle) {
		t.Error("each has a CA of its own")
	}
	s, u := transformed(t, transformSecret, kubeconfigSecret(t, a)), transformed(t, transformSecret, kubeconfigSecret(t, b))
	if reflect.ValueOf(s.Labels).Pointer() != reflect.ValueOf(u.Labels).Pointer() {
		t.Error("each Secret has labels of its own")
	}
}
