// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

func TestReissue(t *testing.T) {
	other := awaiting(hasJoined)
	other.Name = "worker-2"
	c := cluster{objects: []client.Object{awaiting(awaitsReissue, func(nb *v1alpha1.NodeBootstrap) { nb.Annotations["team"] = "edge" }), other}}.client(t)
	connect := func() (client.WithWatch, error) { return c, nil }
	before := time.Now()

	// A missing NodeBootstrap does not prevent the reissue of the others.
	r := execute(t, connect, "reissue", node, "worker-9", "worker-2")
	if r.err == nil {
		t.Fatal("no error for worker-9")
	}
	mention(t, "the error", r.err.Error(), "NodeBootstrap worker-9 does not exist")
	for _, name := range []string{node, "worker-2"} {
		mention(t, "the output", r.out, name+": reissue requested", "kubectl nodebootstrap kubeconfig "+name+" --wait 1m")
		var nb v1alpha1.NodeBootstrap
		if err := c.Get(t.Context(), client.ObjectKey{Name: name}, &nb); err != nil {
			t.Fatal(err)
		}
		at, err := time.Parse(time.RFC3339Nano, nb.Annotations[v1alpha1.ReissueRequestedAtAnnotation])
		if err != nil || at.Before(before) || at.After(time.Now()) {
			t.Errorf("%s: the annotation is %v (%v), want the current time in RFC 3339", name, nb.Annotations, err)
		}
		if name == node && nb.Annotations["team"] != "edge" {
			t.Errorf("another annotation was removed: %v", nb.Annotations)
		}
	}
}

func TestReissueAgain(t *testing.T) {
	c := cluster{objects: []client.Object{awaiting()}}.client(t)
	streams := genericiooptions.NewTestIOStreamsDiscard()
	values := map[string]bool{}
	for _, now := range []time.Time{start, start.Add(time.Nanosecond)} {
		if err := reissue(t.Context(), c, []string{node}, now, streams); err != nil {
			t.Fatal(err)
		}
		nb, err := get(t.Context(), c, node)
		if err != nil {
			t.Fatal(err)
		}
		values[nb.Annotations[v1alpha1.ReissueRequestedAtAnnotation]] = true
	}
	if len(values) != 2 {
		t.Errorf("two requests a nanosecond apart have the values %v, want two", values)
	}
}
