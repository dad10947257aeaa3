// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/steps"
)

// rewatchInterval is the minimum time between two watches if the API server ends them early.
const rewatchInterval = time.Second

// notReadyError says why the kubeconfig is not published yet. Waiting can help.
type notReadyError struct {
	name string
	why  string
}

func (e *notReadyError) Error() string {
	return fmt.Sprintf("NodeBootstrap %s is not ready: %s", e.name, e.why)
}

// checkPublished returns why a kubeconfig cannot be used; a notReadyError if it may be published later. A status that is older
// than the spec or than the last reissue request is ignored.
func checkPublished(nb *v1alpha1.NodeBootstrap) error {
	pending := steps.PendingReissue(nb)
	status, reason, message := readyCondition(nb)
	switch {
	case pending != "":
		return notReady(nb, "the operator has not handled the reissue requested at %s yet: is it running?", pending)
	case meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionJoined):
		return fmt.Errorf("the node %s has already joined, and its credential was deleted. If its machine must join again, "+
			"for example after a reinstallation:%s", nb.Name, reissueCommands(nb.Name))
	case reason == "":
		return notReady(nb, "%s", message)
	case meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionTokenMisused) && nb.Spec.PinnedKey() == "":
		return misusedError(nb)
	case nb.Status.ObservedGeneration != nb.Generation:
		return notReady(nb, "the operator has not handled the last change of its spec yet: is it running?")
	case status != "True" && meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionStalled):
		return stalledError(nb, reason, message)
	case status != "True":
		return notReady(nb, "%s: %s", reason, message)
	case nb.Status.KubeconfigSecretRef == nil:
		return notReady(nb, "its status names no Secret with a kubeconfig")
	}
	return nil
}

// misusedError rejects a kubeconfig whose token someone else may have: it is bound to at most one key, and a machine that has
// not joined cannot use it.
func misusedError(nb *v1alpha1.NodeBootstrap) error {
	alarm := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionTokenMisused)
	return fmt.Errorf("the token of NodeBootstrap %s was misused, so its kubeconfig is not written: %s: %s\n"+
		"Find out how that happened (docs/troubleshooting.md, \"The alarm\"), then request a new one:%s",
		nb.Name, alarm.Reason, alarm.Message, reissueCommands(nb.Name))
}

// stalledError says what the user must do while the operator cannot continue by itself.
func stalledError(nb *v1alpha1.NodeBootstrap, reason, message string) error {
	err := fmt.Errorf("NodeBootstrap %s is stalled, and waiting does not help: %s: %s", nb.Name, reason, message)
	if reason == v1alpha1.ReasonJoinDeadlineExceeded {
		return fmt.Errorf("%w. For a new credential:%s", err, reissueCommands(nb.Name))
	}
	return fmt.Errorf("%w\nWhat to do is in docs/troubleshooting.md under %s", err, reason)
}

// reissueCommands returns the commands that get a new kubeconfig.
func reissueCommands(name string) string {
	return fmt.Sprintf("\n\nkubectl nodebootstrap reissue %[1]s\nkubectl nodebootstrap kubeconfig %[1]s --wait 1m", name)
}

func notReady(nb *v1alpha1.NodeBootstrap, format string, args ...any) error {
	return &notReadyError{name: nb.Name, why: fmt.Sprintf(format, args...)}
}

// await waits until a check passes or fails with anything but a notReadyError, up to a limit. It reports the reason for waiting
// each time it changes.
func await(ctx context.Context, c client.WithWatch, name string, limit time.Duration, check func(*v1alpha1.NodeBootstrap) error,
	report func(why string)) (*v1alpha1.NodeBootstrap, error) {
	timed, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var found *v1alpha1.NodeBootstrap
	var last *notReadyError
	look := func(nb *v1alpha1.NodeBootstrap) (done bool, err error) {
		found, err = nb, check(nb)
		now, early := errors.AsType[*notReadyError](err)
		if !early {
			return true, err
		}
		if last == nil || *last != *now {
			report(now.why)
		}
		last = now
		return false, nil
	}
	err := wait.PollUntilContextCancel(timed, rewatchInterval, true, func(ctx context.Context) (bool, error) {
		return follow(ctx, c, name, look)
	})
	switch {
	case err == nil:
		return found, nil
	case ctx.Err() != nil:
		return nil, errors.New("interrupted")
	case timed.Err() != nil && last != nil:
		return nil, fmt.Errorf("gave up after %s: %w", limit, last)
	case timed.Err() != nil:
		return nil, fmt.Errorf("gave up after %s: %w", limit, err)
	}
	return nil, err
}

// follow calls look with the current NodeBootstrap and after each change, until look is done or the API server ends the watch.
func follow(ctx context.Context, c client.WithWatch, name string, look func(*v1alpha1.NodeBootstrap) (bool, error)) (bool, error) {
	w, err := c.Watch(ctx, &v1alpha1.NodeBootstrapList{}, client.MatchingFields{"metadata.name": name})
	if err != nil {
		return false, describeError(err, "watch", name)
	}
	defer w.Stop()
	nb, err := get(ctx, c, name) // after the start of the watch, so that no change is missed
	if err != nil {
		return false, err
	}
	done, err := look(nb)
	for !done && err == nil {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case event, open := <-w.ResultChan():
			nb, ok := event.Object.(*v1alpha1.NodeBootstrap)
			switch {
			case !open || event.Type == watch.Error:
				return false, nil
			case !ok || nb.Name != name:
			case event.Type == watch.Deleted:
				return false, notFound(name)
			default:
				done, err = look(nb)
			}
		}
	}
	return done, err
}

// decodeKubeconfig returns a published kubeconfig, reduced to its current context, and the user of that, who has a token. The error does not
// quote the content.
func decodeKubeconfig(content []byte) (*clientcmdapi.Config, *clientcmdapi.AuthInfo, error) {
	config, err := clientcmd.Load(content)
	if err == nil {
		err = clientcmdapi.MinifyConfig(config)
	}
	if err == nil {
		current := config.Contexts[config.CurrentContext]
		if user := config.AuthInfos[current.AuthInfo]; user != nil && user.Token != "" && config.Clusters[current.Cluster] != nil {
			return config, user, nil
		}
	}
	return nil, nil, errors.New("the published kubeconfig is not valid, or has no token: someone else changed it; the operator fixes it, try again")
}
