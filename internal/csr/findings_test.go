// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"slices"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/adversarial"
)

// Docs, the plugin and its users name a check by its function.
func TestChecksAreNamedAfterTheirFunctions(t *testing.T) {
	for name, function := range csr.FunctionsOfChecks() {
		if name != function {
			t.Errorf("the check %s is the function %s", name, function)
		}
	}
}

// Each finding has a sentence, the failed one has the reason, and all before it have passed.
func TestFindings(t *testing.T) {
	key := adversarialKeys(t)["ECDSA"]
	for _, c := range slices.Concat(adversarial.Client(), adversarial.Harmless()) {
		r := &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{Name: "csr-1", CreationTimestamp: metav1.NewTime(adversarialTime)},
			Spec:       adversarial.GoodClient(adversarialNode, adversarialToken, key),
		}
		c.Apply(r, adversarialNode, key)
		result := evaluateClient(r)
		checkFindings(t, c, csr.ClientFindings(result), csr.ClientCheckNames(), result)
	}
	for _, c := range slices.Concat(adversarial.Serving(), adversarial.Harmless()) {
		r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "csr-1"}, Spec: adversarialServing(key)}
		c.Apply(r, adversarialNode, key)
		result := evaluateServing(r)
		checkFindings(t, c, csr.ServingFindings(result), csr.ServingCheckNames(), result)
	}
}

func checkFindings(t *testing.T, c adversarial.Case, findings []csr.Finding, names []string, result csr.Result) {
	t.Helper()
	if len(findings) != len(names) {
		t.Fatalf("%s: %d findings of %d checks", c.Name, len(findings), len(names))
	}
	failed := slices.IndexFunc(findings, func(f csr.Finding) bool { return f.State == csr.Failed })
	if (failed < 0) != (result.Verdict == csr.Approve) {
		t.Errorf("%s: verdict %d, and the failed check is number %d", c.Name, result.Verdict, failed)
	}
	for i, f := range findings {
		want := csr.Finding{Check: names[i], Requires: f.Requires, State: csr.Passed}
		switch {
		case failed >= 0 && i == failed:
			want.State, want.Reason, want.Message = csr.Failed, c.Reason, result.Message
		case failed >= 0 && i > failed:
			want.State = csr.NotReached
		}
		if f != want || f.Requires == "" {
			t.Errorf("%s: got %+v, want %+v", c.Name, f, want)
		}
	}
}
