// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
)

type kubeconfigOptions struct {
	genericiooptions.IOStreams
	outputFile string
	overwrite  bool
	wait       time.Duration
}

func newKubeconfigCommand(streams genericiooptions.IOStreams, connect connector) *cobra.Command {
	o := kubeconfigOptions{IOStreams: streams}
	cmd := &cobra.Command{
		Use:   "kubeconfig NAME",
		Short: "Write the kubeconfig with which the node may join",
		Long: `Write the kubeconfig with which the node may join: the file for kubelet's --bootstrap-kubeconfig.

It contains a bootstrap token, and is written to standard output or to a file that only you can read. Whoever has it can
join as this node (with approval ClusterWide, as any node) until the node has joined or the token has expired.

Requires permission to get the NodeBootstrap, to watch it if --wait is set, and to get the Secret that its
status.kubeconfigSecretRef names.`,
		Example: `  # Write it to a file as soon as the operator has published it
  kubectl nodebootstrap kubeconfig worker-1 --wait 1m --output-file bootstrap-kubeconfig

  # Copy it to the machine, whose kubelet runs with --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf
  kubectl nodebootstrap kubeconfig worker-1 |
    ssh root@worker-1 'umask 077; cat > /etc/kubernetes/bootstrap-kubelet.conf'`,
		Args:              oneName,
		ValidArgsFunction: completeNames(connect, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.outputFile == "-" { // standard output, as in kubectl
				o.outputFile = ""
			}
			if err := o.validate(); err != nil {
				return usageError(cmd, err)
			}
			c, err := connect()
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), c, args[0])
		},
	}
	cmd.Flags().StringVar(&o.outputFile, "output-file", "", "Write to this file, of mode 0600, instead of standard output.")
	cmd.Flags().BoolVar(&o.overwrite, "overwrite", false, "Replace the output file if it exists.")
	cmd.Flags().DurationVar(&o.wait, "wait", 0, "How long to wait until the kubeconfig is published, for example 1m. By default the command does not wait.")
	return cmd
}

func (o *kubeconfigOptions) validate() error {
	switch {
	case o.overwrite && o.outputFile == "":
		return errors.New("--overwrite requires --output-file")
	case o.wait < 0:
		return fmt.Errorf("--wait must not be negative, but is %s: write for example 1m", o.wait)
	}
	return nil
}

func (o *kubeconfigOptions) run(ctx context.Context, c client.WithWatch, name string) error {
	if o.outputFile != "" && !o.overwrite { // before the command asks the cluster or waits
		if err := checkAbsent(o.outputFile); err != nil {
			return err
		}
	}
	nb, err := o.find(ctx, c, name)
	if err != nil {
		return err
	}
	kubeconfig, err := readKubeconfig(ctx, c, nb.Status.KubeconfigSecretRef)
	if err != nil {
		return err
	}
	o.warnExpired(nb.Status.Token, time.Now())
	return o.write(kubeconfig, name)
}

// find returns the NodeBootstrap when its kubeconfig is published.
func (o *kubeconfigOptions) find(ctx context.Context, c client.WithWatch, name string) (*v1alpha1.NodeBootstrap, error) {
	nb, err := get(ctx, c, name)
	if err != nil {
		return nil, err
	}
	err = checkPublished(nb)
	if _, early := errors.AsType[*notReadyError](err); !early {
		return nb, err
	}
	if o.wait == 0 {
		return nil, fmt.Errorf("%w\nTo wait for it, add --wait 1m", err)
	}
	return await(ctx, c, name, o.wait, checkPublished, func(why string) { fmt.Fprintf(o.ErrOut, "Waiting: %s\n", why) })
}

func readKubeconfig(ctx context.Context, c client.Client, ref *v1alpha1.SecretReference) ([]byte, error) {
	var secret corev1.Secret
	err := c.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, &secret)
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("the Secret %s/%s does not exist. If the node has not joined yet, the operator creates it again: try again",
			ref.Namespace, ref.Name)
	case apierrors.IsForbidden(err):
		return nil, fmt.Errorf("this requires permission to get the Secrets in the namespace %s, or at least the Secret %s: %w",
			ref.Namespace, ref.Name, err)
	case err != nil:
		return nil, fmt.Errorf("reading the Secret %s/%s: %w", ref.Namespace, ref.Name, err)
	case len(secret.Data[kubeconfig.Key]) == 0:
		return nil, fmt.Errorf("the Secret %s/%s has no key %q: someone else changed it; the operator fixes it, try again",
			ref.Namespace, ref.Name, kubeconfig.Key)
	}
	return secret.Data[kubeconfig.Key], nil
}

// warnExpired only warns, since the local clock may be wrong.
func (o *kubeconfigOptions) warnExpired(token *v1alpha1.TokenStatus, now time.Time) {
	if token != nil && token.ExpirationTime.Time.Before(now) {
		fmt.Fprintf(o.ErrOut, "Warning: by the local clock, the token %s expired %s: is the operator running?\n",
			token.ID, stamp(token.ExpirationTime, now))
	}
}

func (o *kubeconfigOptions) write(kubeconfig []byte, name string) error {
	if o.outputFile == "" {
		_, err := o.Out.Write(kubeconfig)
		return err
	}
	if err := writeFile(o.outputFile, kubeconfig, o.overwrite); err != nil {
		return err
	}
	fmt.Fprintf(o.ErrOut, "Wrote %s: give it to the kubelet of %s as --bootstrap-kubeconfig.\n", o.outputFile, name)
	return nil
}
