// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/cli-runtime/pkg/printers"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/internal/nodescript"
)

type joinOptions struct {
	genericiooptions.IOStreams
	ssh      string
	sshArgs  []string
	sudo     bool
	parallel int
	timeout  time.Duration
	waitFor  string
	output   *outputFlag
	dryRun   bool
	create   bool
	fields   createOptions
	script   scriptFlags
}

// joinTarget is a machine that is to become a node.
type joinTarget struct{ node, destination string }

func newJoinCommand(streams genericiooptions.IOStreams, connect connector, connectWithToken tokenConnector) *cobra.Command {
	o := joinOptions{IOStreams: streams}
	cmd := &cobra.Command{
		Use:   "join {NAME --ssh USER@HOST | NAME=USER@HOST...}",
		Short: "Let a machine join the cluster over ssh",
		Long: `Let a machine join the cluster over ssh.

The machine has a container runtime, and a kubelet that was installed by hand or together with kubeadm. The command checks
it, lets it create a key, and signs that as kubectl nodebootstrap sign does. It delivers the signed kubeconfig, and what is
missing of CA and kubelet configuration. The kubelet is started, or kubeadm join is run, and the command waits for the node.

Nothing secret travels: the key stays on the machine, and the bootstrap token here. What the script does on the machine is
in docs/join.md; --dry-run prints it, and runs only the checks.

The command calls the ssh of this machine: your configuration, agent, known_hosts and jump hosts apply. If it is
interrupted, the machine is unchanged or it joins. Running the command again continues.

Requires what kubectl nodebootstrap sign requires, and permission to get nodes; with --create, to create NodeBootstraps.`,
		Example: `  # One machine
  kubectl nodebootstrap join worker-1 --ssh root@192.0.2.7

  # Create the NodeBootstrap too, and use sudo on the machine
  kubectl nodebootstrap join worker-1 --ssh admin@192.0.2.7 --sudo --create

  # Only the checks, and the script
  kubectl nodebootstrap join worker-1 --ssh root@192.0.2.7 --dry-run

  # Through a jump host, with a key of its own
  kubectl nodebootstrap join worker-1 --ssh root@192.0.2.7 --ssh-arg=-J --ssh-arg=jump.example.com --ssh-arg=-i --ssh-arg=id

  # Several machines, with a summary for a script
  kubectl nodebootstrap join worker-1=root@192.0.2.7 worker-2=root@192.0.2.8 --parallel 2 -o json`,
		ValidArgsFunction: completeNames(connect, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := o.targets(args)
			if err == nil {
				err = errors.Join(o.validate(len(targets)), o.validateCreate(cmd))
			}
			if err != nil {
				return usageError(cmd, err)
			}
			if err := validNames(cmd, names(targets)); err != nil {
				return err
			}
			c, err := connect()
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), c, connectWithToken, targets)
		},
	}
	o.output = addOutput(cmd)
	o.addFlags(cmd.Flags())
	o.fields.addFlags(cmd, "server-url", "With --create: ")
	complete(cmd, "wait-for", waitForReady, waitForJoined)
	complete(cmd, "with", string(nodescript.Kubelet), string(nodescript.Kubeadm))
	return cmd
}

func (o *joinOptions) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.ssh, "ssh", "", "The machine: USER@HOST, or a Host of your ssh configuration.")
	flags.StringArrayVar(&o.sshArgs, "ssh-arg", nil, "An argument for ssh, for example --ssh-arg=-p --ssh-arg=2222. Repeatable.")
	flags.BoolVar(&o.sudo, "sudo", false, "Become root on the machine with sudo, which must not ask for a password.")
	flags.IntVar(&o.parallel, "parallel", 5, "How many machines join at once.")
	flags.DurationVar(&o.timeout, "timeout", 5*time.Minute, "How long one machine may take.")
	flags.StringVar(&o.waitFor, "wait-for", "", "Succeed when the node is ready or joined. By default the command waits for ready, but no longer than "+
		readyPatience.String()+" after the node has joined.")
	flags.BoolVar(&o.dryRun, "dry-run", false, "Run only the checks on the machine, and print the script.")
	flags.BoolVar(&o.create, "create", false, "Create the NodeBootstrap if it does not exist.")
	o.script.add(flags)
}

// targets returns the machines that the arguments and --ssh name.
func (o *joinOptions) targets(args []string) ([]joinTarget, error) {
	var targets []joinTarget
	for _, arg := range args {
		node, destination, isPair := strings.Cut(arg, "=")
		node = bareName(node)
		switch {
		case o.ssh == "" && !isPair:
			return nil, fmt.Errorf("which machine is to be %s? Write %[1]s --ssh USER@HOST, or %[1]s=USER@HOST", arg)
		case o.ssh != "" && (isPair || len(args) > 1):
			return nil, errors.New("--ssh goes with one NAME. For several machines write NAME=USER@HOST for each")
		case o.ssh != "":
			destination = o.ssh
		}
		if err := validDestination(destination); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(targets, func(t joinTarget) bool { return t.node == node || t.destination == destination }) {
			return nil, fmt.Errorf("%s or its machine is named twice", arg)
		}
		targets = append(targets, joinTarget{node, destination})
	}
	if len(targets) == 0 {
		return nil, errors.New("no machine is named: write NAME --ssh USER@HOST, or NAME=USER@HOST for each machine")
	}
	return targets, nil
}

func names(targets []joinTarget) []string {
	var names []string
	for _, t := range targets {
		names = append(names, t.node)
	}
	return names
}

func (o *joinOptions) validate(machines int) error {
	switch {
	case o.parallel < 1:
		return fmt.Errorf("--parallel must be at least 1, but is %d", o.parallel)
	case o.timeout <= 0:
		return fmt.Errorf("--timeout takes a time like 5m, not %s", o.timeout)
	case o.waitFor != "" && o.waitFor != waitForJoined && o.waitFor != waitForReady:
		return fmt.Errorf("--wait-for is ready or joined, not %q", o.waitFor)
	case o.dryRun && o.output.isStructured():
		return errors.New("--dry-run prints the script, so that --output cannot be given too")
	case o.dryRun && machines > 1:
		return errors.New("--dry-run goes with one machine")
	}
	return o.script.validate()
}

// joinResult is the result of one machine, as in the JSON summary.
type joinResult struct {
	Node     string  `json:"node"`
	Host     string  `json:"host"`
	Result   string  `json:"result"`
	ExitCode int     `json:"exitCode"`
	Seconds  float64 `json:"seconds"`
	Error    string  `json:"error,omitempty"`

	err error
}

func (o *joinOptions) run(ctx context.Context, c client.WithWatch, connectWithToken tokenConnector, targets []joinTarget) error {
	results := make([]joinResult, len(targets))
	screen := o.screen(targets)
	var group errgroup.Group
	group.SetLimit(o.parallel)
	for i, t := range targets {
		results[i] = joinResult{Node: t.node, Host: t.destination, Result: resultNotBegun, ExitCode: 1, Error: "interrupted"}
		group.Go(func() error {
			if ctx.Err() == nil {
				j := &joining{joinOptions: o, client: c, connectWithToken: connectWithToken, target: t, batch: len(targets) > 1,
					timeline: screen.begin(t)}
				results[i] = j.result(ctx)
			}
			return nil
		})
	}
	_ = group.Wait()
	screen.close()
	return o.report(results)
}

func (o *joinOptions) screen(targets []joinTarget) screen {
	if len(targets) > 1 && printers.IsTerminal(o.ErrOut) {
		return newTable(o.ErrOut, targets)
	}
	return &lines{out: o.ErrOut, named: len(targets) > 1}
}

// report prints the summary, and returns an error if a machine failed.
func (o *joinOptions) report(results []joinResult) error {
	var failed []string
	for _, r := range results {
		if r.err != nil || r.Result == resultNotBegun {
			failed = append(failed, r.Node)
		}
	}
	if o.output.isStructured() {
		if err := o.output.print(o.Out, map[string]any{"machines": results}); err != nil {
			return err
		}
	} else if !o.dryRun {
		for _, r := range results {
			if r.err == nil && r.Result != resultNotBegun {
				fmt.Fprintf(o.Out, "%s: %s after %.1f s\n", r.Node, r.Result, r.Seconds)
			}
		}
	}
	switch {
	case len(failed) == 0:
		return nil
	case len(results) == 1:
		return results[0].err
	}
	return fmt.Errorf("%d of %d machines failed: %s", len(failed), len(results), strings.Join(failed, ", "))
}
