// SPDX-License-Identifier: Apache-2.0

package kubeconfig

import (
	"crypto/x509"
	"fmt"
	"time"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
)

// doesNotVerify is the problem of a discovered CA that verifies none of the chains that API servers present to the operator. Whoever can
// write the ConfigMap may have put another CA there, and nodes would send their tokens to any server with a certificate of that CA.
// Without chains nothing is checked, because the API server's certificate is unknown.
func doesNotVerify(ca []byte, from string, presented [][]*x509.Certificate, now time.Time) *problem.Problem {
	if len(presented) == 0 {
		return nil
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	var err error
	for _, chain := range presented {
		if err = verify(roots, chain, now); err == nil {
			return nil
		}
	}
	return &problem.Problem{Reason: v1alpha1.ReasonCADoesNotVerify, Message: fmt.Sprintf(
		"%s: the API server that the operator talks to does not verify with this CA (%.300s): see who changed it and fix it. If nodes reach the API server "+
			"through a load balancer that terminates TLS, set its CA explicitly, with %s or %s", from, err.Error(), fromSpecCA, fromFlagCA)}
}

// verify checks a chain, the leaf first, as a client does, except for the host name. An expired or not yet valid leaf is no evidence
// against the CA.
func verify(roots *x509.CertPool, chain []*x509.Certificate, now time.Time) error {
	leaf := chain[0]
	switch {
	case now.After(leaf.NotAfter):
		now = leaf.NotAfter
	case now.Before(leaf.NotBefore):
		now = leaf.NotBefore
	}
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}
