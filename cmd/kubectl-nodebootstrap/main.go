// SPDX-License-Identifier: Apache-2.0

// Command kubectl-nodebootstrap is the kubectl plugin "kubectl nodebootstrap": it prints a machine's bootstrap kubeconfig
// or its user data, gets its certificate, requests a reissue, and shows the status of a node.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // users of OIDC and, by the errors that name their successors, of gcp and azure
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	if err := run(ctx, os.Args[1:], streams); err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(exitCode(err))
	}
}

func run(ctx context.Context, args []string, streams genericiooptions.IOStreams) error {
	log.SetLogger(logr.Discard()) // otherwise controller-runtime warns on stderr that no logger is set
	flags := connectionFlags()
	cmd := newCommand(streams, func() (client.WithWatch, error) { return connect(flags, streams) },
		func(token string) (client.Client, error) { return connectWithToken(flags, token) })
	cmd.AddCommand(newCheckCommand(streams, func() (client.WithWatch, error) { return connect(flags, streams) }, flags.ToRESTConfig))
	addConnectionFlags(cmd, flags)
	cmd.SetArgs(args)
	return cmd.ExecuteContext(ctx)
}

// connector connects to the cluster that the flags name. It is called after they are parsed.
type connector func() (client.WithWatch, error)

func newCommand(streams genericiooptions.IOStreams, connect connector, connectWithToken tokenConnector) *cobra.Command {
	cmd := &cobra.Command{
		Use:         "kubectl-nodebootstrap",
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl nodebootstrap"},
		Short:       "Let a machine join the cluster as one node, and as no other",
		Long: `Let a machine join the cluster as one node, and as no other.

A NodeBootstrap lets one machine join as the node of the same name. Create, list and delete NodeBootstraps with kubectl or
with a GitOps pipeline. The commands here do what kubectl cannot.

kubectl's connection flags work here too, including those that are not listed: see kubectl options.

To complete names in the shell, put an executable file kubectl_complete-nodebootstrap in the PATH:

  #!/bin/sh
  exec kubectl nodebootstrap __complete "$@"

` + exitCodesHelp,
		Example: `  # Four lines let a machine join as worker-1
  kubectl apply -f - <<EOF
` + manifest("worker-1", "  ") + `
  EOF

  # Give the machine its kubeconfig, for kubelet's --bootstrap-kubeconfig
  kubectl nodebootstrap kubeconfig worker-1 --wait 1m --output-file bootstrap-kubeconfig

  # See what the nodes are waiting for: all of them, then one
  kubectl get nodebootstraps
  kubectl nodebootstrap status worker-1`,
		SilenceErrors:     true, // main prints them
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true}, // kubectl handles completion for its plugins
		Args:              noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if wanted, err := cmd.Flags().GetBool("version"); err == nil && wanted {
				_, err := fmt.Fprintln(streams.Out, version.String())
				return err
			}
			return cmd.Help()
		},
	}
	cmd.SetIn(streams.In)
	cmd.SetOut(streams.Out)
	cmd.SetErr(streams.ErrOut)
	cmd.SetFlagErrorFunc(usageError)
	cmd.Flags().BoolP("version", "v", false, "Print the version of this plugin, as version --client does.")
	cmd.SetHelpCommand(newHelpCommand())
	namespace := addNamespace(cmd)
	cmd.AddCommand(
		newCreateCommand(streams, connect),
		newExplainCommand(streams, connect),
		newJoinCommand(streams, connect, connectWithToken),
		newKubeconfigCommand(streams, connect, connectWithToken),
		newReissueCommand(streams, connect),
		newSignCommand(streams, connect, connectWithToken),
		newStatusCommand(streams, connect),
		newUserdataCommand(streams, connect, connectWithToken),
		newVersionCommand(streams, connect, namespace),
	)
	return cmd
}

// connectionFlags are those of kubectl, except for the namespace and the discovery cache, which nothing here uses.
func connectionFlags() *genericclioptions.ConfigFlags {
	flags := genericclioptions.NewConfigFlags(true)
	flags.Namespace, flags.CacheDir = nil, nil
	return flags
}

// addNamespace accepts the flag that kubectl's users are used to. NodeBootstraps have no namespace.
func addNamespace(cmd *cobra.Command) *string {
	namespace := cmd.PersistentFlags().StringP("namespace", "n", version.Namespace, "The operator's namespace, for the command version. "+
		"NodeBootstraps have none.")
	return namespace
}

// addConnectionFlags shows only two of twenty flags, so that --help fits a screen, like kubectl's.
func addConnectionFlags(cmd *cobra.Command, flags *genericclioptions.ConfigFlags) {
	flags.AddFlags(cmd.PersistentFlags())
	cmd.PersistentFlags().VisitAll(func(f *pflag.Flag) {
		f.Hidden = f.Name != "kubeconfig" && f.Name != "context" && f.Name != "namespace"
	})
}

func connect(flags *genericclioptions.ConfigFlags, streams genericiooptions.IOStreams) (client.WithWatch, error) {
	if raw, err := flags.ToRawKubeConfigLoader().RawConfig(); err == nil && len(raw.Clusters) == 0 && *flags.APIServer == "" && os.Getenv("KUBERNETES_SERVICE_HOST") == "" {
		return nil, errors.New("no cluster is configured: name a kubeconfig with --kubeconfig or $KUBECONFIG, or put it at ~/.kube/config")
	}
	config, err := flags.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the cluster, by --kubeconfig, $KUBECONFIG or ~/.kube/config: %w", err)
	}
	config.QPS = -1 // as in kubebuilder's managers: Priority and Fairness of the API server is the limit that counts
	config.WarningHandler = rest.NewWarningWriter(streams.ErrOut, rest.WarningWriterOptions{Deduplicate: true})
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	return c, nil
}

// connectWithToken uses only the address, the CA and the proxy of the user's own connection.
func connectWithToken(flags *genericclioptions.ConfigFlags, token string) (client.Client, error) {
	config, err := flags.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	config = rest.AnonymousClientConfig(config)
	config.QPS = -1
	config.BearerToken = token
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	return client.New(config, client.Options{Scheme: scheme})
}

func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	types := runtime.NewSchemeBuilder(appsv1.AddToScheme, authorizationv1.AddToScheme, certificatesv1.AddToScheme, coordinationv1.AddToScheme,
		corev1.AddToScheme, discoveryv1.AddToScheme, rbacv1.AddToScheme, v1alpha1.AddToScheme)
	if err := types.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("registering types: %w", err)
	}
	return scheme, nil
}

// noSuchCommand is the error for an argument of the root command: the name of no command.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("%s has no command %q", cmd.CommandPath(), args[0])
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2 // as cobra does
	}
	if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
		err = fmt.Errorf("%w. Did you mean %s?", err, strings.Join(similar, " or "))
	}
	return usageError(cmd, err)
}

// newHelpCommand is cobra's, which succeeds for a command that does not exist.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Print the help of a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return noSuchCommand(cmd.Root(), args)
			}
			return found.Help()
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var names []cobra.Completion
			for _, c := range cmd.Root().Commands() {
				if len(args) == 0 && c.IsAvailableCommand() {
					names = append(names, cobra.CompletionWithDesc(c.Name(), c.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError(cmd, fmt.Errorf("%s takes no arguments", cmd.CommandPath()))
	}
	return nil
}
