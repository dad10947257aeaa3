// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"slices"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// seedRequest is a seed of the fuzz targets of either kind: facts and a text.
type seedRequest struct {
	facts facts
	text  []byte
}

// spoiltSeeds have one defect each: a good text with all facts, and all texts with good facts.
func spoiltSeeds(t *testing.T, good []byte, attributes []byte) (seeds []seedRequest) {
	t.Helper()
	fact := func(f facts) { seeds = append(seeds, seedRequest{f, writePEM(good)}) }
	text := func(text []byte) { seeds = append(seeds, seedRequest{facts{}, text}) }
	for _, f := range someFacts {
		fact(f)
	}
	for i := range spoilMetadata {
		fact(facts{metadata: 1 << i})
	}
	for i := range otherNodes {
		fact(facts{other: uint8(i)})
	}
	signer := testKey(t, "p256")
	info := requestInfo(t, signer, testNode, attributes)
	for _, s := range slices.Concat(infoSpoils, attributeSpoils) {
		text(writePEM(signed(t, signer, mutate(info, []byte(s.ops)), 0)))
	}
	for i := range schemesECDSA {
		text(writePEM(signed(t, signer, info, uint8(i))))
	}
	for _, bad := range badDERs(good) {
		text(writePEM(bad))
	}
	for _, bad := range badPEMs(writePEM(good)) {
		text(bad)
	}
	for _, name := range badKeys {
		key := testKey(t, name)
		text(writePEM(signed(t, key, requestInfo(t, key, testNode, attributes), 0)))
	}
	for _, list := range someNames {
		text(writePEM(signed(t, signer, requestInfo(t, signer, testNode, alternativeNames(names([]byte(list))...)), 0)))
	}
	return append(seeds, seedRequest{facts{}, writePEM(signed(t, signer, requestInfo(t, signer, "worker-2", attributes), 0))})
}

// backedUp are checks that other checks back up: a large CSR for a client certificate always has another defect, and where nothing is
// declared, no address is. Without them a CSR is denied or waits for another reason.
var backedUp = []string{"isOfModestSize", "addressesAreDeclared"}

// Each check is needed: without it, something that the oracle denies is approved, or cannot be evaluated at all. So the seeds of the fuzz
// targets find every lost check.
func TestEachRemovedCheckIsNoticed(t *testing.T) {
	seeds := spoiltSeeds(t, goodClient(t, "p256"), nil)
	for i, name := range csr.ClientCheckNames() {
		if !slices.ContainsFunc(seeds, func(s seedRequest) bool {
			r := s.facts.client(s.text, testNode)
			return oracleClient(r) != nil && noticed(name, csr.Evaluate(r), func() csr.Result { return csr.EvaluateWithout(i, r) })
		}) {
			t.Errorf("no seed finds that the client check %s is missing", name)
		}
	}
	seeds = spoiltSeeds(t, goodServing(t, "p256"), alternativeNames(goodNames()...))
	for i, name := range csr.ServingCheckNames() {
		if !slices.ContainsFunc(seeds, func(s seedRequest) bool {
			r := s.facts.serving(s.text, testNode)
			return oracleServing(r) != nil && noticed(name, csr.EvaluateServing(r), func() csr.Result { return csr.EvaluateServingWithout(i, r) })
		}) {
			t.Errorf("no seed finds that the serving check %s is missing", name)
		}
	}
}

// noticed reports whether a fuzz target fails with a result without a check.
func noticed(check string, with csr.Result, without func() csr.Result) (yes bool) {
	defer func() { yes = yes || recover() != nil }()
	got := without()
	return got.Verdict == csr.Approve || slices.Contains(backedUp, check) && got.Reason != with.Reason
}
