// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"bytes"
	"reflect"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

func cutOf(t *testing.T, r *certificatesv1.CertificateSigningRequest) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	out, err := cutRequest(r)
	if err != nil {
		t.Fatal(err)
	}
	return out.(*certificatesv1.CertificateSigningRequest)
}

// Requesters cannot fill the memory: of the CSRs of others only the name is kept, of ours the fields that decisions depend on.
func TestRequestsAreCut(t *testing.T) {
	foreign := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "csr-1", UID: "u", ResourceVersion: "1", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"a": "b"},
			ManagedFields: []metav1.ManagedFieldsEntry{{}}},
		Spec:   certificatesv1.CertificateSigningRequestSpec{Request: bytes.Repeat([]byte("x"), 100), SignerName: "example.com/x", Groups: []string{"system:authenticated"}},
		Status: certificatesv1.CertificateSigningRequestStatus{Certificate: []byte("x")},
	}
	want := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "csr-1", UID: "u", ResourceVersion: "1"}}
	if got := cutOf(t, foreign); !reflect.DeepEqual(got, want) {
		t.Errorf("kept of a foreign CSR: %+v", got)
	}
	ours := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: bytes.Repeat([]byte("x"), 1<<20), SignerName: "example.com/x", Groups: []string{token.Group}}}
	if got := cutOf(t, ours); len(got.Spec.Request) != csr.MaxRequestBytes+1 || got.Spec.SignerName == "" {
		t.Errorf("kept of one of our CSRs: %d bytes", len(got.Spec.Request))
	}
}
