// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// certificateUntil is a certificate in PEM that expires at a time.
func certificateUntil(end time.Time) []byte {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: testTime, NotAfter: end}
	der := must(x509.CreateCertificate(rand.Reader, template, template, p256().Public(), p256()))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestExpires(t *testing.T) {
	end := testTime.Add(90 * 24 * time.Hour)
	issued := certificateUntil(end)
	tests := map[string]struct {
		certificate []byte
		want        time.Time
	}{
		"an issued certificate": {issued, end},
		"with that of its CA":   {append(bytes.Clone(issued), certificateUntil(end.Add(time.Hour))...), end},
		"none yet":              {nil, time.Time{}},
		"no PEM":                {[]byte("junk"), time.Time{}},
		"junk in the block":     {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("junk")}), time.Time{}},
		"a request":             {kubeletPEM(p256(), testNode), time.Time{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := requestOf(nil)
			r.Status.Certificate = tt.certificate
			if got, err := Expires(r); !got.Equal(tt.want) || (err == nil) == tt.want.IsZero() {
				t.Errorf("got %s and %v, want %s", got, err, tt.want)
			}
		})
	}
}

// The same signers are in the markers of controllers/rbac.go.
func TestMayDecide(t *testing.T) {
	for signer, want := range map[string]bool{
		certificatesv1.KubeAPIServerClientKubeletSignerName: true,
		certificatesv1.KubeletServingSignerName:             true,
		certificatesv1.KubeAPIServerClientSignerName:        false,
		"kubernetes.io/legacy-unknown":                      false,
		"example.com/kubelet-serving":                       false,
		"":                                                  false,
	} {
		if got := MayDecide(signer); got != want {
			t.Errorf("%q: got %t", signer, got)
		}
	}
}

// The longest approved certificate lives for MaxLife.
func TestMaxLife(t *testing.T) {
	r := goodRequest()
	r.CSR.Spec.ExpirationSeconds = new(int32(MaxLife / time.Second))
	if got := Evaluate(r); got.Verdict != Approve {
		t.Errorf("got %+v", got)
	}
	*r.CSR.Spec.ExpirationSeconds++
	if got := Evaluate(r); got.Reason != ReasonWrongDuration {
		t.Errorf("a second longer: got %+v", got)
	}
}
