// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

// leaf returns a certificate that is identified by its name.
func leaf(name string, notAfter time.Time) *x509.Certificate {
	return &x509.Certificate{Raw: []byte(name), DNSNames: []string{name}, NotAfter: notAfter}
}

// answerWith is a transport whose responses come over TLS with a certificate.
func answerWith(c *x509.Certificate, verified bool) http.RoundTripper {
	return roundTripper(func(*http.Request) (*http.Response, error) {
		state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}
		if verified {
			state.VerifiedChains = [][]*x509.Certificate{{c}}
		}
		return &http.Response{TLS: state}, nil
	})
}

func namesOf(certificates []*x509.Certificate) []string {
	var out []string
	for _, c := range certificates {
		out = append(out, c.DNSNames...)
	}
	return out
}

func recentNames(c *Certificates) []string {
	var out []string
	for _, chain := range c.Recent() {
		out = append(out, chain[0].DNSNames...)
	}
	return out
}

func TestServerCertificates(t *testing.T) {
	begin := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	k := clocktesting.NewFakePassiveClock(begin)
	c := NewCertificates(k)
	answers := func(cert *x509.Certificate, verified bool) {
		t.Helper()
		if _, err := c.Wrap(answerWith(cert, verified)).RoundTrip(&http.Request{}); err != nil { //nolint:bodyclose // the response has no body
			t.Fatal(err)
		}
	}
	changed := func() bool {
		select {
		case <-c.Changed():
			return true
		default:
			return false
		}
	}
	check := func(what string, kept, recent []string, news bool) {
		t.Helper()
		if got := namesOf(c.Leaves()); !slices.Equal(got, kept) {
			t.Errorf("%s: %v are kept, want %v", what, got, kept)
		}
		if got := recentNames(c); !slices.Equal(got, recent) {
			t.Errorf("%s: %v are recent, want %v", what, got, recent)
		}
		if got := changed(); got != news {
			t.Errorf("%s: an event: %t, want %t", what, got, news)
		}
	}
	a, b := leaf("a", begin.Add(24*time.Hour)), leaf("b", begin.Add(48*time.Hour))
	check("nothing answered", nil, nil, false)
	answers(a, false)
	check("not verified", nil, nil, false)
	answers(a, true)
	check("the first one", []string{"a"}, []string{"a"}, false)
	answers(leaf("a", a.NotAfter), true)
	check("parsed again", []string{"a"}, []string{"a"}, false)
	k.SetTime(begin.Add(30 * time.Minute))
	answers(b, true)
	check("another API server", []string{"a", "b"}, []string{"a", "b"}, true)
	k.SetTime(begin.Add(2 * time.Hour))
	check("nobody asked for long", []string{"a", "b"}, []string{"a", "b"}, false)
	answers(b, true)
	check("a was replaced", []string{"a", "b"}, []string{"b"}, false)
	answers(a, true)
	check("or not", []string{"a", "b"}, []string{"a", "b"}, false)
	k.SetTime(begin.Add(72 * time.Hour))
	answers(b, true)
	check("expired, and still presented", []string{"a", "b"}, []string{"b"}, false)
	answers(leaf("c", begin.Add(96*time.Hour)), true)
	check("expired ones go", []string{"c"}, []string{"c"}, true)
	for i := range 20 {
		answers(leaf(fmt.Sprint(i), begin.Add(96*time.Hour)), true)
		answers(leaf("c", begin.Add(96*time.Hour)), true)
		k.SetTime(k.Now().Add(time.Second))
	}
	if got := namesOf(c.Leaves()); len(got) != maxServerCertificates || !slices.Contains(got, "c") || !slices.Contains(got, "19") || slices.Contains(got, "0") {
		t.Errorf("of many %v are kept", got)
	}
}

func TestUnknownServerCertificates(t *testing.T) {
	var none *Certificates
	if none.Leaves() != nil || none.Recent() != nil {
		t.Error("something is known")
	}
	c := NewCertificates(clocktesting.NewFakePassiveClock(time.Now()))
	plain := roundTripper(func(*http.Request) (*http.Response, error) { return &http.Response{}, nil })
	failing := roundTripper(func(*http.Request) (*http.Response, error) { return nil, http.ErrServerClosed })
	for _, transport := range []http.RoundTripper{plain, failing} {
		_, _ = c.Wrap(transport).RoundTrip(&http.Request{}) //nolint:bodyclose // the response has no body
	}
	if c.Leaves() != nil || c.Recent() != nil {
		t.Error("something is known")
	}
}

func BenchmarkServerCertificates(b *testing.B) {
	c := NewCertificates(clocktesting.NewFakePassiveClock(time.Now()))
	transport := c.Wrap(answerWith(leaf("a", time.Now().Add(time.Hour)), true))
	b.ReportAllocs()
	for b.Loop() {
		_, _ = transport.RoundTrip(nil) //nolint:bodyclose // the response has no body
	}
}
