// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"net"
	"slices"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/test/adversarial"
)

const (
	adversarialNode  = "worker-1"
	adversarialToken = "abc123"
)

var adversarialTime = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func adversarialKeys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	small, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"ECDSA": small, "RSA": large}
}

func evaluateClient(r *certificatesv1.CertificateSigningRequest) csr.Result {
	return evaluatePinned(r, "")
}

// evaluatePinned is the verdict while a key is pinned; none if it is empty.
func evaluatePinned(r *certificatesv1.CertificateSigningRequest, key string) csr.Result {
	return csr.Evaluate(csr.Request{
		CSR:       r,
		PinnedKey: key,
		NodeName:  adversarialNode,
		TokenID:   adversarialToken, TokenCreated: adversarialTime.Add(-time.Hour), TokenExpires: adversarialTime.Add(time.Hour),
		TokenGroup: "system:bootstrappers:nodebootstrap",
		MayHave:    []string{"system:bootstrappers:nodebootstrap:cluster-wide"},
		Now:        adversarialTime,
	})
}

func evaluateServing(r *certificatesv1.CertificateSigningRequest) csr.Result {
	return csr.EvaluateServing(csr.ServingRequest{
		CSR:       r,
		NodeName:  adversarialNode,
		Declared:  []string{adversarialNode, adversarialNode + ".example.com", "192.0.2.7", "2001:db8::7", "198.51.100.0/24"},
		Reserved:  reserve("10.0.0.1", "api.example.com", "lb.rack-a.example.com", "lb.räck-b.example.com", "2001:db8:a::1"),
		Elsewhere: map[string]string{"other-node": "other-node", "other-node.example.com": "other-node", "192.0.2.8": "other-node"},
	})
}

func adversarialServing(key crypto.Signer) certificatesv1.CertificateSigningRequestSpec {
	return adversarial.GoodServing(adversarialNode, key, []string{adversarialNode, adversarialNode + ".example.com"},
		[]net.IP{net.ParseIP("192.0.2.7"), net.ParseIP("2001:db8::7")})
}

// Each CSR with one defect gets the required verdict and reason, and the CSR without the defect is approved, also with harmless metadata.
func TestAdversarialRequests(t *testing.T) {
	verdicts := map[csr.Verdict]string{csr.Leave: "Leave", csr.Deny: "Deny", csr.Wait: "Wait", csr.Approve: "Approve"}
	for algorithm, key := range adversarialKeys(t) {
		for kind, of := range map[string]struct {
			good     func() certificatesv1.CertificateSigningRequestSpec
			evaluate func(*certificatesv1.CertificateSigningRequest) csr.Result
			cases    []adversarial.Case
			approved string
		}{
			"client": {
				func() certificatesv1.CertificateSigningRequestSpec {
					return adversarial.GoodClient(adversarialNode, adversarialToken, key)
				},
				evaluateClient, adversarial.Client(), csr.ReasonKubeletClient,
			},
			"serving": {
				func() certificatesv1.CertificateSigningRequestSpec { return adversarialServing(key) },
				evaluateServing, adversarial.Serving(), csr.ReasonKubeletServing,
			},
		} {
			request := func() *certificatesv1.CertificateSigningRequest {
				return &certificatesv1.CertificateSigningRequest{
					ObjectMeta: metav1.ObjectMeta{Name: "csr-1", CreationTimestamp: metav1.NewTime(adversarialTime)}, Spec: of.good()}
			}
			if got := of.evaluate(request()); got.Verdict != csr.Approve {
				t.Errorf("%s, %s: the good CSR: %+v", algorithm, kind, got)
			}
			for _, c := range slices.Concat(of.cases, adversarial.Harmless()) {
				r, want := request(), cmp.Or(c.Reason, of.approved)
				c.Apply(r, adversarialNode, key)
				if got := of.evaluate(r); verdicts[got.Verdict] != c.Verdict || got.Reason != want {
					t.Errorf("%s, %s (%s): got %s %s (%s), want %s %s", algorithm, c.Name, c.Why, verdicts[got.Verdict], got.Reason, got.Message, c.Verdict, want)
				}
			}
		}
	}
}

// A pinned key makes no bad CSR better. A CSR with the pinned key gets the verdict that it gets without a pin. With another key a CSR that
// would be approved is denied, and a bad one is denied for its defect or for its key.
func TestAdversarialRequestsWithAPinnedKey(t *testing.T) {
	const another = "SHA256:0000000000000000000000000000000000000000000000000000000000000000"
	for algorithm, key := range adversarialKeys(t) {
		for _, c := range slices.Concat(adversarial.Client(), adversarial.Harmless(), []adversarial.Case{{Name: "good"}}) {
			r := &certificatesv1.CertificateSigningRequest{
				ObjectMeta: metav1.ObjectMeta{Name: "csr-1", CreationTimestamp: metav1.NewTime(adversarialTime)},
				Spec:       adversarial.GoodClient(adversarialNode, adversarialToken, key),
			}
			good := nodetest.Must(csr.Fingerprint(r))
			c.Apply(r, adversarialNode, key)
			own, err := csr.Fingerprint(r)
			if err != nil { // no key can be read
				own = good
			}
			want := evaluateClient(r)
			if got := evaluatePinned(r, own); got.Verdict != want.Verdict || got.Reason != want.Reason {
				t.Errorf("%s, %s (%s) with its key pinned: got %+v, want %+v", algorithm, c.Name, c.Why, got, want)
			}
			got := evaluatePinned(r, another)
			switch {
			case want.Verdict == csr.Leave && got.Verdict == csr.Leave && got.Reason == want.Reason:
			case want.Verdict != csr.Leave && got.Verdict == csr.Deny && (got.Reason == csr.ReasonKeyNotPinned || got.Reason == want.Reason):
			default:
				t.Errorf("%s, %s (%s) with another key pinned: got %+v, without a pin %+v", algorithm, c.Name, c.Why, got, want)
			}
		}
	}
}
