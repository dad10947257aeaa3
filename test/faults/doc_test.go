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
// The parts: store_test.go is the API server's storage, with all past versions; client_test.go the operator's client on it,
// and faults_test.go the faults of its calls; operator_test.go the operator with a workqueue; cluster_test.go
// kube-controller-manager, and machine_test.go a machine that joins, or a thief with a token; stories_test.go and others what
// people do; invariants_test.go and ends_test.go the checks, and afterwards_test.go what must be possible after any run;
// tally_test.go counts.
package faults
