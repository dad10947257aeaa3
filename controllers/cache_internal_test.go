// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"bytes"
	"reflect"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

func cutOf(t *testing.T, r *certificatesv1.CertificateSigningRequest) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	out, err := cutRequest(r)
	if err != nil {
		t.Fatal(err)
	}
	return out.(*certificatesv1.CertificateSigningRequest)
}

// Whoever may send requests cannot fill the memory: of other people's the name is kept, of ours what can be decided on.
func TestRequestsAreCut(t *testing.T) {
	foreign := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "csr-1", UID: "u", ResourceVersion: "1", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"a": "b"},
			ManagedFields: []metav1.ManagedFieldsEntry{{}}},
		Spec:   certificatesv1.CertificateSigningRequestSpec{Request: bytes.Repeat([]byte("x"), 100), SignerName: "example.com/x", Groups: []string{"system:authenticated"}},
		Status: certificatesv1.CertificateSigningRequestStatus{Certificate: []byte("x")},
	}
	want := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "csr-1", UID: "u", ResourceVersion: "1"}}
	if got := cutOf(t, foreign); !reflect.DeepEqual(got, want) {
		t.Errorf("of a foreign request this is kept: %+v", got)
	}
	ours := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: bytes.Repeat([]byte("x"), 1<<20), SignerName: "example.com/x", Groups: []string{bootstrap.Group}}}
	if got := cutOf(t, ours); len(got.Spec.Request) != csr.MaxRequestBytes+1 || got.Spec.SignerName == "" {
		t.Errorf("of one of ours %d bytes are kept", len(got.Spec.Request))
	}
}

// An approval of a serving certificate rests on what the NodeBootstrap declares now, not on what a cache shows.
func TestServingApprovalRestsOnWhatIsLive(t *testing.T) {
	scheme, err := NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	shown := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "worker-1", UID: "u"}}
	shown.Spec.ServingCertificate.Addresses = []string{"worker-1", "192.0.2.7"}
	d := bootstrap.Decision{
		Request: &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: certificatesv1.KubeletServingSignerName}},
		Result:  csr.Result{Verdict: csr.Approve},
	}
	for what, tt := range map[string]struct {
		change func(*v1alpha1.NodeBootstrap)
		want   bool
	}{
		"as it was":               {func(*v1alpha1.NodeBootstrap) {}, true},
		"an address less":         {func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ServingCertificate.Addresses = []string{"worker-1"} }, false},
		"another one of its name": {func(nb *v1alpha1.NodeBootstrap) { nb.UID = "another" }, false},
		"another API server":      {func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Cluster.Server = "https://192.0.2.7:6443" }, false},
	} {
		live := shown.DeepCopy()
		tt.change(live)
		r := &NodeReconciler{Live: fake.NewClientBuilder().WithScheme(scheme).WithObjects(live).Build()}
		if got, err := r.stillHolds(t.Context(), &bootstrap.Facts{Name: "worker-1", NodeBootstrap: shown}, false, d); got != tt.want || err != nil {
			t.Errorf("%s: got %t, %v", what, got, err)
		}
	}
	gone := &NodeReconciler{Live: fake.NewClientBuilder().WithScheme(scheme).Build()}
	if got, err := gone.stillHolds(t.Context(), &bootstrap.Facts{Name: "worker-1", NodeBootstrap: shown}, false, d); got || err != nil {
		t.Errorf("gone: got %t, %v", got, err)
	}
}
