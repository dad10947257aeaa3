// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"testing"
	"time"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
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
	o := reissueOptions{IOStreams: genericiooptions.NewTestIOStreamsDiscard()}
	values := map[string]bool{}
	for _, now := range []time.Time{start, start.Add(time.Nanosecond)} {
		if err := o.run(t.Context(), c, []string{node}, now); err != nil {
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

// With --wait the command ends when the operator has handled the request, and not before.
func TestReissueWait(t *testing.T) {
	handled := func(ctx context.Context, c client.WithWatch, _ int) error {
		nb, err := get(ctx, c, node)
		if err != nil {
			return err
		}
		fresh := awaiting(func(n *v1alpha1.NodeBootstrap) {
			n.Status.Token.ID = "fedcba"
			n.Status.LastHandledReissueAt = token.NormalReissue(nb.Annotations[v1alpha1.ReissueRequestedAtAnnotation])
		})
		return put(ctx, c, fresh)
	}
	joined := cluster{objects: []client.Object{awaiting(hasJoined)}}
	for name, tc := range map[string]struct {
		w         waiting
		out, errs []string
		code      int
	}{
		"handled":     {waiting{cluster: joined, onWatch: handled, limit: "1m"}, []string{"worker-1: reissue requested", "worker-1: the new credential is available, with the token fedcba", "kubectl nodebootstrap kubeconfig worker-1"}, nil, 0},
		"not handled": {waiting{cluster: joined, limit: "20ms"}, []string{"worker-1: reissue requested"}, []string{"the reissue was requested, but: gave up after 20ms", "has not handled the reissue", "is it running?"}, exitFailed},
		"stalled": {waiting{cluster: joined, limit: "1m", onWatch: func(ctx context.Context, c client.WithWatch, _ int) error {
			nb, err := get(ctx, c, node)
			if err != nil {
				return err
			}
			return put(ctx, c, awaiting(isStalled, func(n *v1alpha1.NodeBootstrap) {
				n.Status.LastHandledReissueAt = token.NormalReissue(nb.Annotations[v1alpha1.ReissueRequestedAtAnnotation])
			}))
		}}, nil, []string{"waiting does not help"}, exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			tc.w.command, tc.w.joined = "reissue", true
			r := tc.w.execute(t)
			if (r.err != nil) != (tc.code != 0) || r.err != nil && exitCode(r.err) != tc.code {
				t.Fatalf("got %q, %q and the error %v", r.out, r.errOut, r.err)
			}
			mention(t, "the output", r.out, tc.out...)
			if r.err != nil {
				mention(t, "the error", r.err.Error(), tc.errs...)
			}
		})
	}
}

// pflag takes the value of --wait only after =: the duration is the next argument otherwise, and a valid name.
func TestReissueWaitWithASpace(t *testing.T) {
	r := cluster{funcs: failing(forbidden(nodeBootstraps, node))}.execute(t, "reissue", node, "--wait", "5m")
	if r.err == nil || exitCode(r.err) != exitUsage {
		t.Fatalf("got %v", r.err)
	}
	mention(t, "the error", r.err.Error(), "--wait=5m")
}
