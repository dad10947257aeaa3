// SPDX-License-Identifier: Apache-2.0

// Command demo shows the operator's main job on a real control plane and a real kubelet, on this machine: a NodeBootstrap of
// four lines is applied, a stock kubelet is given the published kubeconfig and nothing else, and joins.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/go-logr/logr"

	"github.com/nodebootstrap/nodebootstrap/controllers"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
)

const (
	node   = "worker-1" // of config/samples/nodebootstrap.yaml
	sample = "config/samples/nodebootstrap.yaml"
	// stepLimit is for a busy machine; a step takes a second or two.
	stepLimit = 2 * time.Minute
)

func main() {
	stay := flag.Bool("stay", false, "keep everything running until Ctrl-C, and print the KUBECONFIG to use")
	flag.Parse()
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
	if err := join(ctx, cluster); err != nil {
		return err
	}
	if err := showTables(ctx, cluster); err != nil {
		return err
	}
	if stay {
		return waitForInterrupt(ctx, cluster)
	}
	return nil
}

// finish stops the cluster. What went wrong is said with the place of the logs, which stay for it.
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

// withLogs leaves an interrupt without logs: nothing went wrong.
func withLogs(ctx context.Context, err error, logs string) error {
	if ctx.Err() != nil {
		return errors.Join(errors.New("interrupted; everything is stopped"), os.RemoveAll(logs))
	}
	return fmt.Errorf("%w\nThe logs are in %s", err, logs)
}

// join is the story: all that a person does is in it, and the rest is watched.
func join(ctx context.Context, cluster *localcluster.Cluster) error {
	scheme, err := controllers.NewScheme()
	if err != nil {
		return err
	}
	c, err := client.NewWithWatch(cluster.AdminConfig(), client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("connecting to the cluster: %w", err)
	}
	root, err := localcluster.ProjectRoot()
	if err != nil {
		return err
	}
	manifest := filepath.Join(root, sample)
	if err := showFile(manifest); err != nil {
		return err
	}
	s, err := newStory(ctx, c, node)
	if err != nil {
		return err
	}
	if _, err := operator.Kubectl(ctx, cluster, "apply", "-f", manifest); err != nil {
		return err
	}
	if err := s.waitFor(ctx, published); err != nil {
		return err
	}
	var secret corev1.Secret
	if err := c.Get(ctx, client.ObjectKey{Namespace: operator.Namespace, Name: bootstrap.KubeconfigSecretName(node)}, &secret); err != nil {
		return fmt.Errorf("reading the published kubeconfig: %w", err)
	}
	s.tell("kubelet started, with the published kubeconfig and nothing else")
	kubelet, err := cluster.StartKubelet(ctx, localcluster.KubeletConfig{NodeName: node, BootstrapKubeconfig: secret.Data[bootstrap.KubeconfigKey]})
	if err != nil {
		return err
	}
	for _, step := range []string{csrSeen, approved, issued, registered, nodeReady, joined, tokenGone, kubeconfigGone} {
		if err := s.waitFor(ctx, step); err != nil {
			return fmt.Errorf("%w; see %s", err, kubelet.LogFile())
		}
	}
	return nil
}

func showFile(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	fmt.Printf("\n$ kubectl apply -f %s\n%s\n", sample, content)
	return nil
}

func showTables(ctx context.Context, cluster *localcluster.Cluster) error {
	for _, args := range [][]string{{"get", "nodebootstraps"}, {"get", "nodes"}} {
		out, err := operator.Kubectl(ctx, cluster, args...)
		if err != nil {
			return err
		}
		fmt.Printf("\n$ kubectl %s %s\n%s", args[0], args[1], out)
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
