// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"
)

// encoding/asn1 skips everything after the known fields of a SEQUENCE: a comparison must find it.
func TestEvaluateFindsWhatTheParserSkips(t *testing.T) {
	junk := must(asn1.Marshal("junk"))
	attributes := must(asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true,
		Bytes: sequence(must(asn1.Marshal(asn1.ObjectIdentifier{1, 2, 3, 4})))}))
	tests := map[string]raw{
		"another version":             {version: 2},
		"a negative version":          {version: -1},
		"junk after the attributes":   {tbsTail: junk},
		"a second set of attributes":  {tbsTail: attributes},
		"junk in the key":             {keyTail: junk},
		"junk after the signature":    {tail: junk},
		"parameters of the algorithm": {algorithm: pkix.AlgorithmIdentifier{Algorithm: oidECDSAWithSHA256, Parameters: asn1.RawValue{FullBytes: junk}}},
	}
	for name, request := range tests {
		t.Run(name, func(t *testing.T) {
			request.key = p256()
			r := goodRequest()
			r.CSR.Spec.Request = request.pem()
			if got := Evaluate(r); got.Verdict != Deny {
				t.Errorf("got verdict %d, %s", got.Verdict, got.Reason)
			}
		})
	}
}
