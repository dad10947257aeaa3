// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
)

// Without a NodeBootstrap the plan lists the certificates that outlive it.
func TestCertificateOutlivesItsNodeBootstrap(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	f.NodeBootstrap = nil
	f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.IssuedFor("csr-a"), nodetest.Request("csr-b", 1, time.Minute, nodetest.Approved(0))}
	p := nodetest.Decide(f, nodetest.Now)
	if len(p.Outliving) != 1 || p.Outliving[0].Name != "csr-a" {
		t.Errorf("outliving are %v", p.Outliving)
	}
}

func TestDenyBeforeDeletion(t *testing.T) {
	for name, c := range map[string]struct {
		request *certificatesv1.CertificateSigningRequest
		want    string
	}{
		"pending":              {nodetest.Request("csr-a", 1, 0), decisions.ReasonTokenRevoked},
		"for a serving signer": {nodetest.Request("csr-a", 1, 0, nodetest.Asks(certificatesv1.KubeletServingSignerName)), decisions.ReasonTokenRevoked},
		"for another signer":   {nodetest.Request("csr-a", 1, 0, nodetest.AnotherSigner), ""},
		"approved":             {nodetest.Request("csr-a", 1, 0, nodetest.Approved(0)), ""},
		"denied":               {nodetest.Request("csr-a", 1, 0, nodetest.Decided(certificatesv1.CertificateDenied, 0)), ""},
		"evidence, the reason": {nodetest.Request("csr-a", 1, 0, nodetest.Asks(certificatesv1.KubeletServingSignerName)), csr.ReasonWrongSigner},
	} {
		t.Run(name, func(t *testing.T) {
			p := lifecycle.Plan{}
			if c.want == csr.ReasonWrongSigner {
				p.Decisions = []lifecycle.Decision{{Request: c.request, Result: csr.Result{Verdict: csr.Leave, Reason: c.want}}}
			}
			got := p.DenyBeforeDeletion(c.request)
			if (got == nil) != (c.want == "") || got != nil && (got.Result.Verdict != csr.Deny || got.Result.Reason != c.want) {
				t.Errorf("got %+v, want %q", got, c.want)
			}
		})
	}
}
