// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"reflect"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/apiserver"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
)

// caFileInterval is how often --cluster-ca-file is read. A mounted ConfigMap changes by swapped symlinks, up to a minute late,
// so polling is simpler than watching and fast enough.
const caFileInterval = 5 * time.Second

// Discovery finds the endpoint and CA of the cluster for NodeBootstraps that do not specify them.
type Discovery struct {
	// Reader reads ConfigMaps.
	Reader client.Reader
	// Namespace is the operator's.
	Namespace string
	// Server is the flag --cluster-server; empty if it is not set.
	Server string
	// CAFile is the flag --cluster-ca-file; empty if it is not set.
	CAFile string
	// Certificates are those that the API server presents; nil if they are unknown.
	Certificates *apiserver.Certificates

	mu   sync.Mutex
	last *resolved
}

// resolved is the last result without a problem.
type resolved struct {
	spec    v1alpha1.ClusterSpec
	sources kubeconfig.Sources
	cluster kubeconfig.Cluster
}

// Resolve finds endpoint and CA for a NodeBootstrap at a time. Most NodeBootstraps have the same ones, so the last result is
// kept and its certificates are parsed once. (DeepEqual treats equal pointers as equal and does not compare the certificates
// behind them.)
func (d *Discovery) Resolve(ctx context.Context, spec v1alpha1.ClusterSpec, now time.Time) (kubeconfig.Cluster, *problem.Problem, error) {
	sources, err := d.Sources(ctx)
	if err != nil {
		return kubeconfig.Cluster{}, nil, err
	}
	d.mu.Lock()
	last := d.last
	d.mu.Unlock()
	if last != nil && last.spec == spec && reflect.DeepEqual(last.sources, sources) && now.Before(last.cluster.CAExpires) {
		return last.cluster, nil, nil
	}
	cluster, why := kubeconfig.Resolve(spec, sources, now)
	if why == nil {
		d.mu.Lock()
		d.last = &resolved{spec, sources, cluster}
		d.mu.Unlock()
	}
	return cluster, why, nil
}

// Sources reads all possible sources of endpoint and CA. An absent ConfigMap is an empty value. A failed read is an error,
// except for the file, which an administrator must fix.
func (d *Discovery) Sources(ctx context.Context) (kubeconfig.Sources, error) {
	s := kubeconfig.Sources{FlagServer: d.Server, Presented: d.Certificates.Recent()}
	if d.CAFile != "" {
		s.FlagCA, s.FlagCAError = os.ReadFile(d.CAFile)
	}
	var err error
	s.ClusterInfo, err = d.read(ctx, metav1.NamespacePublic, bootstrapapi.ConfigMapClusterInfo, bootstrapapi.KubeConfigKey)
	if err != nil {
		return s, err
	}
	s.RootCA, err = d.read(ctx, d.Namespace, objects.RootCAConfigMap, objects.RootCAKey)
	return s, err
}

// Reserved returns the API server's hosts that the sources name, whether used or not, and those in its certificates.
func (d *Discovery) Reserved(ctx context.Context) ([]csr.Reservation, error) {
	sources, err := d.Sources(ctx)
	if err != nil {
		return nil, err
	}
	out := kubeconfig.ReservedBySources(sources)
	for _, c := range d.Certificates.Leaves() {
		out = append(out, kubeconfig.ReservedByCertificate(c)...)
	}
	return out, nil
}

// usedData returns the value that the operator reads from a watched ConfigMap.
func usedData(cm *corev1.ConfigMap) string {
	if cm.Name == bootstrapapi.ConfigMapClusterInfo {
		return cm.Data[bootstrapapi.KubeConfigKey]
	}
	return cm.Data[objects.RootCAKey]
}

func (d *Discovery) read(ctx context.Context, namespace, name, key string) (string, error) {
	var cm corev1.ConfigMap
	if err := d.Reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &cm); client.IgnoreNotFound(err) != nil {
		return "", fmt.Errorf("reading the ConfigMap %s/%s: %w", namespace, name, err)
	}
	return cm.Data[key], nil
}

// CAFileProblem returns why the file of --cluster-ca-file cannot be used at a time; nil if it can, or if the flag is not set.
func (d *Discovery) CAFileProblem(now time.Time) error {
	if d.CAFile == "" {
		return nil
	}
	ca, err := os.ReadFile(d.CAFile)
	if err == nil {
		err = kubeconfig.ValidateCA(ca, now)
	}
	if err != nil {
		return fmt.Errorf("flag --cluster-ca-file: %w", err)
	}
	return nil
}

// WatchCAFile calls changed whenever the content of --cluster-ca-file changes, until the context ends.
func (d *Discovery) WatchCAFile(ctx context.Context, changed func()) {
	if d.CAFile == "" {
		return
	}
	last, failed := os.ReadFile(d.CAFile)
	wait.UntilWithContext(ctx, func(context.Context) {
		// A file that becomes unreadable is a change, too: the nodes' conditions report it.
		if now, err := os.ReadFile(d.CAFile); !bytes.Equal(now, last) || (err == nil) != (failed == nil) {
			last, failed = now, err
			changed()
		}
	}, caFileInterval)
}
