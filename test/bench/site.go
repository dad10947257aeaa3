// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// writers write in parallel, as many as keep the API server busy.
const writers = 32

// A site is a fresh cluster with the operator's CRD and RBAC.
type site struct {
	*env.Env
	caFile string
}

// onSite runs a measurement in a fresh cluster. Without kube-controller-manager only the measured processes are at work.
func onSite(ctx context.Context, cfg localcluster.Config, run func(*site) error) error {
	e, err := env.Start(ctx, cfg)
	if err != nil {
		return err
	}
	s := &site{Env: e, caFile: filepath.Join(e.Dir(), "server-ca.crt")}
	err = os.WriteFile(s.caFile, e.ServerCA(), 0o600)
	if err == nil {
		err = run(s)
	}
	return errors.Join(err, e.Stop())
}

// onSites runs a measurement with several fresh clusters side by side.
func onSites(ctx context.Context, cfgs []localcluster.Config, run func([]*site) error) error {
	if len(cfgs) == 0 {
		return run(nil)
	}
	return onSite(ctx, cfgs[0], func(first *site) error {
		return onSites(ctx, cfgs[1:], func(others []*site) error { return run(append([]*site{first}, others...)) })
	})
}

// quiet is a cluster without controllers.
var quiet = localcluster.Config{NoControllerManager: true}

// A running manager, and the URL of its metrics.
type running struct {
	*operator.Manager
	metrics, pprof string
}

// start runs a build of the manager.
func (s *site) start(ctx context.Context, b build) (*running, error) {
	var ports [2]int
	for i := range ports {
		var err error
		if ports[i], err = localcluster.FreePort(); err != nil {
			return nil, err
		}
	}
	address := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	m, err := operator.StartBinary(ctx, s.Cluster, b.binary, "--cluster-server", s.Server(), "--cluster-ca-file", s.caFile,
		"--metrics-bind-address", address(0), "--metrics-secure=false", "--pprof-bind-address", address(1), "--zap-log-level", "error")
	if err != nil {
		return nil, err
	}
	r := &running{m, "http://" + address(0) + "/metrics", "http://" + address(1)}
	return r, until(ctx, time.Millisecond, "the manager's metrics", func() (bool, error) { return localcluster.Answers(ctx, r.metrics), nil })
}

// profile takes CPU profiles of the API server, and of the manager if there is one, until stop is called; if profiles are wanted.
func (b *bench) profile(ctx context.Context, s *site, m *running, name string) (stop func() error) {
	if b.profiles == "" {
		return func() error { return nil }
	}
	var group errgroup.Group
	const query = "/debug/pprof/profile?seconds=10"
	store := func(who string, content []byte, err error) error {
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(b.profiles, name+"-"+who+".pprof"), content, 0o600)
	}
	group.Go(func() error {
		content, err := s.raw(ctx, query)
		return store("kube-apiserver", content, err)
	})
	if m != nil {
		group.Go(func() error {
			content, err := get(ctx, m.pprof+query)
			return store("manager", content, err)
		})
	}
	return group.Wait
}

func get(ctx context.Context, url string) ([]byte, error) {
	return getWith(ctx, http.DefaultClient, url)
}

func getWith(ctx context.Context, c *http.Client, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := c.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	return io.ReadAll(response.Body)
}

// sum adds up a metric of the manager over all series with the given labels.
func (m *running) sum(ctx context.Context, name string, labels map[string]string) (float64, error) {
	content, err := get(ctx, m.metrics)
	if err != nil {
		return 0, err
	}
	return sumOf(content, name, labels)
}

func sumOf(content []byte, name string, labels map[string]string) (float64, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(content))
	if err != nil {
		return 0, err
	}
	total := 0.0
	for _, m := range families[name].GetMetric() {
		if hasLabels(m, labels) {
			total += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return total, nil
}

func hasLabels(m *dto.Metric, want map[string]string) bool {
	found := 0
	for _, l := range m.GetLabel() {
		if v, ok := want[l.GetName()]; ok && v == l.GetValue() {
			found++
		}
	}
	return found == len(want)
}

// raw reads from the API server.
func (s *site) raw(ctx context.Context, path string) ([]byte, error) {
	c, err := rest.HTTPClientFor(s.AdminConfig())
	if err != nil {
		return nil, err
	}
	return getWith(ctx, c, s.Server()+path)
}

// writes is how many writes the API server has stored or refused, by its own metrics. Leases and reviews do not count.
func (s *site) writes(ctx context.Context, resource string) (float64, error) {
	content, err := s.raw(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	total := 0.0
	for _, verb := range []string{"POST", "PUT", "PATCH", "APPLY", "DELETE"} {
		n, err := sumOf(content, "apiserver_request_total", map[string]string{"verb": verb, "resource": resource})
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// inParallel does n things, as many at a time as there are writers.
func inParallel(n int, do func(i int) error) error { return atOnce(writers, n, do) }

// atOnce does n things, some at a time, and returns the first error.
func atOnce(some, n int, do func(i int) error) error {
	var group errgroup.Group
	group.SetLimit(some)
	for i := range n {
		group.Go(func() error { return do(i) })
	}
	return group.Wait()
}

// until polls until a condition holds.
func until(ctx context.Context, every time.Duration, what string, is func() (bool, error)) error {
	const patience = 10 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		yes, err := is()
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		if yes {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		case <-ticker.C:
		}
	}
}

// createNodes creates Nodes as kubelets that have joined leave them.
func (s *site) createNodes(ctx context.Context, n int, name func(int) string) error {
	return inParallel(n, func(i int) error {
		if err := s.createNode(ctx, name(i)); err != nil {
			return err
		}
		return s.Client.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name(i)},
			Spec:       coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: time.Now()}},
		})
	})
}

// createNode registers a node with its status, as a kubelet does.
func (s *site) createNode(ctx context.Context, name string) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	node.Status.NodeInfo.KubeletVersion = "v1.37.0"
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
	return s.Client.Create(ctx, node)
}
