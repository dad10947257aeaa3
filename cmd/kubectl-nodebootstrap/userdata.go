// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/nodescript"
	"github.com/nodebootstrap/nodebootstrap/internal/userdata"
)

const (
	formatScript    = "script"
	formatCloudInit = "cloud-init"
	formatIgnition  = "ignition"

	// maxUserData is the smallest limit of the large clouds, that of EC2, in bytes before base64.
	maxUserData = 16 << 10
	// manualLimit is how long a machine waits for a person who approves its CSR. After 15 minutes the kubelet would send another one, with
	// another key.
	manualLimit = 14 * time.Minute
)

type userdataOptions struct {
	secretOptions
	script scriptFlags
	format string
}

func newUserdataCommand(streams genericiooptions.IOStreams, connect connector, connectWithToken tokenConnector) *cobra.Command {
	o := userdataOptions{secretOptions: secretOptions{IOStreams: streams}}
	cmd := &cobra.Command{
		Use:   "userdata NAME",
		Short: "Print a script, or user data, with which a machine joins when it starts",
		Long: `Print a script, or user data, with which a machine joins when it starts.

The script checks the machine, gives the kubelet its bootstrap kubeconfig, starts it, and waits for its certificate. If a check
fails, it changes nothing. If the kubelet gets no certificate, it removes what it wrote. It needs root, systemd, a kubelet and
a running container runtime. Where kubeadm is installed, in a cluster of kubeadm, it runs kubeadm join. The formats are

  script      the script, about 20 KiB
  cloud-init  a cloud-config
  ignition    an Ignition configuration of version 3.3.0

In the last two the script is compressed. A systemd unit runs it when the network is up, tries again while the container runtime or
the API server does not answer, and deletes it when the machine has joined. Its log: journalctl -u nodebootstrap-join.

The output contains a bootstrap token, and is written to standard output or to a file that only you can read. Whoever has it can
join as this node (with approval ClusterWide, as any node) until the node has joined or the token has expired. If the
NodeBootstrap pins a key, the command fails, because a token is not enough then.

Requires permission to get the NodeBootstrap, to watch it if --wait is set, and to get the Secret that its
status.kubeconfigSecretRef names. If allowed, the command also reads the ConfigMaps kubeadm-config and kubelet-config in kube-system.`,
		Example: `  # A virtual machine that joins when it starts
  kubectl nodebootstrap userdata worker-1 --wait 1m --format cloud-init --output-file user-data

  # A machine that is running already
  kubectl nodebootstrap userdata worker-1 | ssh root@worker-1 sh

  # Store it encrypted, for everyone whose public key is in a file
  kubectl nodebootstrap userdata worker-1 --format ignition --recipient "$(cat recipients)" > worker-1.ign.age
  age -d -i ~/.ssh/id_ed25519 worker-1.ign.age > worker-1.ign`,
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
			return o.run(cmd.Context(), c, connectWithToken, args[0])
		},
	}
	cmd.Flags().StringVar(&o.format, "format", formatScript, "What to print: script, cloud-init or ignition.")
	o.add(cmd.Flags())
	o.script.add(cmd.Flags())
	complete(cmd, "format", formatScript, formatCloudInit, formatIgnition)
	complete(cmd, "with", string(nodescript.Kubelet), string(nodescript.Kubeadm))
	return cmd
}

func (o *userdataOptions) validate() error {
	switch o.format {
	case formatScript, formatCloudInit, formatIgnition:
		return errors.Join(o.secretOptions.validate(), o.script.validate())
	}
	return fmt.Errorf("--format is script, cloud-init or ignition, not %q", o.format)
}

func (o *userdataOptions) run(ctx context.Context, c client.WithWatch, connectWithToken tokenConnector, name string) error {
	nb, published, err := o.read(ctx, c, name, checkTokenSuffices)
	if err != nil {
		return err
	}
	options, err := o.options(ctx, c, nb, published)
	if err != nil {
		return err
	}
	content, err := o.render(options)
	if err != nil {
		return err
	}
	o.warnExpired(nb.Status.Token, options.Rendered)
	o.warn(nb, options.Rendered, len(content))
	if options.With != nodescript.Kubelet {
		warnKubeadm(ctx, c, connectWithToken, published, o.ErrOut)
	}
	return o.write(content, "give it to the machine that joins as "+name)
}

// checkTokenSuffices returns why a machine cannot join with only a token; a notReadyError if it may be published later.
func checkTokenSuffices(nb *v1alpha1.NodeBootstrap) error {
	if key := nb.Spec.PinnedKey(); key != "" {
		return fmt.Errorf("NodeBootstrap %[1]s pins the key %[2]s: a kubelet that has only the token creates another key, and is denied. "+
			"The machine that has the key joins with\n\nkubectl nodebootstrap join %[1]s --ssh USER@HOST\n\n"+
			"or without ssh, as in docs/pinned-keys.md. To let it join with user data instead, remove spec.clientCertificate.keyFingerprint", nb.Name, key)
	}
	if err := checkPublished(nb); err != nil {
		return err
	}
	if nb.Status.Token == nil {
		return notReady(nb, "its status names no token")
	}
	return nil
}

// options are those of the script. The published kubeconfig must have the token that the status describes.
func (o *userdataOptions) options(ctx context.Context, c client.Client, nb *v1alpha1.NodeBootstrap, published []byte) (nodescript.Options, error) {
	config, user, err := decodeKubeconfig(published)
	if err != nil {
		return nodescript.Options{}, err
	}
	if !strings.HasPrefix(user.Token, nb.Status.Token.ID+".") {
		return nodescript.Options{}, fmt.Errorf("the token of NodeBootstrap %s was renewed while it was read: run the command again", nb.Name)
	}
	options, err := o.script.options(ctx, c, nb.Name, config)
	options.Kubeconfig, options.Expires = published, nb.Status.Token.ExpirationTime.Time
	if nb.Spec.ApprovalMode() == v1alpha1.ApprovalManual {
		options.Limit = manualLimit
	}
	return options, err
}

func (o *userdataOptions) render(options nodescript.Options) ([]byte, error) {
	script, err := nodescript.Render(options)
	if err != nil {
		return nil, err
	}
	switch o.format {
	case formatCloudInit:
		return userdata.CloudConfig(options.Node, script)
	case formatIgnition:
		return userdata.Ignition(options.Node, script)
	}
	return script, nil
}

// warn prints who can use the output, and until when.
func (o *userdataOptions) warn(nb *v1alpha1.NodeBootstrap, now time.Time, size int) {
	as := nb.Name
	if nb.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide {
		as = "any node, because of approval ClusterWide"
	}
	fmt.Fprintf(o.ErrOut, `Warning: the output contains the bootstrap token %[1]s. Whoever reads it can join as %[2]s, until the node has joined or the token has
expired, at %[3]s. A machine that starts later needs new output.
In a cloud, workloads on the machine and other users of the account can read user data: set a short spec.token.ttl, delete the user
data when the node has joined, and store no copy, or an encrypted one (--recipient).
`, nb.Status.Token.ID, as, stamp(nb.Status.Token.ExpirationTime, now))
	if limit := nb.Spec.Token.JoinDeadline; limit != nil && nb.Status.AwaitingSince != nil {
		fmt.Fprintf(o.ErrOut, "The operator renews the token until %s (spec.token.joinDeadline). After that, request a reissue first.\n",
			stamp(metav1.NewTime(nb.Status.AwaitingSince.Add(limit.Duration)), now))
	}
	if nb.Spec.ApprovalMode() == v1alpha1.ApprovalManual {
		fmt.Fprintf(o.ErrOut, "Warning: approval is Manual: after its start the machine waits %.0f minutes for a person who approves its CSR, and then gives up. "+
			"kubectl nodebootstrap status %s shows the CSR.\n", manualLimit.Minutes(), nb.Name)
	}
	if size > maxUserData && o.format != formatScript {
		fmt.Fprintf(o.ErrOut, "Warning: the output has %d bytes, and some clouds, such as EC2, accept at most %d as user data.\n", size, maxUserData)
	}
}
