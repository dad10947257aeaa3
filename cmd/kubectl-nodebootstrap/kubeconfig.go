// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
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

func newKubeconfigCommand(streams genericiooptions.IOStreams, connect connector, connectWithToken tokenConnector) *cobra.Command {
	o := secretOptions{IOStreams: streams}
	cmd := &cobra.Command{
		Use:   "kubeconfig NAME",
		Short: "Write the kubeconfig with which the node may join",
		Long: `Write the kubeconfig with which the node may join: the file for kubelet's --bootstrap-kubeconfig.

It contains a bootstrap token, and is written to standard output or to a file that only you can read. Whoever has it can
join as this node (with approval ClusterWide, as any node) until the node has joined or the token has expired.

Requires permission to get the NodeBootstrap, to watch it if --wait is set, and to get the Secret that its
status.kubeconfigSecretRef names. In a kubeadm cluster, who may also get the ConfigMap kube-system/kubeadm-config is warned if
kubeadm join cannot use the kubeconfig yet.`,
		Example: `  # Write it to a file as soon as the operator has published it
  kubectl nodebootstrap kubeconfig worker-1 --wait 1m --output-file bootstrap-kubeconfig

  # Copy it to the machine, whose kubelet runs with --bootstrap-kubeconfig=/var/lib/kubelet/bootstrap-kubeconfig
  kubectl nodebootstrap kubeconfig worker-1 |
    ssh root@worker-1 'umask 077; cat > /var/lib/kubelet/bootstrap-kubeconfig'

  # Let kubeadm join with it
  kubectl nodebootstrap kubeconfig worker-1 | ssh root@worker-1 'umask 077; cat > /run/discovery.conf'
  ssh root@worker-1 kubeadm join --discovery-file /run/discovery.conf --node-name worker-1

  # Encrypt it for someone who has an ssh key, and for a key of age
  kubectl nodebootstrap kubeconfig worker-1 --recipient "$(cat id_ed25519.pub)" \
    --recipient age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj > bootstrap-kubeconfig.age
  age -d -i ~/.ssh/id_ed25519 bootstrap-kubeconfig.age`,
		Args:              oneName,
		ValidArgsFunction: completeNames(connect, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.validate(); err != nil {
				return usageError(cmd, err)
			}
			c, err := connect()
			if err != nil {
				return err
			}
			return printKubeconfig(cmd.Context(), c, connectWithToken, args[0], &o)
		},
	}
	o.add(cmd.Flags())
	return cmd
}

func printKubeconfig(ctx context.Context, c client.WithWatch, connectWithToken tokenConnector, name string, o *secretOptions) error {
	nb, kubeconfig, err := o.read(ctx, c, name, checkPublished)
	if err != nil {
		return err
	}
	o.warnExpired(nb.Status.Token, time.Now())
	warnKubeadm(ctx, c, connectWithToken, kubeconfig, o.ErrOut)
	return o.write(kubeconfig, fmt.Sprintf("give it to the kubelet of %s as --bootstrap-kubeconfig", name))
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
