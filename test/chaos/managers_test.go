// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
)

// restartDelay is how soon a manager that has ended by itself is restarted. A kubelet would back off.
const restartDelay = 300 * time.Millisecond

// verbosity is the highest: anything that does not leak there leaks nowhere.
const verbosity = "10"

// managers are the manager's processes: one, or two for a moment.
type managers struct {
	s           *suite
	binary      string
	kubeconfig  string
	leaderElect bool // for managers started from now on

	mu      sync.Mutex
	running []*manager
	started int
	killed  int
	ended   int // by themselves
	retired bool
	// overlapped is until when writes of a superseded manager can still arrive.
	overlapped time.Time
}

// manager is one process.
type manager struct {
	*localcluster.Program
	name    string
	metrics string // URL
	killed  bool
}

// newManagers creates a kubeconfig of the operator's ServiceAccount that leads through the proxy. Its address differs from that
// in the kubeconfigs of nodes, which lead to the API server directly, but its host is the same, because the API server's
// certificate is for it.
func newManagers(ctx context.Context, s *suite) (*managers, error) {
	root, err := localcluster.ProjectRoot()
	if err != nil {
		return nil, err
	}
	content, err := s.env.ServiceAccountKubeconfig(ctx, operator.Namespace, operator.ServiceAccount)
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.Load(content)
	if err != nil {
		return nil, err
	}
	for _, cluster := range config.Clusters {
		cluster.Server = "https://" + s.proxy.address()
	}
	ms := &managers{s: s, binary: filepath.Join(root, "bin", "manager"), kubeconfig: filepath.Join(s.env.Dir(), "proxied.kubeconfig")}
	return ms, clientcmd.WriteToFile(*config, ms.kubeconfig)
}

// start starts another manager, and keeps one running from then on.
func (ms *managers) start() error {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return ms.startLocked()
}

// ensure starts a manager if none runs.
func (ms *managers) ensure() error {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if len(ms.running) > 0 {
		return nil
	}
	return ms.startLocked()
}

func (ms *managers) startLocked() error {
	if ms.retired {
		return nil
	}
	port, err := localcluster.FreePort()
	if err != nil {
		return err
	}
	ms.started++
	m := &manager{name: fmt.Sprintf(managerLog+"%03d", ms.started), metrics: fmt.Sprintf("http://127.0.0.1:%d/metrics", port)}
	m.Program, err = ms.s.env.StartProgram(m.name, ms.binary,
		"--kubeconfig", ms.kubeconfig, "--namespace", operator.Namespace, "--cluster-server", ms.s.env.Server(),
		"--metrics-bind-address", fmt.Sprintf("127.0.0.1:%d", port), "--metrics-secure=false", "--health-probe-bind-address", "0",
		fmt.Sprintf("--leader-elect=%t", ms.leaderElect), "--zap-devel", "--zap-log-level="+verbosity, "--zap-stacktrace-level=panic")
	if err != nil {
		return err
	}
	ms.running = append(ms.running, m)
	ms.s.line.note("started %s leader-elect=%t", m.name, ms.leaderElect)
	go ms.keep(m)
	return nil
}

// elect sets whether managers started from now on elect a leader.
func (ms *managers) elect(leader bool) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.leaderElect = leader
}

func (ms *managers) electing() bool {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return ms.leaderElect
}

// keep starts another manager when one has ended that was not killed.
func (ms *managers) keep(m *manager) {
	<-m.Done()
	ms.mu.Lock()
	ms.running = slices.DeleteFunc(ms.running, func(r *manager) bool { return r == m })
	itself := !m.killed && !ms.retired
	if itself {
		ms.ended++
		ms.overlapped = time.Now().Add(lateAfterKill + ms.s.proxy.lag())
	}
	ms.mu.Unlock()
	if !itself {
		return
	}
	ms.s.line.note("%s has ended by itself", m.name)
	wait(ms.s.ctx, restartDelay)
	if err := ms.ensure(); err != nil && ms.s.ctx.Err() == nil {
		ms.s.fail("starting the manager again: %v", err)
	}
}

// lateAfterKill and lateAfterPair are for how long writes of a killed manager can still arrive, in addition to the network's
// delay. With two managers it is unknown which of them sent a write last.
const (
	lateAfterKill = 500 * time.Millisecond
	lateAfterPair = 3 * time.Second
)

// overlap reports whether a superseded manager may still write. While the API server waits for etcd, that is unknown.
func (ms *managers) overlap() bool {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return len(ms.running) > 1 || ms.s.outage.Load() || time.Now().Before(ms.overlapped)
}

// kill ends a manager by SIGKILL. A manager that has just ended by itself does not count.
func (ms *managers) kill(m *manager) error {
	ms.mu.Lock()
	select {
	case <-m.Done():
	default:
		late := lateAfterKill
		if len(ms.running) > 1 {
			late = lateAfterPair
		}
		m.killed, ms.overlapped = true, time.Now().Add(late+ms.s.proxy.lag())
		ms.killed++
		ms.s.line.note("killing %s, as number %d", m.name, ms.killed)
	}
	ms.running = slices.DeleteFunc(ms.running, func(r *manager) bool { return r == m })
	ms.mu.Unlock()
	return m.Kill()
}

func (ms *managers) kills() int {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return ms.killed
}

// oldest is the manager that has run for longest; nil if none runs.
func (ms *managers) oldest() *manager {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if len(ms.running) == 0 {
		return nil
	}
	return ms.running[0]
}

func (ms *managers) count() int {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return len(ms.running)
}

// retire kills all managers and starts no more.
func (ms *managers) retire() error {
	ms.mu.Lock()
	ms.retired = true
	all := append([]*manager(nil), ms.running...)
	ms.mu.Unlock()
	for _, m := range all {
		if err := ms.kill(m); err != nil {
			return err
		}
	}
	return nil
}

// vacateLease deletes the Lease of a dead leader, so that the next one need not wait until it expires.
func (ms *managers) vacateLease(ctx context.Context) {
	ms.s.admin.insist(ctx, "deleting the Lease of a dead leader", func(ctx context.Context) error {
		leases := ms.s.admin.clientset.CoordinationV1().Leases(operator.Namespace)
		list, err := leases.List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, lease := range list.Items {
			if err := ignoreNotFound(leases.Delete(ctx, lease.Name, metav1.DeleteOptions{})); err != nil {
				return err
			}
		}
		return nil
	})
}

// scrape appends the managers' /metrics to a file, again and again, for the search for secrets.
func (ms *managers) scrape(ctx context.Context, file *os.File) {
	for ctx.Err() == nil {
		if m := ms.oldest(); m != nil {
			if content, err := m.scrape(ctx); err == nil {
				_, _ = file.Write(content)
			}
		}
		wait(ctx, time.Second)
	}
}

func (m *manager) scrape(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, m.metrics, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}
