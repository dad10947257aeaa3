// SPDX-License-Identifier: Apache-2.0

// Command bench measures the operator as a separate process, under its own ServiceAccount, on a real control plane on this
// machine. Each figure stands beside one taken in the same run without what it is about, since machines differ.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/controllers"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
)

type options struct {
	rounds  int
	foreign int
	out     string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 3, "how often each measurement is repeated")
	flag.IntVar(&o.foreign, "foreign", 2000, "how many requests of others are pending in the flood")
	flag.StringVar(&o.out, "out", "bench.json", "the file for the figures")
	flag.Parse()
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// bench is what the measurements share.
type bench struct {
	options
	cluster *localcluster.Cluster
	client  client.WithWatch // the administrator's
	figures map[string]float64
}

func run(ctx context.Context, o options) (err error) {
	cluster, err := localcluster.Start(ctx, localcluster.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	if err := operator.Install(ctx, cluster); err != nil {
		return err
	}
	if _, err := operator.Start(ctx, cluster, "--cluster-server", cluster.Server()); err != nil {
		return err
	}
	scheme, err := controllers.NewScheme()
	if err != nil {
		return err
	}
	c, err := client.NewWithWatch(cluster.AdminConfig(), client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("connecting to the cluster: %w", err)
	}
	b := &bench{options: o, cluster: cluster, client: c, figures: map[string]float64{}}
	if err := b.flood(ctx); err != nil {
		return fmt.Errorf("measuring a flood of requests: %w", err)
	}
	content, err := json.MarshalIndent(b.figures, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.out, append(content, '\n'), 0o600)
}
