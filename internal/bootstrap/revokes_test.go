// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

func TestRevokes(t *testing.T) {
	decide := func(v csr.Verdict) []Decision { return []Decision{{Result: csr.Result{Verdict: v}}} }
	for name, tt := range map[string]struct {
		p    Plan
		want bool
	}{
		"nothing":             {Plan{}, false},
		"an approval":         {Plan{Decisions: decide(csr.Approve)}, false},
		"a token is made":     {Plan{MintAfter: new("")}, false},
		"a denial":            {Plan{Decisions: decide(csr.Deny)}, true},
		"a token goes":        {Plan{DeleteTokens: []*corev1.Secret{{}}}, true},
		"a request goes":      {Plan{DeleteRequests: []*certificatesv1.CertificateSigningRequest{{}}}, true},
		"the kubeconfig goes": {Plan{DeleteKubeconfig: &corev1.Secret{}}, true},
	} {
		if got := tt.p.Revokes(); got != tt.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
}
