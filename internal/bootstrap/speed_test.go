// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// situations are those that the operator looks at most often, and the worst one that a single token can bring about.
func situations() map[string]*Facts {
	asks := awaited(1, 0)
	asks.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-1", 1, 0)}
	flooded := awaited(1, 0)
	for i := range 100 {
		flooded.Requests = append(flooded.Requests, request(fmt.Sprintf("csr-1/%d", i), 1, 0))
	}
	return map[string]*Facts{"new": fresh(), "awaited": awaited(1, 0), "asks": asks, "joined": joinedBefore(), "100 requests": flooded}
}

func BenchmarkDecide(b *testing.B) {
	for name, f := range situations() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				decide(f, now)
			}
		})
	}
}

func BenchmarkReport(b *testing.B) {
	for name, f := range situations() {
		p := decide(f, now)
		o := &Outcome{Token: p.Token, Published: p.Token != nil, Acceptance: Accepted}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Report(f, &p, o, now)
			}
		})
	}
}

func BenchmarkKubeconfigSecret(b *testing.B) {
	spec := v1alpha1.ClusterSpec{Server: testServer, CABundle: string(goodCA())}
	resolved, _ := ResolveCluster(spec, ClusterSources{}, now)
	for name, cluster := range map[string]Cluster{"rendered": {Server: testServer, CA: goodCA()}, "from the template": resolved} {
		b.Run(name, func(b *testing.B) {
			nb, t := nodeBootstrap(), token(1, 0)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := KubeconfigSecret(nb, testNamespace, cluster, t); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkResolveCluster parses the CA, and renders the template.
func BenchmarkResolveCluster(b *testing.B) {
	spec := v1alpha1.ClusterSpec{Server: testServer, CABundle: string(goodCA())}
	b.ReportAllocs()
	for b.Loop() {
		if _, problem := ResolveCluster(spec, ClusterSources{}, now); problem != nil {
			b.Fatal(problem)
		}
	}
}

// BenchmarkRestored compares a Secret that is as it should be, which each pass does.
func BenchmarkRestored(b *testing.B) {
	have, want := digested(kubeconfigSecret(1)), kubeconfigSecret(1)
	b.ReportAllocs()
	for b.Loop() {
		if RestoredKubeconfig(have, want) != nil {
			b.Fatal("they differ")
		}
	}
}
