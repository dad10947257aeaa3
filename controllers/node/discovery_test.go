// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/cert"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/apiserver"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
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

// A result is used again only while the inputs are the same and the CA is valid.
func TestResolveForgetsWhatHasChanged(t *testing.T) {
	scheme, err := objects.NewScheme()
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
		{"which has expired", func() {}, v1alpha1.ClusterSpec{}, now.AddDate(100, 0, 0), v1alpha1.ReasonCAExpired},
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

// A CA is used again only while it verifies the API server's certificate. Certificates are compared as pointers.
func TestResolveLooksAtTheCertificate(t *testing.T) {
	scheme, err := objects.NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	sign := func(name string) (*x509.Certificate, string) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		ca, err := cert.NewSelfSignedCACert(cert.Config{CommonName: name}, key)
		if err != nil {
			t.Fatal(err)
		}
		return ca, string(pem.EncodeToMemory(&pem.Block{Type: cert.CertificateBlockType, Bytes: ca.Raw}))
	}
	mine, text := sign("mine")
	theirs, _ := sign("theirs")
	k := clocktesting.NewFakePassiveClock(time.Now())
	d := &Discovery{
		Reader: fake.NewClientBuilder().WithScheme(scheme).WithObjects(&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: objects.RootCAConfigMap}, Data: map[string]string{objects.RootCAKey: text}}).Build(),
		Namespace: "ns", Server: "https://api.example.com", Certificates: apiserver.NewCertificates(k),
	}
	for _, step := range []struct {
		what   string
		change func()
		want   string
	}{
		{"unknown", func() {}, ""},
		{"theirs", func() { d.Certificates.Observe([]*x509.Certificate{theirs}) }, v1alpha1.ReasonCADoesNotVerify},
		{"mine, too", func() { d.Certificates.Observe([]*x509.Certificate{mine}) }, ""},
		{"again", func() {}, ""},
		{"only theirs is current", func() {
			k.SetTime(k.Now().Add(2 * time.Hour))
			d.Certificates.Observe([]*x509.Certificate{theirs})
		}, v1alpha1.ReasonCADoesNotVerify},
	} {
		step.change()
		_, why, err := d.Resolve(t.Context(), v1alpha1.ClusterSpec{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if got := ptr.Deref(why, problem.Problem{}).Reason; got != step.want {
			t.Errorf("%s: got %q, want %q", step.what, got, step.want)
		}
	}
}

func BenchmarkResolve(b *testing.B) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	ca, err := cert.NewSelfSignedCACert(cert.Config{CommonName: "ca"}, key)
	if err != nil {
		b.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: cert.CertificateBlockType, Bytes: ca.Raw}))
	for what, certificates := range map[string]*apiserver.Certificates{"unknown": nil, "known": apiserver.NewCertificates(clocktesting.NewFakePassiveClock(time.Now()))} {
		if certificates != nil {
			certificates.Observe([]*x509.Certificate{ca})
		}
		d := &Discovery{Reader: oneConfigMap{text}, Namespace: "ns", Server: "https://api.example.com", Certificates: certificates}
		b.Run(what, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, problem, err := d.Resolve(b.Context(), v1alpha1.ClusterSpec{}, time.Now()); err != nil || problem != nil {
					b.Fatal(problem, err)
				}
			}
		})
	}
}

// oneConfigMap is a reader that returns the same CA in every ConfigMap.
type oneConfigMap struct{ ca string }

func (o oneConfigMap) Get(_ context.Context, _ client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	into.(*corev1.ConfigMap).Data = map[string]string{objects.RootCAKey: o.ca}
	return nil
}

func (oneConfigMap) List(context.Context, client.ObjectList, ...client.ListOption) error { return nil }
