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

// caFilePoll is how often --cluster-ca-file is looked at. A mounted ConfigMap changes by swapped links, a minute late
// anyway, so that looking is simpler than watching and soon enough.
const caFilePoll = 5 * time.Second

// Discovery finds the endpoint and CA of the cluster where a NodeBootstrap does not give them.
type Discovery struct {
	// Reader reads ConfigMaps.
	Reader client.Reader
	// Namespace is the operator's.
	Namespace string
	// Server is the flag --cluster-server; empty when it is not given.
	Server string
	// CAFile is the flag --cluster-ca-file; empty when it is not given.
	CAFile string
	// Certificates are those that the API server presents; nil when that is not known.
	Certificates *apiserver.Certificates

	mu   sync.Mutex
	last *resolved
}

// resolved is what was found for a spec, when there was no problem.
type resolved struct {
	spec    v1alpha1.ClusterSpec
	sources kubeconfig.Sources
	cluster kubeconfig.Cluster
}

// Resolve finds endpoint and CA for a NodeBootstrap at a time. Usually all of them and all passes ask for the same, whose
// certificates are then parsed once. (DeepEqual takes the same pointer for equal: it does not look into certificates.)
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

// Sources reads all places where endpoint and CA may be. A place that is not there is empty; one that cannot be read is an
// error, except for the file, which somebody has to fix.
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

// Reserved are the hosts of the API server that the sources name, be they used or not, and those in its certificates.
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

// usedData is all that is read of a ConfigMap that is watched.
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

// CAFileProblem is why the file of --cluster-ca-file cannot be used at a time; nil when it can, or when there is no such flag.
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

// WatchCAFile calls changed whenever the content of --cluster-ca-file is another one, until the context ends.
func (d *Discovery) WatchCAFile(ctx context.Context, changed func()) {
	if d.CAFile == "" {
		return
	}
	last, failed := os.ReadFile(d.CAFile)
	wait.UntilWithContext(ctx, func(context.Context) {
		// Unreadable is a content too: nodes are told of it.
		if now, err := os.ReadFile(d.CAFile); !bytes.Equal(now, last) || (err == nil) != (failed == nil) {
			last, failed = now, err
			changed()
		}
	}, caFilePoll)
}
