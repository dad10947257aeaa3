// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/internal/check"
)

type checkOptions struct {
	genericiooptions.IOStreams
	before  bool
	skip    []string
	output  *outputFlag
	machine sshTarget
	script  scriptFlags
}

// newCheckCommand returns the command. It needs the configuration of the connection, too, for what only the plain HTTP answer shows.
func newCheckCommand(streams genericiooptions.IOStreams, connect connector, config func() (*rest.Config, error)) *cobra.Command {
	o := checkOptions{IOStreams: streams}
	cmd := &cobra.Command{
		Use:   "check [NAME]",
		Short: "Check whether this cluster, and a node's way into it, are in order",
		Long: `Check whether this cluster, and a node's way into it, are in order.

Prints a line for each check: ✔ it is in order, ✗ it must be fixed, ! it deserves attention or could not be checked, - it does
not apply. The fix is below it. Exits with 1 if anything must be fixed.

With NAME it also checks the NodeBootstrap and the node of that name, and with --ssh the machine, as kubectl nodebootstrap
join --dry-run does; its flags that describe a machine, such as --unit, work here too. It changes nothing, neither in the cluster nor on the machine, and reads the content of no Secret.

It needs permission to read what it checks: docs/operations.md has a ClusterRole. Without a permission the check that needs it
says so, and the others work.`,
		Example: `  # Before the operator is installed
  kubectl nodebootstrap check --pre

  # The cluster
  kubectl nodebootstrap check

  # The cluster and one node
  kubectl nodebootstrap check worker-1

  # The machine that is to be the node, too
  kubectl nodebootstrap check worker-1 --ssh root@192.0.2.7

  # What is not in order, for a script
  kubectl nodebootstrap check -o json | jq -r '.checks[] | select(.status == "Failed") | .name'`,
		ValidArgsFunction: completeNames(connect, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.validate(args); err != nil {
				return usageError(cmd, err)
			}
			if err := validNames(cmd, args); err != nil {
				return err
			}
			c, err := connect()
			if err != nil {
				return err
			}
			restConfig, err := config()
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), c, &gatherer{client: c, config: restConfig}, args)
		},
	}
	o.output = addOutput(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&o.before, "pre", false, "Check only what the operator will need, before it is installed.")
	flags.StringSliceVar(&o.skip, "skip", nil, "Leave out the checks with these names, such as server-reachable.")
	flags.StringVar(&o.machine.destination, "ssh", "", "Check the machine, too: USER@HOST, or a Host of your ssh configuration.")
	flags.StringArrayVar(&o.machine.args, "ssh-arg", nil, "An argument for ssh, for example --ssh-arg=-p --ssh-arg=2222. Repeatable.")
	flags.BoolVar(&o.machine.sudo, "sudo", false, "Become root on the machine with sudo, which must not ask for a password.")
	machine := pflag.NewFlagSet("machine", pflag.ContinueOnError)
	o.script.add(machine)
	machine.VisitAll(func(f *pflag.Flag) { f.Hidden = true })
	flags.AddFlagSet(machine)
	if err := cmd.RegisterFlagCompletionFunc("skip", cobra.FixedCompletions(check.Names(), cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // only without the flag
	}
	return cmd
}

func (o *checkOptions) validate(args []string) error {
	for _, name := range o.skip {
		if !slices.Contains(check.Names(), name) {
			return fmt.Errorf("--skip takes names of checks, and %q is none: %s", name, strings.Join(check.Names(), ", "))
		}
	}
	switch {
	case len(args) > 1:
		return fmt.Errorf("check takes at most one name, and %d were given", len(args))
	case o.before && len(args) > 0:
		return errors.New("--pre is for a cluster without the operator, and goes with no name")
	case o.machine.destination != "" && len(args) == 0:
		return errors.New("which node is the machine to be? Write check NAME --ssh USER@HOST")
	case o.machine.destination == "" && (o.machine.sudo || len(o.machine.args) > 0):
		return errors.New("--sudo and --ssh-arg go with --ssh")
	case o.machine.destination != "":
		return validDestination(o.machine.destination)
	}
	return nil
}

// errNotInOrder is returned after the results were printed.
var errNotInOrder = errors.New("not everything is in order")

func (o *checkOptions) run(ctx context.Context, c client.Client, g *gatherer, args []string) error {
	facts, err := g.gather(ctx, o.before)
	if err != nil {
		return err
	}
	var results []check.Result
	switch {
	case o.before:
		results = check.BeforeInstallation(facts)
	case len(args) > 0:
		facts.Node = g.readNode(ctx, facts, args[0])
		fallthrough
	default:
		results = check.Cluster(facts)
	}
	if o.machine.destination != "" && !slices.Contains(o.skip, check.Machine) {
		results = append(results, o.checkMachine(ctx, c, facts)...)
	}
	results = slices.DeleteFunc(results, func(r check.Result) bool { return slices.Contains(o.skip, r.Name) })
	if err := o.print(results); err != nil {
		return err
	}
	bad := 0
	for _, r := range results {
		if r.Status == check.Failed {
			bad++
		}
	}
	if bad > 0 {
		return fmt.Errorf("%w: %d of %d checks failed", errNotInOrder, bad, len(results))
	}
	return nil
}

// checkMarks are the marks of the results.
var checkMarks = map[check.Status]string{check.Passed: markGood, check.Failed: markBad, check.Warning: markWarning, check.Skipped: "-"}

func (o *checkOptions) print(results []check.Result) error {
	if o.output.isStructured() {
		return o.output.print(o.Out, map[string]any{"checks": results})
	}
	m := newMarker(o.Out)
	for _, r := range results {
		// A node and a machine choose some of the text.
		text := printers.EscapeTerminal(strings.ReplaceAll(r.Message, "\n", " "))
		fmt.Fprintf(o.Out, "%s %s: %s\n", m.mark(checkMarks[r.Status]), r.Name, text)
		if r.Fix == "" {
			continue
		}
		for _, line := range strings.Split(printers.EscapeTerminal(r.Fix), "\n") {
			fmt.Fprintf(o.Out, "    %s\n", line)
		}
	}
	return nil
}
