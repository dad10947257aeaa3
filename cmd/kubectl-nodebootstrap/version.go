// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/internal/check"
	"github.com/nodebootstrap/nodebootstrap/internal/version"
)

// versionLimit is how long the operator's version is searched for.
const versionLimit = 5 * time.Second

// versions are those of the plugin and of the operator.
type versions struct {
	Client   version.Build    `json:"client"`
	Operator *operatorVersion `json:"operator,omitempty"`
	// Problem says why the operator's version is not known.
	Problem string `json:"problem,omitempty"`
	// Skew says that the two differ.
	Skew string `json:"skew,omitempty"`
}

// operatorVersion is what is known of the operator.
type operatorVersion struct {
	Version   string `json:"version"`
	Namespace string `json:"namespace"`
	Image     string `json:"image,omitempty"`
}

func newVersionCommand(streams genericiooptions.IOStreams, connect connector, namespace *string) *cobra.Command {
	var output *outputFlag
	var clientOnly bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of this plugin and of the operator",
		Long: `Print the versions of this plugin and of the operator.

The operator's version is the label app.kubernetes.io/version of the Lease that its managers share, or else the tag of its
Deployment's image. If the operator is not found, the command says so, and does not fail.

Requires permission to get the Lease ` + version.Lease + ` and to list the Deployments in the operator's namespace,
` + version.Namespace + ` or that of --namespace. Without one of the two, the other is enough.`,
		Example: `  kubectl nodebootstrap version

  # Without a cluster
  kubectl nodebootstrap version --client`,
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions{Client: version.This()}
			if !clientOnly {
				v.ask(cmd.Context(), connect, *namespace)
			}
			if output.isStructured() {
				return output.print(streams.Out, v)
			}
			return v.write(streams.Out)
		},
	}
	cmd.Flags().BoolVar(&clientOnly, "client", false, "Print only the version of this plugin.")
	output = addOutput(cmd)
	return cmd
}

// ask finds the operator's version.
func (v *versions) ask(ctx context.Context, connect connector, namespace string) {
	ctx, cancel := context.WithTimeout(ctx, versionLimit)
	defer cancel()
	c, err := connect()
	if err == nil {
		v.Operator, err = findOperator(ctx, c, namespace)
	}
	if err != nil {
		v.Problem = err.Error()
		return
	}
	plain := func(v string) string { return strings.TrimPrefix(v, "v") } // some tags have no v
	if o := v.Operator.Version; o != "" && plain(o) != plain(v.Client.Version) && o != version.LabelValue() {
		v.Skew = fmt.Sprintf("the plugin is %s and the operator is %s: use the plugin of the operator's version", v.Client.Version, o)
	}
}

// findOperator returns what the Lease and the Deployment of the operator say.
func findOperator(ctx context.Context, c client.Client, namespace string) (*operatorVersion, error) {
	o := &operatorVersion{Namespace: namespace}
	var lease coordinationv1.Lease
	leaseErr := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: version.Lease}, &lease)
	var deployments appsv1.DeploymentList
	var deployment *appsv1.Deployment
	err := c.List(ctx, &deployments, client.InNamespace(namespace), client.MatchingLabels{version.NameLabel: version.AppName})
	if err == nil && len(deployments.Items) > 0 {
		deployment = &deployments.Items[0]
		o.Image = managerImage(deployment)
	}
	o.Version = cmp.Or(check.OperatorVersion(&lease, deployment), lease.Labels[version.Label]) // a build without a version has another label
	switch {
	case leaseErr == nil || o.Image != "":
		return o, nil
	case apierrors.IsNotFound(leaseErr) && err == nil:
		return nil, fmt.Errorf("the operator was not found in the namespace %s. If it is installed elsewhere, add --namespace", namespace)
	case err == nil || apierrors.IsNotFound(leaseErr):
		return nil, fmt.Errorf("the operator was not found in the namespace %s: %w", namespace, firstError(leaseErr, err))
	}
	return nil, fmt.Errorf("cannot read the operator's version in the namespace %s: %w", namespace, leaseErr)
}

// firstError prefers an error that says more than that an object does not exist.
func firstError(a, b error) error {
	if b != nil {
		return b
	}
	return a
}

func managerImage(d *appsv1.Deployment) string {
	for _, c := range d.Spec.Template.Spec.Containers {
		return c.Image
	}
	return ""
}

func (v *versions) write(out io.Writer) error {
	text := fmt.Sprintf("Plugin:    %s, %s %s\n", v.Client.Version, v.Client.GoVersion, v.Client.Platform)
	switch o := v.Operator; {
	case o != nil:
		text += "Operator:  " + orUnknown(o.Version) + ", in the namespace " + o.Namespace
		if o.Image != "" {
			text += ", image " + o.Image
		}
		text += "\n"
	case v.Problem != "":
		text += "Operator:  unknown: " + oneLine(v.Problem) + "\n"
	}
	if v.Skew != "" {
		text += markWarning + " " + v.Skew + "\n"
	}
	return printMarked(out, text)
}

func orUnknown(text string) string {
	if text == "" {
		return "unknown version"
	}
	return text
}
