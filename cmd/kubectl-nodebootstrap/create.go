// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

const (
	outputName = "name"

	dryRunNone   = "none"
	dryRunClient = "client"
	dryRunServer = "server"
)

var dryRuns = []string{dryRunNone, dryRunClient, dryRunServer}

func newCreateCommand(streams genericiooptions.IOStreams, connect connector) *cobra.Command {
	var o createOptions
	var dryRun string
	var output *outputFlag
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a NodeBootstrap, or print what to commit",
		Long: `Create a NodeBootstrap, or print what to commit: the YAML of a NodeBootstrap with only the fields that you set.

With --dry-run=client the command needs no cluster. With --dry-run=server the API server checks all values, and stores
nothing. A NodeBootstrap that exists is never changed.

Here --server is the URL for the node. To create it in another cluster, use --context or --kubeconfig.

Requires permission to create NodeBootstraps, except with --dry-run=client.`,
		Example: `  # What do I commit?
  kubectl nodebootstrap create worker-1 --dry-run=client -o yaml

  # A machine behind a load balancer, with a token for an hour and a serving certificate
  kubectl nodebootstrap create worker-1 --server https://api.example.com:6443 --ttl 1h \
    --serving-address worker-1 --serving-address 192.0.2.7

  # Only this key gets a certificate
  kubectl nodebootstrap create worker-1 --key-fingerprint SHA256:$(openssl pkey -in node.key -pubout -outform DER | sha256sum | cut -c1-64)`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := oneName(cmd, args); err != nil {
				return err
			}
			return newName(cmd, args[0])
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(dryRuns, dryRun) {
				return usageError(cmd, fmt.Errorf("--dry-run is client, server or none, not %q", dryRun))
			}
			if err := o.validate(); err != nil {
				return usageError(cmd, err)
			}
			nb, err := o.nodeBootstrap(args[0])
			if err != nil {
				return err
			}
			if dryRun != dryRunClient {
				c, err := connect()
				if err != nil {
					return err
				}
				if err := create(cmd.Context(), c, nb, dryRun == dryRunServer); err != nil {
					return err
				}
			}
			return printCreated(streams, nb, output, dryRun)
		},
	}
	o.addFlags(cmd, "server", "")
	o.addKeyFlags(cmd)
	cmd.Flags().StringVar(&dryRun, "dry-run", dryRunNone, "client, server or none: create nothing, and let only the client, or also the server, check the values.")
	complete(cmd, "dry-run", dryRuns...)
	output = addOutput(cmd, outputName)
	return cmd
}

// newName refuses names that the API server refuses.
func newName(cmd *cobra.Command, name string) error {
	if len(name) > maxNodeName {
		return usageError(cmd, fmt.Errorf("the name of a node has at most %d characters, and %s has %d. Give the node a shorter name (kubelet --hostname-override)",
			maxNodeName, name, len(name)))
	}
	return nil
}

// maxNodeName is the limit of the CustomResourceDefinition: the label kubernetes.io/hostname holds the name.
const maxNodeName = 63

// existsError is that a NodeBootstrap cannot be created, since it exists.
type existsError struct{ name string }

func (e *existsError) Error() string {
	return fmt.Sprintf("NodeBootstrap %[1]s exists already, and was not changed. How far it is: kubectl nodebootstrap status %[1]s\n"+
		"To change its fields: kubectl edit nodebootstrap %[1]s, or your pipeline. For a new credential: kubectl nodebootstrap reissue %[1]s", e.name)
}

// create creates a NodeBootstrap. Its answer replaces nb.
func create(ctx context.Context, c client.Client, nb *unstructured.Unstructured, dryRun bool) error {
	var options []client.CreateOption
	if dryRun {
		options = append(options, client.DryRunAll)
	}
	name := nb.GetName()
	err := c.Create(ctx, nb, options...)
	switch {
	case apierrors.IsAlreadyExists(err):
		return &existsError{name}
	case err != nil:
		return describeError(err, "create", name)
	}
	return nil
}

func printCreated(streams genericiooptions.IOStreams, nb *unstructured.Unstructured, output *outputFlag, dryRun string) error {
	if output.isStructured() {
		return output.print(streams.Out, minimal(nb))
	}
	name := "nodebootstrap." + v1alpha1.GroupVersion.Group + "/" + nb.GetName()
	if output.format == outputName {
		_, err := fmt.Fprintln(streams.Out, name)
		return err
	}
	done := map[string]string{dryRunNone: "created", dryRunClient: "created (dry run)", dryRunServer: "created (server dry run)"}[dryRun]
	_, err := fmt.Fprintln(streams.Out, name, done)
	return err
}

// minimal returns what of a NodeBootstrap to commit.
func minimal(nb *unstructured.Unstructured) map[string]any {
	object := map[string]any{
		"apiVersion": nb.GetAPIVersion(),
		"kind":       nb.GetKind(),
		"metadata":   map[string]any{"name": nb.GetName()},
	}
	if spec, _, _ := unstructured.NestedMap(nb.Object, "spec"); len(spec) > 0 {
		object["spec"] = spec
	}
	return object
}
