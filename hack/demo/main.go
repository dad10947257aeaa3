// SPDX-License-Identifier: Apache-2.0

// Command demo shows the operator's main job on a real control plane with real kubelets, on this machine: it applies a
// NodeBootstrap of four lines, and a stock kubelet that has only the published kubeconfig joins. Then a kubeconfig is
// stolen: another machine that uses it gets no certificate, and the operator raises the alarm. Last, a machine's key is
// pinned: a thief who comes first, under the right name, gets nothing, and the machine joins.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
)

const (
	node   = "worker-1" // of config/samples/nodebootstrap.yaml
	sample = "config/samples/nodebootstrap.yaml"
	victim = "worker-2" // of hack/demo/worker-2.yaml
	second = "hack/demo/worker-2.yaml"
	thief  = "intruder"
	pinned = "worker-3"
	// impostor takes the name of the pinned node, too.
	impostor = "impostor"
	// stepLimit allows for a busy machine; a step takes a second or two.
	stepLimit = 2 * time.Minute
)

func main() {
	flags := flag.NewFlagSet("demo", flag.ExitOnError) // flag.CommandLine has flags of controller-runtime, which mean nothing here
	stay := flags.Bool("stay", false, "keep everything running until Ctrl-C, and print the KUBECONFIG to use")
	_ = flags.Parse(os.Args[1:]) // it exits
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *stay); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, stay bool) (err error) {
	logs, err := os.MkdirTemp("", "nodebootstrap-demo-")
	if err != nil {
		return err
	}
	began := time.Now()
	fmt.Println("Starting etcd, kube-apiserver and kube-controller-manager ...")
	cluster, err := localcluster.Start(ctx, localcluster.Config{LogDir: logs})
	if err != nil {
		return withLogs(ctx, err, logs)
	}
	defer func() { err = finish(ctx, cluster, err, logs, began) }()
	fmt.Println("Installing CRD and RBAC, starting the manager as its own ServiceAccount ...")
	if err := operator.Install(ctx, cluster); err != nil {
		return err
	}
	if _, err := operator.Start(ctx, cluster, "--cluster-server", cluster.Server()); err != nil {
		return err
	}
	for _, act := range []func(context.Context, *localcluster.Cluster) error{join, steal, pin} {
		if err := act(ctx, cluster); err != nil {
			return err
		}
	}
	if err := showTables(ctx, cluster); err != nil {
		return err
	}
	if stay {
		return waitForInterrupt(ctx, cluster)
	}
	return nil
}

// finish stops the cluster. An error names the directory of the logs, which are kept then.
func finish(ctx context.Context, cluster *localcluster.Cluster, err error, logs string, began time.Time) error {
	if stopErr := cluster.Stop(); stopErr != nil {
		return fmt.Errorf("%w\nThe logs are in %s", errors.Join(err, stopErr), logs)
	}
	if err != nil {
		return withLogs(ctx, err, logs)
	}
	fmt.Printf("Stopped everything; all of it took %.1f s.\n", time.Since(began).Seconds())
	return os.RemoveAll(logs)
}

// withLogs adds the place of the logs to an error, except after an interrupt, which is no failure.
func withLogs(ctx context.Context, err error, logs string) error {
	if ctx.Err() != nil {
		return errors.Join(errors.New("interrupted; everything is stopped"), os.RemoveAll(logs))
	}
	return fmt.Errorf("%w\nThe logs are in %s", err, logs)
}

// join does what a person does for a node, and watches the rest.
func join(ctx context.Context, cluster *localcluster.Cluster) error {
	s, credential, err := beginWith(ctx, cluster, node, sample)
	if err != nil {
		return err
	}
	config := localcluster.KubeletConfig{NodeName: node, BootstrapKubeconfig: credential}
	return s.start(ctx, cluster, config, "the published kubeconfig and nothing else",
		csrSeen, approved, issued, registered, nodeReady, joined, tokenGone, kubeconfigGone)
}

// steal shows that a kubeconfig is worthless under any other name.
func steal(ctx context.Context, cluster *localcluster.Cluster) error {
	s, credential, err := beginWith(ctx, cluster, victim, second)
	if err != nil {
		return err
	}
	config := localcluster.KubeletConfig{NodeName: thief, BootstrapKubeconfig: credential}
	return s.start(ctx, cluster, config, "the kubeconfig of "+victim, csrSeen, denied, alarmed, tokenGone, kubeconfigGone, waits)
}

// beginWith begins with a manifest of this repository.
func beginWith(ctx context.Context, cluster *localcluster.Cluster, node, manifest string) (*story, []byte, error) {
	root, err := localcluster.ProjectRoot()
	if err != nil {
		return nil, nil, err
	}
	return begin(ctx, cluster, node, root, manifest)
}

// begin applies a manifest in a directory, waits for the node's credential, and returns its kubeconfig.
func begin(ctx context.Context, cluster *localcluster.Cluster, node, dir, manifest string) (*story, []byte, error) {
	scheme, err := objects.NewScheme()
	if err != nil {
		return nil, nil, err
	}
	c, err := client.NewWithWatch(cluster.AdminConfig(), client.Options{Scheme: scheme})
	if err != nil {
		return nil, nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	path := filepath.Join(dir, manifest)
	if err := showFile(path, manifest); err != nil {
		return nil, nil, err
	}
	s, err := newStory(ctx, c, node)
	if err != nil {
		return nil, nil, err
	}
	if _, err := operator.Kubectl(ctx, cluster, "apply", "-f", path); err != nil {
		return nil, nil, err
	}
	if err := s.waitFor(ctx, published); err != nil {
		return nil, nil, err
	}
	var secret corev1.Secret
	if err := c.Get(ctx, client.ObjectKey{Namespace: operator.Namespace, Name: owned.KubeconfigSecretName(node)}, &secret); err != nil {
		return nil, nil, fmt.Errorf("reading the published kubeconfig: %w", err)
	}
	return s, secret.Data[kubeconfig.Key], nil
}

// start runs a kubelet and waits for the outcome.
func (s *story) start(ctx context.Context, cluster *localcluster.Cluster, config localcluster.KubeletConfig, with string, steps ...string) error {
	s.print("kubelet of " + config.NodeName + " started, with " + with)
	k, err := cluster.StartKubelet(ctx, config)
	if err != nil {
		return err
	}
	for _, step := range steps {
		if err := s.waitFor(ctx, step); err != nil {
			return fmt.Errorf("%w; see %s", err, k.LogFile())
		}
	}
	return nil
}

func showFile(path, name string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	fmt.Printf("\n$ kubectl apply -f %s\n%s\n", name, content)
	return nil
}

func showTables(ctx context.Context, cluster *localcluster.Cluster) error {
	for _, args := range [][]string{{"get", "nodebootstraps", "-o", "wide"}, {"get", "nodes"}} {
		out, err := operator.Kubectl(ctx, cluster, args...)
		if err != nil {
			return err
		}
		fmt.Printf("\n$ kubectl %s\n%s", strings.Join(args, " "), out)
	}
	fmt.Println()
	return nil
}

func waitForInterrupt(ctx context.Context, cluster *localcluster.Cluster) error {
	path, err := cluster.WriteAdminKubeconfig()
	if err != nil {
		return err
	}
	kubectl, err := cluster.Binary("kubectl")
	if err != nil {
		return err
	}
	fmt.Printf("Everything stays until Ctrl-C. In another terminal:\n\n  export KUBECONFIG=%s\n  %s get nodebootstraps -o wide\n\nThe logs are in %s\n",
		path, kubectl, cluster.LogDir())
	<-ctx.Done()
	fmt.Println("\nStopping ...")
	return nil
}
