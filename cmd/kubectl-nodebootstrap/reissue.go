// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

func newReissueCommand(streams genericiooptions.IOStreams, connect connector) *cobra.Command {
	o := reissueOptions{IOStreams: streams}
	cmd := &cobra.Command{
		Use:   "reissue NAME...",
		Short: "Request a new credential for a machine that must join again",
		Long: `Request a new credential for a machine that must join again: it was reinstalled, its certificate has expired, or its
bootstrap kubeconfig was leaked.

The operator revokes the live token, if any, and publishes a kubeconfig with a new one. A certificate that the node
already has stays valid.

This sets the annotation ` + v1alpha1.ReissueRequestedAtAnnotation + ` to the current time. Any new value is a request, so
with GitOps a reissue is a commit that changes the annotation. If the annotation is in Git, change it there: a pipeline
that restores an old value requests another reissue.

With --wait the command ends when the operator has handled the request and the new credential is available.

Requires permission to patch the NodeBootstrap; with --wait, to get and watch it, too.`,
		Example: `  # The machine was reinstalled
  kubectl nodebootstrap reissue worker-1 --wait
  kubectl nodebootstrap kubeconfig worker-1 --output-file bootstrap-kubeconfig

  # In Git
  metadata:
    name: worker-1
    annotations:
      ` + v1alpha1.ReissueRequestedAtAnnotation + `: "2026-11-01T12:00:00Z"`,
		Args:              someNames,
		ValidArgsFunction: completeNames(connect, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.validate(args); err != nil {
				return usageError(cmd, err)
			}
			c, err := connect()
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), c, args, time.Now())
		},
	}
	cmd.Flags().DurationVar(&o.wait, "wait", 0, "Wait until the new credential is available, and no longer than this. Without a value, "+
		defaultReissueWait.String()+". By default the command does not wait.")
	cmd.Flags().Lookup("wait").NoOptDefVal = defaultReissueWait.String()
	return cmd
}

// defaultReissueWait is the limit of --wait without a value.
const defaultReissueWait = 2 * time.Minute

type reissueOptions struct {
	genericiooptions.IOStreams
	wait time.Duration
}

func (o *reissueOptions) validate(names []string) error {
	if o.wait < 0 {
		return fmt.Errorf("--wait must not be negative, but is %s: write for example --wait=1m", o.wait)
	}
	for _, name := range names { // the shell has separated it from --wait
		if _, err := time.ParseDuration(name); err == nil && o.wait == defaultReissueWait {
			return fmt.Errorf("%[1]q is the name of no node. For a limit write --wait=%[1]s", name)
		}
	}
	return nil
}

// run requests a reissue for each name, also after one failed, and then waits for the new credentials.
func (o *reissueOptions) run(ctx context.Context, c client.WithWatch, names []string, now time.Time) error {
	value := now.UTC().Format(time.RFC3339Nano)
	begin := time.Now()
	var errs []error
	var requested []string
	for _, name := range names {
		if err := requestReissue(ctx, c, name, value); err != nil {
			errs = append(errs, err)
			continue
		}
		requested = append(requested, name)
		fmt.Fprintf(o.Out, "%s: reissue requested. The operator revokes the old credential, if any is left, and publishes a new one", name)
		if o.wait > 0 {
			fmt.Fprintln(o.Out)
		} else {
			fmt.Fprintf(o.Out, ":\n  kubectl nodebootstrap kubeconfig %s --wait 1m\n", name)
		}
	}
	if o.wait > 0 {
		for _, name := range requested {
			errs = append(errs, o.await(ctx, c, name, max(o.wait-time.Since(begin).Truncate(time.Second), 0)))
		}
	}
	return errors.Join(errs...)
}

// await waits for the credential of a reissue. A later request is waited for instead.
func (o *reissueOptions) await(ctx context.Context, c client.WithWatch, name string, limit time.Duration) error {
	nb, err := await(ctx, c, name, limit, checkPublished, func(why string) { fmt.Fprintf(o.ErrOut, "%s: waiting: %s\n", name, why) })
	if err != nil {
		return fmt.Errorf("the reissue was requested, but: %w", err)
	}
	fmt.Fprintf(o.Out, "%s: the new credential is available, with the token %s:\n  kubectl nodebootstrap kubeconfig %[1]s\n", name, tokenText(nb.Status.Token, time.Now()))
	return nil
}

func requestReissue(ctx context.Context, c client.Client, name, value string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"annotations": map[string]string{v1alpha1.ReissueRequestedAtAnnotation: value},
	}})
	if err != nil {
		return err
	}
	nb := &v1alpha1.NodeBootstrap{}
	nb.Name = name
	if err := c.Patch(ctx, nb, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return describeError(err, "patch", name)
	}
	return nil
}
