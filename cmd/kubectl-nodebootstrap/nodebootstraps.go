// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// completionLimit is how long a shell waits for names.
const completionLimit = 5 * time.Second

// manifest returns the minimal NodeBootstrap that lets a node join.
func manifest(name, indent string) string {
	return indent + strings.Join([]string{
		"apiVersion: " + v1alpha1.GroupVersion.String(),
		"kind: NodeBootstrap",
		"metadata:",
		"  name: " + name,
	}, "\n"+indent)
}

func get(ctx context.Context, c client.Reader, name string) (*v1alpha1.NodeBootstrap, error) {
	var nb v1alpha1.NodeBootstrap
	if err := c.Get(ctx, client.ObjectKey{Name: name}, &nb); err != nil {
		return nil, describeError(err, "get", name)
	}
	return &nb, nil
}

// describeError adds to an error what the user can do. The verb is that of the failed API request.
func describeError(err error, verb, name string) error {
	switch {
	case meta.IsNoMatchError(err):
		return fmt.Errorf("this cluster does not have the NodeBootstrap API: install the operator first, or choose another cluster with --context (%w)", err)
	case apierrors.IsNotFound(err):
		return notFound(name)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("this requires permission to %s nodebootstraps.%s: %w", verb, v1alpha1.GroupVersion.Group, err)
	default:
		return fmt.Errorf("cannot %s NodeBootstrap %s: %w", verb, name, err)
	}
}

// notFoundError does not print a manifest: with a mistyped name it would create a credential.
type notFoundError struct{ name string }

func (e *notFoundError) Error() string {
	return fmt.Sprintf("NodeBootstrap %s does not exist: kubectl get nodebootstraps lists those that do", e.name)
}

func notFound(name string) error { return &notFoundError{name} }

func readyCondition(nb *v1alpha1.NodeBootstrap) (status, reason, message string) {
	ready := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil {
		return "Unknown", "", "the operator has not reported on it yet: is it running?"
	}
	return string(ready.Status), ready.Reason, ready.Message
}

// oneName and someNames check the arguments of commands that take NAME or NAME... .
func oneName(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError(cmd, fmt.Errorf("%s takes the name of one NodeBootstrap, and %d were given", cmd.CommandPath(), len(args)))
	}
	return validNames(cmd, args)
}

func someNames(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usageError(cmd, fmt.Errorf("%s takes the name of at least one NodeBootstrap", cmd.CommandPath()))
	}
	return validNames(cmd, args)
}

// validNames checks names, and replaces nodebootstrap/NAME, which kubectl prints, by NAME.
func validNames(cmd *cobra.Command, names []string) error {
	for i, name := range names {
		name = bareName(name)
		names[i] = name
		if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
			return usageError(cmd, fmt.Errorf("%q is not a valid name of a node: %s", name, strings.Join(problems, "; ")))
		}
	}
	return nil
}

// bareName returns NAME for NAME, nodebootstrap/NAME and other ways in which kubectl names the kind.
func bareName(name string) string {
	kind, bare, found := strings.Cut(name, "/")
	kind, _, _ = strings.Cut(strings.ToLower(kind), ".") // the API group
	if found && slices.Contains([]string{"nodebootstrap", "nodebootstraps", "nb"}, kind) {
		return bare
	}
	return name
}

// completeNames offers the names of NodeBootstraps, each with its state, up to a number of arguments; 0 means any number.
func completeNames(connect connector, most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, err := list(cmd.Context(), connect)
		if err != nil {
			cobra.CompErrorln(err.Error())
			return nil, cobra.ShellCompDirectiveError | cobra.ShellCompDirectiveNoFileComp
		}
		var out []cobra.Completion
		for i := range list.Items {
			nb := &list.Items[i]
			if strings.HasPrefix(nb.Name, prefix) && !slices.Contains(args, nb.Name) {
				_, reason, _ := readyCondition(nb)
				out = append(out, cobra.CompletionWithDesc(nb.Name, reason))
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

func list(ctx context.Context, connect connector) (*v1alpha1.NodeBootstrapList, error) {
	ctx, cancel := context.WithTimeout(ctx, completionLimit)
	defer cancel()
	c, err := connect()
	if err != nil {
		return nil, err
	}
	var out v1alpha1.NodeBootstrapList
	return &out, c.List(ctx, &out)
}

// describeListError is describeError for a list of all NodeBootstraps.
func describeListError(err error) error {
	if meta.IsNoMatchError(err) {
		return describeError(err, "list", "")
	}
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("this requires permission to list nodebootstraps.%s; for one node, write its name: %w", v1alpha1.GroupVersion.Group, err)
	}
	return fmt.Errorf("listing the NodeBootstraps: %w", err)
}
