// SPDX-License-Identifier: Apache-2.0

// Package faults runs the operator in process against an API server in memory, lets everything go wrong that can, one thing
// at a time and two at a time, and looks at every write whether the invariants hold.
//
// What may go wrong is not listed anywhere: an undisturbed run of a story records each call of the operator, and each call
// is then disturbed in each way that applies to it. So a new write is covered by itself. A failure prints a line with which
// that very run can be had again:
//
//	go test ./test/faults -run TestReplay -faults.story=join -faults.at='create Secret kube-system/bootstrap-token-abc123#1 lost'
//
// The parts: store_test.go is the API server's storage, with all past versions; client_test.go the operator's client on it,
// and faults_test.go what it does to calls; operator_test.go the operator with a workqueue; cluster_test.go what
// kube-controller-manager does, and machine_test.go a machine that joins, or somebody who has a token and should not;
// stories_test.go and its like what people do; invariants_test.go and ends_test.go what has to hold, and afterwards_test.go
// what has to be possible after anything; tally_test.go counts.
package faults
