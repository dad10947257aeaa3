// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/steps"
)

const (
	// nodeInterval is the time between two looks at a node that joins.
	nodeInterval = 250 * time.Millisecond
	// readyPatience is how long a node that has joined is waited for to be Ready if the user did not ask for that: without a network
	// plugin it never is.
	readyPatience = 30 * time.Second
	// diagnosisLimit is how long a failed run asks the cluster, or the machine, what it knows.
	diagnosisLimit = 5 * time.Second

	waitForJoined = "joined"
	waitForReady  = "ready"
)

// awaitMachine waits for the end of the script and for the node, both at once, so that each step is shown when it happens.
func (j *joining) awaitMachine(ctx context.Context, s *session) (string, error) {
	watching, stop := context.WithDeadline(ctx, j.deadline)
	defer stop()
	type outcome struct {
		result string
		err    error
	}
	seen := make(chan outcome, 1)
	go func() {
		result, err := j.awaitNode(watching)
		seen <- outcome{result, err}
	}()
	switch code := s.wait(); {
	case watching.Err() != nil: // then awaitNode says what is missing
	case code == sshFailed:
		j.step("the connection to " + j.target.destination + " ended. If the machine has received the kubeconfig, it goes on by itself: waiting for it")
	case code != 0:
		stop()
		<-seen
		return "", s.explain(code)
	}
	o := <-seen
	return o.result, o.err
}

// awaitNode waits until the node is Ready or has joined, as the user wants it.
func (j *joining) awaitNode(ctx context.Context) (string, error) {
	timed, cancel := context.WithDeadline(ctx, j.deadline)
	defer cancel()
	var last nodeState
	var joined time.Time
	shown := map[string]bool{}
	err := wait.PollUntilContextCancel(timed, nodeInterval, true, func(ctx context.Context) (bool, error) {
		now, err := j.look(ctx)
		switch {
		case apierrors.IsNotFound(err):
			return false, notFound(j.target.node)
		case apierrors.IsForbidden(err):
			return false, describeError(err, "get", j.target.node)
		case err != nil:
			return false, nil // the next look follows soon
		}
		last = now
		for _, step := range now.lines(j.target.node) {
			if !shown[step] {
				shown[step] = true
				j.step(step)
			}
		}
		if now.joined && joined.IsZero() {
			joined = time.Now()
		}
		return now.enough(j.waitFor, time.Since(joined)), nil
	})
	switch {
	case err == nil && last.ready:
		return resultReady, nil
	case err == nil:
		return resultJoined, nil
	case timed.Err() == nil:
		return "", err
	case last.joined:
		return "", j.ended(ctx, "The node has joined, and is not Ready: "+last.why)
	case !errors.Is(ctx.Err(), context.Canceled):
		j.showMachine(ctx)
	}
	return "", j.ended(ctx, fmt.Sprintf("The machine has its kubeconfig, and goes on by itself. If it does not join: "+
		"kubectl nodebootstrap status %s, and journalctl -u %s on the machine", j.target.node, j.script.paths.Unit))
}

// ended returns that the command was interrupted or gave up, with what that means for the machine.
func (j *joining) ended(ctx context.Context, state string) error {
	state += ". Running the command again continues"
	if errors.Is(ctx.Err(), context.Canceled) {
		return &joinError{code: 1, what: "interrupted", todo: state}
	}
	return &joinError{code: exitNotInTime, what: fmt.Sprintf("gave up after %s", j.timeout), todo: state}
}

// nodeState is how far a node is.
type nodeState struct {
	registered, joined, ready bool
	// why says why the node is not Ready.
	why string
}

// look returns the state of the node. Its CSR is not read: the command has seen it.
func (j *joining) look(ctx context.Context) (nodeState, error) {
	f := steps.Facts{NodeBootstrap: &v1alpha1.NodeBootstrap{}}
	if err := j.client.Get(ctx, client.ObjectKey{Name: j.target.node}, f.NodeBootstrap); err != nil {
		return nodeState{}, err
	}
	s := nodeState{why: "no Node is registered"}
	var node corev1.Node
	switch err := j.client.Get(ctx, client.ObjectKey{Name: j.target.node}, &node); {
	case apierrors.IsForbidden(err):
		s.why = "you may not get nodes"
	case apierrors.IsNotFound(err):
	case err != nil:
		return s, err
	default:
		f.Node = &node
		s.ready, s.why = steps.Readiness(&node)
	}
	p := steps.Of(f, time.Now())
	s.joined, s.registered = p.Joined, f.Node != nil && p.Has(steps.Registered)
	return s, nil
}

// lines are what has happened, in the usual order.
func (s nodeState) lines(name string) []string {
	var lines []string
	if s.registered {
		lines = append(lines, "Node "+name+" is registered")
	}
	if s.joined {
		lines = append(lines, "NodeBootstrap "+name+" is Joined: its token and its kubeconfig are deleted")
	}
	switch {
	case s.joined && s.ready:
		lines = append(lines, "Node "+name+" is Ready")
	case s.joined:
		lines = append(lines, "waiting for Ready: "+s.why)
	}
	return lines
}

// enough reports whether a state is what the user waits for, given how long ago the node joined.
func (s nodeState) enough(waitFor string, sinceJoined time.Duration) bool {
	switch {
	case !s.joined:
		return false
	case s.ready || waitFor == waitForJoined:
		return true
	}
	return waitFor != waitForReady && sinceJoined > readyPatience
}

// showMachine shows the end of the kubelet's log, which the script has not waited for.
func (j *joining) showMachine(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), diagnosisLimit)
	defer cancel()
	target := j.ssh()
	target.batch = true
	script := fmt.Appendf(nil, "journalctl -u '%s' -n 10 --no-pager -o cat >&2\n", j.script.paths.Unit) // without quotes in it: Render has checked that
	if s, err := target.start(ctx, script, func(line string) { j.step("on the machine: " + line) }); err == nil {
		s.wait()
	}
}

// showCluster shows what the cluster knows, beside what the machine has printed.
func (j *joining) showCluster(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), diagnosisLimit)
	defer cancel()
	nb, err := get(ctx, j.client, j.target.node)
	if err != nil {
		j.step("in the cluster: " + err.Error())
		return
	}
	status, reason, message := readyCondition(nb)
	j.step(fmt.Sprintf("in the cluster: NodeBootstrap %s is Ready %s, %s: %s", nb.Name, status, reason, message))
	if alarm := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionTokenMisused); alarm != nil {
		j.step(fmt.Sprintf("in the cluster: alarm %s: %s", alarm.Reason, alarm.Message))
	}
}
