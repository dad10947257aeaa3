// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

func newCA(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := cert.NewSelfSignedCACert(cert.Config{CommonName: "ca"}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: cert.CertificateBlockType, Bytes: ca.Raw})
}

// What was found once is found again only while it holds.
func TestResolveForgetsWhatHasChanged(t *testing.T) {
	scheme, err := NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.crt")
	store := func(ca []byte) {
		if err := os.WriteFile(file, ca, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first, second, now := newCA(t), newCA(t), time.Now()
	d := &Discovery{Reader: fake.NewClientBuilder().WithScheme(scheme).Build(), Namespace: "ns", Server: "https://api.example.com", CAFile: file}
	resolve := func(spec v1alpha1.ClusterSpec, now time.Time) string {
		c, problem, err := d.Resolve(t.Context(), spec, now)
		switch {
		case err != nil:
			t.Fatal(err)
		case problem != nil:
			return problem.Reason
		}
		return c.Server + " " + string(c.CA)
	}
	store(first)
	for _, step := range []struct {
		what   string
		change func()
		spec   v1alpha1.ClusterSpec
		now    time.Time
		want   string
	}{
		{"first", func() {}, v1alpha1.ClusterSpec{}, now, "https://api.example.com " + string(first)},
		{"again", func() {}, v1alpha1.ClusterSpec{}, now, "https://api.example.com " + string(first)},
		{"another spec", func() {}, v1alpha1.ClusterSpec{Server: "https://b.example.com"}, now, "https://b.example.com " + string(first)},
		{"another CA", func() { store(second) }, v1alpha1.ClusterSpec{}, now, "https://api.example.com " + string(second)},
		{"which has run out", func() {}, v1alpha1.ClusterSpec{}, now.AddDate(100, 0, 0), v1alpha1.ReasonCAExpired},
		{"by another clock it has not", func() {}, v1alpha1.ClusterSpec{}, now, "https://api.example.com " + string(second)},
		{"an empty file", func() { store(nil) }, v1alpha1.ClusterSpec{}, now, v1alpha1.ReasonCAInvalid},
		{"no file", func() { _ = os.Remove(file) }, v1alpha1.ClusterSpec{}, now, v1alpha1.ReasonCAInvalid},
		{"the file again", func() { store(second) }, v1alpha1.ClusterSpec{}, now, "https://api.example.com " + string(second)},
	} {
		step.change()
		if got := resolve(step.spec, step.now); got != step.want {
			t.Fatalf("%s: got %s, want %s", step.what, got, step.want)
		}
	}
}
