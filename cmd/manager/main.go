// SPDX-License-Identifier: Apache-2.0

// Command manager is the operator: it lets each machine with a NodeBootstrap join as the node of that name, and as no other.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager/signals"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/nodebootstrap/nodebootstrap/controllers"
	"github.com/nodebootstrap/nodebootstrap/controllers/apiserver"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/version"
)

const (
	defaultNamespace = version.Namespace
	// namespaceFile has the namespace of the Pod.
	namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
	// gcPercent is the GOGC value if the environment variable is not set: half of Go's default takes a fifth less memory and
	// costs a twentieth of the speed.
	gcPercent = 50
)

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if err := run(signals.SetupSignalHandler(), os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "nodebootstrap: %v\n", err)
		os.Exit(1)
	}
}

type options struct {
	controllers.Options
	leaderElect   bool
	metrics       metricsOptions
	pprofAddress  string
	healthAddress string
	version       bool
	zap           zap.Options
}

func parse(args []string) (options, error) {
	o := options{Options: controllers.Options{Registry: metrics.Registry}}
	fs := flag.NewFlagSet("manager", flag.ContinueOnError)
	config.RegisterFlags(fs)
	fs.StringVar(&o.Namespace, "namespace", "",
		"The namespace for the Secrets with the bootstrap kubeconfigs. Defaults to the namespace of the Pod, else "+defaultNamespace+".")
	fs.StringVar(&o.ClusterServer, "cluster-server", "",
		"The https URL at which nodes reach the API server, for NodeBootstraps without spec.cluster.server. Defaults to the one in the ConfigMap kube-public/cluster-info.")
	fs.StringVar(&o.ClusterCAFile, "cluster-ca-file", "",
		"A file with the PEM certificates of the API server's CA, for NodeBootstraps without spec.cluster.caBundle. It is read again when it changes. "+
			"Defaults to those in the ConfigMap kube-public/cluster-info, else in kube-root-ca.crt in the namespace. "+
			"NodeBootstraps that need it wait while it is missing, invalid or expired.")
	fs.BoolVar(&o.AllowClusterWide, "allow-cluster-wide-approval", false,
		"Give NodeBootstraps with approval ClusterWide a credential. Whoever has such a token can become any node.")
	fs.BoolVar(&o.leaderElect, "leader-elect", false, "Elect a leader with a Lease in the namespace, so that only one of several replicas works.")
	o.metrics.bindFlags(fs)
	fs.StringVar(&o.healthAddress, "health-probe-bind-address", ":8081", "The address for /healthz and /readyz; 0 for none.")
	fs.StringVar(&o.pprofAddress, "pprof-bind-address", "", "The address for Go's profiles over HTTP, for example 127.0.0.1:6060; none by default. Whoever can reach it can read them.")
	fs.BoolVar(&o.version, "version", false, "Print the version and exit.")
	o.zap.BindFlags(fs)
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected arguments %q: all settings are flags, see --help", fs.Args())
	}
	if o.Namespace == "" {
		o.Namespace = podNamespace()
	}
	return o, o.validate()
}

// validate rejects flags that only a restart can fix. It does not check --cluster-ca-file: the file can appear, change and
// expire at any time, and some NodeBootstraps do not need it. A condition reports its problems, and so does the log at the
// start.
func (o *options) validate() error {
	if o.ClusterServer != "" {
		if err := kubeconfig.ValidateServer(o.ClusterServer); err != nil {
			return fmt.Errorf("flag --cluster-server: %w", err)
		}
	}
	return o.metrics.validate()
}

func podNamespace() string {
	b, err := os.ReadFile(namespaceFile)
	if ns := strings.TrimSpace(string(b)); err == nil && ns != "" {
		return ns
	}
	return defaultNamespace
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return err
	case o.version:
		fmt.Println(version.String())
		return nil
	}
	log := zap.New(zap.UseFlagOptions(&o.zap), withoutBodies)
	ctrl.SetLogger(log)
	klog.SetLogger(log)
	mgr, err := newManager(ctx, o, log)
	if err != nil {
		return err
	}
	log.Info("starting", "version", version.String(), "namespace", o.Namespace)
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("running: %w", err)
	}
	return nil
}

// bodyVerbosity is the --zap-log-level from which client-go logs the bodies of requests and responses (rest/request.go,
// logBody), which hold Secrets.
const bodyVerbosity = 8

// withoutBodies keeps the log below that verbosity, whatever the flag says.
func withoutBodies(o *zap.Options) {
	if o.Level != nil {
		o.Level = belowBodies{o.Level}
	}
}

type belowBodies struct{ zapcore.LevelEnabler }

func (b belowBodies) Enabled(level zapcore.Level) bool {
	return level > -bodyVerbosity && b.LevelEnabler.Enabled(level)
}

func newManager(ctx context.Context, o options, log logr.Logger) (ctrl.Manager, error) {
	cfg, err := config.GetConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the cluster, by --kubeconfig, $KUBECONFIG, the Pod's ServiceAccount or ~/.kube/config: %w", err)
	}
	serverClock := apiserver.NewClock(clock.RealClock{})
	cfg.Wrap(apiserver.LimitMemory)
	cfg.Wrap(serverClock.Wrap)
	cfg.DisableCompression = true // the API server is near: compressing lists takes longer than sending them
	o.Clock = serverClock
	o.Certificates = apiserver.NewCertificates(serverClock)
	cfg.Wrap(o.Certificates.Wrap)
	scheme, err := objects.NewScheme()
	if err != nil {
		return nil, err
	}
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme:                        scheme,
		MapperProvider:                newMapper,
		Logger:                        log,
		Cache:                         objects.CacheOptions(o.Namespace),
		Metrics:                       o.metrics.server(),
		HealthProbeBindAddress:        o.healthAddress,
		PprofBindAddress:              o.pprofAddress,
		LeaderElection:                o.leaderElect,
		LeaderElectionID:              version.Lease,
		LeaderElectionLabels:          map[string]string{version.Label: version.LabelValue()}, // for kubectl nodebootstrap version
		LeaderElectionNamespace:       o.Namespace,
		LeaderElectionReleaseOnCancel: true, // safe, since the process ends right after the manager
		GracefulShutdownTimeout:       ptr.To(10 * time.Second),
	})
	if err != nil {
		return nil, fmt.Errorf("creating the manager: %w", err)
	}
	if err := controllers.Setup(ctx, mgr, o.Options); err != nil {
		return nil, err
	}
	for name, add := range map[string]func(string, healthz.Checker) error{"healthz": mgr.AddHealthzCheck, "readyz": mgr.AddReadyzCheck} {
		if err := add(name, healthz.Ping); err != nil {
			return nil, fmt.Errorf("adding the check %s: %w", name, err)
		}
	}
	return mgr, nil
}
