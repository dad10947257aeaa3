// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"bytes"
	"testing"
)

// BenchmarkEvaluate evaluates a kubelet's CSRs, and those of an attacker who wants to keep the operator busy.
func BenchmarkEvaluate(b *testing.B) {
	ecdsa, rsa, large := goodRequest(), goodRequest(), goodRequest()
	useRSA(&rsa, rsa2048())
	large.CSR.Spec.Request = bytes.Repeat([]byte("-"), 1<<20)
	for name, tt := range map[string]struct {
		r    Request
		want Verdict
	}{
		"P-256": {ecdsa, Approve}, "RSA 2048": {rsa, Approve}, "1 MiB of nothing": {large, Deny},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if got := Evaluate(tt.r); got.Verdict != tt.want {
					b.Fatalf("the verdict is %v: %s", got.Verdict, got.Message)
				}
			}
		})
	}
}
