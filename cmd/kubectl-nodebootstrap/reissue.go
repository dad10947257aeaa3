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
	return &cobra.Command{
		Use:   "reissue NAME...",
		Short: "Request a new credential for a machine that must join again",
		Long: `Request a new credential for a machine that must join again: it was reinstalled, its certificate has expired, or its
bootstrap kubeconfig was leaked.

The operator revokes the live token, if any, and publishes a kubeconfig with a new one. A certificate that the node
already has stays valid.

This sets the annotation ` + v1alpha1.ReissueRequestedAtAnnotation + ` to the current time. Any new value is a request, so
with GitOps a reissue is a commit that changes the annotation. If the annotation is in Git, change it there: a pipeline
that restores an old value requests another reissue.

Requires permission to patch the NodeBootstrap.`,
		Example: `  # The machine was reinstalled
  kubectl nodebootstrap reissue worker-1
  kubectl nodebootstrap kubeconfig worker-1 --wait 1m --output-file bootstrap-kubeconfig

  # In Git
  metadata:
    name: worker-1
    annotations:
      ` + v1alpha1.ReissueRequestedAtAnnotation + `: "2026-11-01T12:00:00Z"`,
		Args:              someNames,
		ValidArgsFunction: completeNames(connect, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			return reissue(cmd.Context(), c, args, time.Now(), streams)
		},
	}
}

// reissue requests a reissue for each name, also after one failed.
func reissue(ctx context.Context, c client.Client, names []string, now time.Time, streams genericiooptions.IOStreams) error {
	value := now.UTC().Format(time.RFC3339Nano)
	var errs []error
	for _, name := range names {
		if err := requestReissue(ctx, c, name, value); err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintf(streams.Out, "%s: reissue requested. The operator revokes the old credential, if any is left, and publishes a new one:\n"+
			"  kubectl nodebootstrap kubeconfig %[1]s --wait 1m\n", name)
	}
	return errors.Join(errs...)
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
		return explain(err, "patch", name)
	}
	return nil
}
