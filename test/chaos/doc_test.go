// SPDX-License-Identifier: Apache-2.0

// Package chaos runs the manager binary against a real control plane while processes die and connections break, and checks all
// the time, and at the end, whether the invariants in docs/reliability.md hold.
//
// # What happens
//
// The manager runs as its own ServiceAccount, with the RBAC that ships, and reaches the API server through a proxy that delays,
// drops, cuts and refuses connections. It is killed with SIGKILL over and over: at random times, after it has sent a random
// number of bytes, or right after something was stored. Now and then two managers run at once, or one is paused and continues
// long after another has taken over. kube-apiserver and etcd, which syncs its writes to disk, are killed with SIGKILL and
// restarted. Meanwhile administrators create, delete and reissue NodeBootstraps, machines join as kubelets do, a stock kubelet
// joins if the tests run as root, and thieves try to join.
//
// The checks read the storage itself: the history of etcd, one write after the other, which no restart interrupts. So the
// invariants are checked at every instant, and not only when a client polls. At the end everything must settle, and the logs,
// metrics and stored objects are searched for the secret part of every token that ever existed.
//
// # How to run it
//
// The short version, under a minute, is part of make test, and the long one of make faults. The defaults of the flags -chaos.*
// are the short version:
//
//	make controlplane bin/manager
//	go test ./test/chaos -count=1 -v -chaos.seed=7
//
// # How to read a failure
//
// A failure prints the seed, the end of the timeline, the path of the whole timeline and all logs, and the command that
// repeats the run. The seed determines the actions and their moments, but not how they interleave, so a rare failure may need
// a few runs.
//
// The timeline has a line for each action, and, indented, one for each stored step, with its revision in etcd. Read it
// backwards from the VIOLATION: the steps of that node, their authors, and what was killed, paused or cut in between.
// logs/manager-NNN.log has that manager's log, audit.log the API server's answers.
//
// While two managers run, or right after a kill, a write may arrive that rests on an older state: nothing in Kubernetes
// prevents that. The ledger allows for it, and checks that it is undone. The last lines of the output give the number of steps
// that were checked without that leeway.
//
// # The parts
//
// proxy_test.go is the network; managers_test.go the manager's processes; disturb_test.go the faults; stories_test.go what
// happens to nodes, with administrator_test.go, machine_test.go, kubelet_test.go and thief_test.go; storage_test.go reads
// etcd's history, and ledger_test.go checks it against the invariants; end_test.go, quiet_test.go, foreign_test.go and
// leaks_test.go check the end state. The selftest_*_test.go show that the ledger, the search and the proxy work.
package chaos
