// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/controllers/node"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// The file of --cluster-ca-file is read each time, and its changes cause an event, also its deletion.
func TestCAFileIsFollowed(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ca.crt")
	write := func(content []byte) {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write([]byte("one"))
	d := &node.Discovery{Reader: cluster.Client, Namespace: "none", CAFile: file}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changed := make(chan struct{}, 100)
	go d.WatchCAFile(ctx, func() { changed <- struct{}{} })

	next := byte('a') // the watch may start before or after a write: write until an event comes
	env.Eventually(t, "a change", func() error {
		write([]byte{next})
		next++
		select {
		case <-changed:
			return nil
		case <-time.After(time.Second):
			return context.DeadlineExceeded
		}
	})
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	case <-time.After(env.Limit):
		t.Fatal("the deletion of the file caused no event")
	}
	sources, err := d.Sources(t.Context())
	if err != nil || sources.FlagCAError == nil {
		t.Errorf("a deleted file gives %v and %v, want a problem to report", sources.FlagCAError, err)
	}
}
