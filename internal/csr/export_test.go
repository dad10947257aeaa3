// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"reflect"
	"runtime"
	"slices"
	"strings"
)

// ClientCheckNames and ServingCheckNames are the names of the checks, in their order.
func ClientCheckNames() []string { return namesOfChecks(clientChecks) }

func ServingCheckNames() []string { return namesOfChecks(servingChecks) }

func namesOfChecks(checks []check) (names []string) {
	for _, c := range checks {
		names = append(names, c.name)
	}
	return names
}

// FunctionsOfChecks are the names of the functions of all checks, by the name of the check.
func FunctionsOfChecks() map[string]string {
	functions := map[string]string{}
	for _, c := range slices.Concat(clientChecks, servingChecks, contentChecks) {
		full := runtime.FuncForPC(reflect.ValueOf(c.objection).Pointer()).Name()
		functions[c.name] = full[strings.LastIndexByte(full, '.')+1:]
	}
	return functions
}

// EvaluateWithout is Evaluate without one of its checks.
func EvaluateWithout(i int, r Request) Result {
	e := &evaluation{csr: r.CSR, node: r.NodeName, client: &r}
	return e.run(slices.Delete(slices.Clone(clientChecks), i, i+1), Result{Verdict: Approve})
}

// EvaluateServingWithout is EvaluateServing without one of its checks.
func EvaluateServingWithout(i int, r ServingRequest) Result {
	e := &evaluation{csr: r.CSR, node: r.NodeName, serving: &r}
	return e.run(slices.Delete(slices.Clone(servingChecks), i, i+1), Result{Verdict: Approve})
}
