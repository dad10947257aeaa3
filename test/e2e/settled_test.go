// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// The operator writes nothing in a settled cluster, and never sends a request for which it lacks a permission.
func TestSettledClusterSeesNoWrites(t *testing.T) {
	const awaited, joined = "settled-awaited", "settled-joined"
	cluster.Create(t, cluster.NodeBootstrap(awaited))
	cluster.Create(t, cluster.NodeBootstrap(joined))
	_, kubeconfig := cluster.WaitAwaited(t, joined)
	startKubelet(t, joined, kubeconfig)
	waitJoined(t, joined)
	cluster.WaitAwaited(t, awaited)
	before := settledWrites(t)
	if err := crashManager(t.Context()); err != nil { // the new one reconciles everything, and finds nothing to do
		t.Fatal(err)
	}
	select { // not a wait for something: the time in which nothing may be written, with several heartbeats of the node
	case <-time.After(25 * time.Second):
	case <-t.Context().Done():
	}
	after := settledWrites(t)
	for _, write := range after[len(before):] {
		t.Errorf("a write in a settled cluster: %s", write)
	}
	entries, err := audit.Entries()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Forbidden() {
			t.Errorf("the operator's RBAC does not allow what it does: %s", e)
		}
	}
}

// settledWrites is the record once it has stopped growing.
func settledWrites(t *testing.T) []env.Entry {
	t.Helper()
	last, quiet := -1, 0
	var writes []env.Entry
	env.Eventually(t, "the record of writes", func() error {
		var err error
		if writes, err = audit.Writes(); err != nil {
			return err
		}
		if len(writes) != last {
			last, quiet = len(writes), 0
		}
		if quiet++; quiet < 40 { // a second
			return fmt.Errorf("still growing, at %d", last)
		}
		return nil
	})
	return writes
}
