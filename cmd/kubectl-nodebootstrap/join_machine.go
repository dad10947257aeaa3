// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/nodescript"
	"github.com/nodebootstrap/nodebootstrap/internal/steps"
)

// exitNotInTime is the plugin's exit code if the node has not joined, or with --wait-for ready is not Ready, before the timeout.
const exitNotInTime = 30

// joinError is a failure with an exit code of its own. It says what happened and what to do.
type joinError struct {
	code       int
	what, todo string
}

func (e *joinError) Error() string {
	if e.todo == "" {
		return e.what
	}
	return e.what + ". " + e.todo
}

// joining is one machine on its way into the cluster.
type joining struct {
	*joinOptions
	client           client.WithWatch
	connectWithToken tokenConnector
	target           joinTarget
	// batch keeps ssh from asking questions, of which several would mix.
	batch    bool
	timeline timeline
	deadline time.Time
}

// What became of a machine.
const (
	resultReady    = "Ready"
	resultJoined   = "Joined"
	resultChecked  = "Checked"
	resultFailed   = "Failed"
	resultNotBegun = "NotBegun"
)

// result lets the machine join.
func (j *joining) result(ctx context.Context) joinResult {
	start := time.Now()
	r := joinResult{Node: j.target.node, Host: j.target.destination}
	result, err := j.run(ctx)
	r.Result = result
	if err != nil { // it can quote the machine
		r.Result, r.ExitCode, r.Error = resultFailed, exitCode(err), printable(err.Error())
		r.err = &joinError{code: r.ExitCode, what: r.Error}
	}
	r.Seconds = time.Since(start).Seconds()
	j.timeline.end(r.err)
	return r
}

// run lets the machine join, and returns what became of it. After the machine was asked, an error is preceded by what the cluster says.
func (j *joining) run(ctx context.Context) (string, error) {
	j.deadline = time.Now().Add(j.timeout)
	nb, err := j.find(ctx)
	if err != nil {
		return "", err
	}
	script, err := j.render(ctx, nb, j.dryRun)
	if err != nil {
		return "", err
	}
	timed, cancel := context.WithDeadline(ctx, j.deadline)
	defer cancel() // which ends ssh
	j.step("ssh " + j.target.destination)
	s, err := j.ssh().start(timed, script, j.step)
	if err != nil {
		return "", err
	}
	result, err := j.follow(ctx, s)
	switch {
	case err != nil && s.ran && !j.dryRun:
		j.showCluster(ctx)
	case err == nil && j.dryRun:
		err = j.printScript(ctx, nb)
	}
	return result, err
}

func (j *joining) printScript(ctx context.Context, nb *v1alpha1.NodeBootstrap) error {
	script, err := j.render(ctx, nb, false)
	if err == nil {
		_, err = j.Out.Write(script)
	}
	return err
}

// step shows a step. Whether the operator runs is asked in an error, and not a moment after something was changed.
func (j *joining) step(text string) {
	j.timeline.step(strings.TrimSuffix(strings.TrimRight(text, "\n"), ": is it running?"))
}

func (j *joining) ssh() sshTarget {
	return sshTarget{destination: j.target.destination, args: j.sshArgs, batch: j.batch, sudo: j.sudo}
}

// find returns the NodeBootstrap when its kubeconfig is published, or when the node has joined already.
func (j *joining) find(ctx context.Context) (*v1alpha1.NodeBootstrap, error) {
	nb, err := j.getOrCreate(ctx)
	switch {
	case err != nil:
		return nil, err
	case steps.IsMember(nb):
		return nb, nil
	}
	nb, err = await(ctx, j.client, j.target.node, time.Until(j.deadline).Round(time.Second), checkPublished, func(why string) { j.step("waiting: " + why) })
	if err != nil {
		return nil, err
	}
	j.step("NodeBootstrap " + nb.Name + " is published, with the server " + nb.Status.Server)
	return nb, nil
}

// render returns the script for the machine. For a node that has joined it only finds out whether the machine is that node.
func (j *joining) render(ctx context.Context, nb *v1alpha1.NodeBootstrap, checkOnly bool) ([]byte, error) {
	if steps.IsMember(nb) {
		return nodescript.Render(nodescript.Options{Node: nb.Name, Paths: j.script.paths, Rendered: time.Now(), OnlyMember: true})
	}
	content, err := readKubeconfig(ctx, j.client, nb.Status.KubeconfigSecretRef)
	if err != nil {
		return nil, err
	}
	published, _, err := decodeKubeconfig(content)
	if err != nil {
		return nil, err
	}
	o, err := j.script.options(ctx, j.client, nb.Name, published)
	if err != nil {
		return nil, err
	}
	o.Limit = min(nodescript.DefaultLimit, j.timeout/2) // so that the script gives up first, and undoes what it did
	o.CheckOnly = checkOnly
	return nodescript.Render(o)
}

// follow talks to the script, and then waits for the node.
func (j *joining) follow(ctx context.Context, s *session) (string, error) {
	a, err := s.answer()
	if err != nil {
		s.abort()
		return "", err
	}
	if a.request == nil {
		return j.withoutRequest(ctx, s, a)
	}
	kubeconfig, err := j.sign(ctx, a)
	if err != nil {
		s.wait()
		j.step("on the machine: " + s.problem)
		return "", err
	}
	if !s.deliver(kubeconfig) {
		return "", s.explain(s.wait())
	}
	j.step("delivered the signed kubeconfig")
	return j.awaitMachine(ctx, s)
}

// withoutRequest handles the end of a script that has requested nothing.
func (j *joining) withoutRequest(ctx context.Context, s *session, a answer) (string, error) {
	switch code := s.wait(); {
	case ctx.Err() != nil || time.Now().After(j.deadline):
		return "", j.ended(ctx, "Nothing was changed on the machine, except that its key can be there")
	case code == 0 && j.dryRun && s.ran:
		return resultChecked, nil
	case code == 0 && a.member:
		return j.awaitNode(ctx)
	case code == nodescript.ExitNotMember:
		return "", &joinError{code: code, what: fmt.Sprintf("the node %[1]s has joined already, and %[2]s is not it. If its machine was replaced or "+
			"reinstalled, request a reissue and run this command again:\n\nkubectl nodebootstrap reissue %[1]s", j.target.node, j.target.destination)}
	default:
		return "", s.explain(code)
	}
}

// sign returns the signed kubeconfig for the request of the machine.
func (j *joining) sign(ctx context.Context, a answer) ([]byte, error) {
	request, err := parseRequest(a.request, j.target.node)
	if err != nil {
		return nil, err
	}
	o := signOptions{IOStreams: genericiooptions.IOStreams{ErrOut: stepWriter{j}}, wait: time.Until(j.deadline).Round(time.Second)}
	config, certificate, err := o.issue(ctx, j.client, j.connectWithToken, j.target.node, request)
	if err != nil {
		return nil, err
	}
	return signedKubeconfig(config, certificate, j.script.paths.Key)
}

// stepWriter shows each write as a step.
type stepWriter struct{ *joining }

func (w stepWriter) Write(p []byte) (int, error) {
	w.step(string(p))
	return len(p), nil
}
