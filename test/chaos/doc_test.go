// SPDX-License-Identifier: Apache-2.0

// Package chaos runs the manager binary against a real control plane while processes die and connections break, and looks
// all along, and at the end, whether the invariants in docs/reliability.md hold.
//
// # What happens
//
// The manager runs as its own ServiceAccount, with the RBAC that ships, and reaches the API server through a proxy that delays,
// drops, cuts and refuses. It is killed with SIGKILL over and over: at random times, after a random number of bytes that it has
// sent, or right after something was stored. Now and then two managers run at once, or one is paused and goes on long after
// another has taken over. kube-apiserver and etcd, which syncs its writes to disk, are killed with SIGKILL and started again.
// Meanwhile administrators create, delete and reissue NodeBootstraps, machines join as kubelets do, a stock kubelet joins as
// long as there is root, and thieves try to.
//
// What is checked is the storage itself: the history of etcd, one write after the other, which no restart interrupts. So
// the invariants are checked at every instant, not only when somebody happens to ask. In the end everything has to settle, and
// what was logged, measured and stored is searched for the secret part of every token that there ever was.
//
// # How to run it
//
// The short version, under a minute, is part of make test, and the long one of make faults. Each of the flags -chaos.* may be
// given; the defaults are the short version:
//
//	make controlplane bin/manager
//	go test ./test/chaos -count=1 -v -chaos.seed=7
//
// # How to read a failure
//
// A failure prints the seed, the end of the timeline, where the whole timeline and all logs are, and the command that
// runs the same again. The seed decides what is done and at which moments; what meets what is up to the machine, so a rare
// failure may need a few runs.
//
// The timeline has a line for whatever was done, and, indented, one for each step that was stored, with its revision in etcd.
// Read it backwards from the VIOLATION: the steps of that node, who wrote them, and what was killed, paused or cut in between.
// logs/manager-NNN.log has what that manager thought, audit.log what the API server answered it.
//
// While two managers run, or right after a kill, a write may arrive that rests on what was true before: nothing in
// Kubernetes prevents that. The ledger allows for it, and says so, as "a manager of the past", and sees that it is undone. The
// last lines of the output say how many steps were judged without that leeway.
//
// # The parts
//
// proxy_test.go is the network; managers_test.go the manager's processes; disturb_test.go what goes wrong; stories_test.go what
// happens to nodes, with administrator_test.go, machine_test.go, kubelet_test.go and thief_test.go; storage_test.go reads
// etcd's history, and ledger_test.go, with ledger_tokens_test.go and ledger_requests_test.go, holds it against the invariants;
// end_test.go, quiet_test.go, foreign_test.go and leaks_test.go look at what is left. The selftest_*_test.go show that the
// ledger, the search and the proxy do what they are there for.
package chaos
