// SPDX-License-Identifier: Apache-2.0

// Package faults runs the operator in process against an API server in memory, causes every possible fault, one at a time and
// two at a time, and checks at every write whether the invariants hold.
//
// The faults are not listed anywhere: an undisturbed run of a story records each call of the operator, and each call is then
// disturbed in each way that applies to it. So a new write is covered automatically. A failure prints a line that repeats the
// run:
//
//	go test ./test/faults -run TestReplay -faults.story=join -faults.at='create Secret kube-system/bootstrap-token-abc123#1 lost'
//
// The parts: store_test.go is the API server's storage, with all past versions; client_test.go the operator's client on it;
// faults_test.go the faults of its calls, and admission_test.go those by which admission interferes or that last;
// operator_test.go the operator with a workqueue; cluster_test.go kube-controller-manager, and machine_test.go a machine that
// joins, or a thief with a token; stories_*_test.go what people do. run_test.go runs them with one fault and with two,
// interventions_test.go with a person who intervenes, random_test.go at random, and cases_test.go has single histories.
// invariants_test.go and ends_test.go are the checks; tally_test.go counts.
package faults

import (
	"flag"
	"os"
	"runtime/debug"
	"testing"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	debug.SetGCPercent(800) // worlds are small and short-lived
	for name, value := range map[string]string{
		"rapid.nofailfile": "true", // a seed is printed, which is enough
		"rapid.steps":      "80",   // many of which do nothing
		"rapid.seed":       "5",    // the same histories each time; make faults uses other seeds
	} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
