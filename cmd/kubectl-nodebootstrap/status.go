// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/steps"
)

const outputWide = "wide"

type statusOptions struct {
	genericiooptions.IOStreams
	output *outputFlag
	watch  bool
}

func newStatusCommand(streams genericiooptions.IOStreams, connect connector) *cobra.Command {
	o := statusOptions{IOStreams: streams}
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show how far a node is, since when, and what it waits for",
		Long: `Show how far a node is, since when, and what it waits for: the steps published, requested, approved, issued, registered,
ready, and serving if addresses are declared. Below them: its credential, conditions, and the decisions on its certificates.

Without NAME: all nodes that wait, a line each. Those that require action come first, with the mark !. Nodes that have joined
are only counted.

With --watch and NAME the command prints each step when it is done, and ends successfully when the last one is. Without NAME
it shows all nodes, as a table on a terminal, until it is interrupted with Ctrl-C.

Requires permission to get the NodeBootstrap; without NAME, to list them. If allowed, it also reads Nodes and
CertificateSigningRequests, without which some times are not known.`,
		Example: `  # How far is it?
  kubectl nodebootstrap status worker-1

  # Wait until it is Ready
  kubectl nodebootstrap status worker-1 --watch

  # Which nodes require action?
  kubectl nodebootstrap status
  kubectl nodebootstrap status -o json | jq -r '.nodes[] | select(.needsAction) | .name'`,
		Args:              maybeName,
		ValidArgsFunction: completeNames(connect, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			r := &statusReader{Reader: c}
			if len(args) == 0 {
				return o.all(cmd.Context(), r)
			}
			return o.one(cmd.Context(), r, args[0])
		},
	}
	o.output = addOutput(cmd, outputWide)
	cmd.Flags().BoolVarP(&o.watch, "watch", "w", false, "Print what changes. With NAME, until the node is Ready.")
	return cmd
}

// maybeName checks the argument of a command that takes [NAME].
func maybeName(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return oneName(cmd, args)
}

func (o *statusOptions) one(ctx context.Context, r *statusReader, name string) error {
	if o.watch {
		return o.watchOne(ctx, r, name)
	}
	s, err := r.one(ctx, name)
	switch {
	case err != nil:
		return err
	case o.output.isStructured():
		return o.output.print(o.Out, s)
	}
	return printMarked(o.Out, describe(s, o.output.format == outputWide, time.Now()))
}

func (o *statusOptions) all(ctx context.Context, r *statusReader) error {
	if o.watch {
		return o.watchAll(ctx, r)
	}
	list, err := r.all(ctx)
	switch {
	case err != nil:
		return err
	case o.output.isStructured():
		return o.output.print(o.Out, list)
	}
	return printMarked(o.Out, describeList(list, o.output.format == outputWide, time.Now()))
}

// statusReader reads what shows how far nodes are. What the user may not read is left out.
type statusReader struct {
	client.Reader
	noNodes, noRequests bool
}

func (r *statusReader) one(ctx context.Context, name string) (*nodeStatus, error) {
	nb, err := get(ctx, r, name)
	if err != nil {
		return nil, err
	}
	requests, err := r.requests(ctx, steps.IsMember(nb))
	if err != nil {
		return nil, err
	}
	return r.report(ctx, nb, requests)
}

func (r *statusReader) all(ctx context.Context) (statusList, error) {
	var list v1alpha1.NodeBootstrapList
	if err := r.List(ctx, &list); err != nil {
		return statusList{}, describeListError(err)
	}
	joined := 0
	for i := range list.Items {
		if steps.IsMember(&list.Items[i]) {
			joined++
		}
	}
	requests, err := r.requests(ctx, joined == len(list.Items))
	if err != nil {
		return statusList{}, err
	}
	var all []nodeStatus
	for i := range list.Items {
		nb := &list.Items[i]
		if steps.IsMember(nb) { // of a joined Node the list shows nothing
			if s := report(steps.Facts{NodeBootstrap: nb}, true, time.Now()); !s.NeedsAction {
				all = append(all, s)
				continue
			}
		}
		s, err := r.report(ctx, nb, requests)
		if err != nil {
			return statusList{}, err
		}
		all = append(all, *s)
	}
	return summarize(all), nil
}

// requests lists the CSRs, unless none is needed.
func (r *statusReader) requests(ctx context.Context, needless bool) ([]certificatesv1.CertificateSigningRequest, error) {
	if needless || r.noRequests {
		return nil, nil
	}
	var list certificatesv1.CertificateSigningRequestList
	err := r.List(ctx, &list)
	if apierrors.IsForbidden(err) {
		r.noRequests = true
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing the CertificateSigningRequests: %w", err)
	}
	return list.Items, nil
}

// report reads the Node, and returns the status of a node.
func (r *statusReader) report(ctx context.Context, nb *v1alpha1.NodeBootstrap, requests []certificatesv1.CertificateSigningRequest) (*nodeStatus, error) {
	f := steps.Facts{NodeBootstrap: nb, Requests: requests}
	if !r.noNodes {
		var node corev1.Node
		err := r.Get(ctx, client.ObjectKey{Name: nb.Name}, &node)
		switch {
		case err == nil:
			f.Node = &node
		case apierrors.IsForbidden(err):
			r.noNodes = true
		case !apierrors.IsNotFound(err):
			return nil, fmt.Errorf("reading the Node %s: %w", nb.Name, err)
		}
	}
	s := report(f, r.noNodes, time.Now())
	return &s, nil
}
