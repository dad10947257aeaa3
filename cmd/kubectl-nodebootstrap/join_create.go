// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// validateCreate checks the flags for the NodeBootstrap.
func (o *joinOptions) validateCreate(cmd *cobra.Command) error {
	if o.create {
		return o.fields.validate()
	}
	for _, name := range o.fields.flags {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s requires --create", name)
		}
	}
	return nil
}

// getOrCreate returns the NodeBootstrap. It creates a missing one only if the user wants that: a pipeline could delete it again.
func (j *joining) getOrCreate(ctx context.Context) (*v1alpha1.NodeBootstrap, error) {
	var nb v1alpha1.NodeBootstrap
	name := j.target.node
	err := j.client.Get(ctx, client.ObjectKey{Name: name}, &nb)
	switch {
	case err == nil:
		return &nb, nil
	case !apierrors.IsNotFound(err):
		return nil, describeError(err, "get", name)
	case !j.create:
		return nil, fmt.Errorf("NodeBootstrap %s does not exist. If the name is right, commit these lines and run the command again, or create it now with --create:\n\n%s",
			name, manifest(name, ""))
	case j.dryRun:
		return nil, fmt.Errorf("NodeBootstrap %s does not exist, and --dry-run creates nothing. The checks need its kubeconfig: create it first", name)
	}
	made, err := j.fields.nodeBootstrap(name)
	if err != nil {
		return nil, err
	}
	err = create(ctx, j.client, made, false)
	if _, exists := errors.AsType[*existsError](err); err != nil && !exists {
		return nil, err
	}
	if err == nil {
		j.step("created NodeBootstrap " + name + "; where the others are in Git, commit it too")
	}
	return get(ctx, j.client, name)
}
