// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"slices"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
)

func TestNeedsLive(t *testing.T) {
	tests := map[string]struct {
		facts *lifecycle.Facts
		edit  func(*lifecycle.Facts)
		want  bool
	}{
		"awaited, with a Node":    {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) { f.Node = nodetest.NodeMade(nodetest.Young) }, true},
		"awaited, without a Node": {nodetest.Awaited(1, nodetest.Young), func(*lifecycle.Facts) {}, false},
		"no NodeBootstrap":        {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) { f.Node = nodetest.NodeMade(nodetest.Young); f.NodeBootstrap = nil }, false},
		"a reissue is due":        {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) { f.Node = nodetest.NodeMade(nodetest.Young); nodetest.AskReissue(f) }, false},
		"joined before":           {nodetest.JoinedBefore(), func(*lifecycle.Facts) {}, false},
		"another Node since":      {nodetest.JoinedBefore(), func(f *lifecycle.Facts) { f.Node = nodetest.NodeMade(0) }, true},
		"issued, with a Node":     {nodetest.Asked(), func(f *lifecycle.Facts) { f.Node = nodetest.NodeMade(nodetest.Minutes(18)) }, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.edit(tt.facts)
			if got := tt.facts.NeedsLive(); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestAddressesToDecide(t *testing.T) {
	type requests = []*certificatesv1.CertificateSigningRequest
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return nodetest.ServingRequest("serving-a", nodetest.Minutes(1), edit...)
	}
	junk := func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = []byte("junk") }
	tests := map[string]struct {
		requests requests
		want     []string
	}{
		"none":                 {nil, nil},
		"one":                  {requests{a()}, []string{nodetest.NodeName, nodetest.Address}},
		"two of the same":      {requests{a(), nodetest.ServingRequest("serving-b", 0)}, []string{nodetest.NodeName, nodetest.Address}},
		"two of others":        {requests{a(), nodetest.ServingRequest("serving-b", 0, nodetest.Naming("x", "192.0.2.8"))}, []string{"x", "192.0.2.8", nodetest.NodeName, nodetest.Address}},
		"in another spelling":  {requests{a(nodetest.Naming("Worker-1", "worker-1.", "worker-1", "::ffff:192.0.2.7", nodetest.Address))}, []string{nodetest.NodeName, nodetest.Address}},
		"decided on":           {requests{a(nodetest.Approved(0)), nodetest.ServingRequest("serving-b", 0, nodetest.Naming("x"))}, []string{"x"}},
		"before it":            {requests{a(), nodetest.ServingRequest("serving-b", 0, nodetest.Naming("x"), nodetest.Approved(0))}, nil},
		"the last three":       {append(requests{nodetest.ServingRequest("serving-z", 0, nodetest.Naming("x"))}, nodetest.ServingRequests(5)...), []string{"x", nodetest.NodeName, nodetest.Address}},
		"of four":              {requests{a(nodetest.Naming("y")), nodetest.ServingRequest("b", 0, nodetest.Naming("x")), nodetest.ServingRequest("c", 0, nodetest.Naming("x")), nodetest.ServingRequest("d", 0, nodetest.Naming("x"))}, []string{"x"}},
		"it cannot be parsed":  {requests{a(junk)}, nil},
		"too many":             {append(nodetest.ServingRequests(20, nodetest.Approved(0)), a()), nil},
		"one may be decided":   {append(nodetest.ServingRequests(19, nodetest.Approved(0)), a(), nodetest.ServingRequest("serving-b", 0, nodetest.Naming("x"))), []string{"x"}},
		"none may, of several": {append(nodetest.ServingRequests(25, nodetest.Approved(0)), a(), nodetest.ServingRequest("serving-b", 0, nodetest.Naming("x"))), nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before := slices.Clone(tt.requests)
			if got := lifecycle.AddressesToDecide(tt.requests); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if !slices.Equal(before, tt.requests) {
				t.Error("the input is in another order")
			}
		})
	}
}

func TestAllDecided(t *testing.T) {
	type requests = []*certificatesv1.CertificateSigningRequest
	done := nodetest.ServingRequests(3, nodetest.Approved(0))
	for name, tt := range map[string]struct {
		requests requests
		want     bool
	}{
		"none":          {nil, true},
		"approved":      {done, true},
		"denied":        {nodetest.ServingRequests(1, nodetest.Decided(certificatesv1.CertificateDenied, 0)), true},
		"failed":        {nodetest.ServingRequests(1, nodetest.Decided(certificatesv1.CertificateFailed, 0)), true},
		"one waits":     {append(nodetest.ServingRequests(3, nodetest.Approved(0)), nodetest.ServingRequest("serving-a", 0)), false},
		"the first one": {append(requests{nodetest.ServingRequest("serving-a", 0)}, done...), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := lifecycle.AllDecided(tt.requests); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
