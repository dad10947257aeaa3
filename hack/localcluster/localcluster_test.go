// SPDX-License-Identifier: Apache-2.0

//go:build linux

package localcluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	// helperVariable makes the test binary start a cluster and wait to be killed.
	helperVariable = "LOCALCLUSTER_TEST_HELPER"
	tokenID        = "abcdef"
	tokenSecret    = "0123456789abcdef"
	tokenGroup     = "system:bootstrappers:test"
)

func TestMain(m *testing.M) {
	if os.Getenv(helperVariable) == "" {
		os.Exit(m.Run())
	}
	if err := runHelper(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func TestKubeletJoinsAndStopLeavesNothing(t *testing.T) {
	needRoot(t)
	begin := time.Now()
	c := start(t, Config{})
	t.Logf("the cluster was ready after %s", time.Since(begin))
	client := kubernetes.NewForConfigOrDie(c.AdminConfig())
	allowTestToken(t, client)

	begin = time.Now()
	k := startTestKubelet(t, c, KubeletConfig{NodeName: "node-a", ServerTLSBootstrap: true})
	eventually(t, "the node is ready", func() error { return nodeReady(t.Context(), client, "node-a") })
	t.Logf("the node was ready after %s", time.Since(begin))
	if !exists(k.Kubeconfig()) {
		t.Errorf("%s does not exist", k.Kubeconfig())
	}
	mountBelow(t, k.Dir())

	pids := pids(c)
	t.Logf("process groups: %v", pids)
	begin = time.Now()
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	t.Logf("all was stopped after %s", time.Since(begin))
	for _, pid := range append(pids, children()...) {
		if alive(pid) {
			t.Errorf("process %d is still there", pid)
		}
	}
	if exists(c.Dir()) || len(mountsBelow(c.Dir())) > 0 {
		t.Errorf("%s is still there", c.Dir())
	}
	if err := c.Stop(); err != nil {
		t.Errorf("the second Stop: %v", err)
	}
}

func TestKubeletGoesOnInItsDirectory(t *testing.T) {
	needRoot(t)
	c := start(t, Config{})
	client := kubernetes.NewForConfigOrDie(c.AdminConfig())
	allowTestToken(t, client)
	first := startTestKubelet(t, c, KubeletConfig{NodeName: "node-a"})
	eventually(t, "the node is ready", func() error { return nodeReady(t.Context(), client, "node-a") })

	if _, err := c.StartKubelet(t.Context(), KubeletConfig{NodeName: "node-a", Dir: first.Dir()}); err == nil {
		t.Error("a second kubelet started in the directory of one that runs")
	}
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	nodes := client.CoreV1().Nodes()
	if err := nodes.Delete(t.Context(), "node-a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.StartKubelet(t.Context(), KubeletConfig{NodeName: "node-a", Dir: first.Dir()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node is ready again", func() error { return nodeReady(t.Context(), client, "node-a") })
}

func TestControllerManagerRestartsWithOtherFlags(t *testing.T) {
	c := start(t, Config{ControllerManagerArgs: map[string]string{"controllers": "csrapproving"}})
	before := c.manager.pid()
	if err := c.StartControllerManager(t.Context(), nil); err == nil {
		t.Error("a second kube-controller-manager started")
	}
	if err := c.StopControllerManager(); err != nil {
		t.Fatal(err)
	}
	unsigned := map[string]string{"cluster-signing-cert-file": "", "cluster-signing-key-file": ""}
	if err := c.StartControllerManager(t.Context(), unsigned); err != nil {
		t.Fatal(err)
	}
	if alive(before) {
		t.Errorf("process %d is still there", before)
	}
	client := kubernetes.NewForConfigOrDie(c.AdminConfig())
	eventually(t, "the default ServiceAccount exists", func() error {
		_, err := client.CoreV1().ServiceAccounts("default").Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	cfg, err := c.ServiceAccountConfig(t.Context(), "default", "default")
	if err != nil {
		t.Fatal(err)
	}
	if name := whoAmI(t, kubernetes.NewForConfigOrDie(cfg)); name != "system:serviceaccount:default:default" {
		t.Errorf("the ServiceAccount's token is %q", name)
	}
}

func TestWithoutBootstrapTokensTheyAreRefused(t *testing.T) {
	c := start(t, Config{
		NoControllerManager: true, LogDir: t.TempDir(),
		APIServerArgs: map[string]string{"enable-bootstrap-token-auth": "false"},
	})
	client := kubernetes.NewForConfigOrDie(c.AdminConfig())
	allowTestToken(t, client)
	cfg := c.anonymousConfig()
	cfg.BearerToken = tokenID + "." + tokenSecret
	_, err := kubernetes.NewForConfigOrDie(cfg).CertificatesV1().CertificateSigningRequests().List(t.Context(), metav1.ListOptions{})
	if err == nil || !strings.Contains(err.Error(), "Unauthorized") {
		t.Errorf("a bootstrap token was answered with %v", err)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if !exists(filepath.Join(c.LogDir(), "kube-apiserver.log")) {
		t.Error("the log was removed")
	}
}

func TestFailedStartNamesTheLogAndLeavesNothing(t *testing.T) {
	logs := t.TempDir()
	cases := map[string]Config{
		"kube-apiserver":          {LogDir: logs, APIServerArgs: map[string]string{"no-such-flag": "x"}},
		"kube-controller-manager": {LogDir: logs, ControllerManagerArgs: map[string]string{"no-such-flag": "x"}},
	}
	for name, cfg := range cases {
		t.Run(name, func(t *testing.T) {
			c, err := Start(t.Context(), cfg)
			if err == nil {
				t.Fatal(errors.Join(errors.New("it started"), c.Stop()))
			}
			for _, part := range []string{filepath.Join(logs, name+".log"), "unknown flag: --no-such-flag"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error lacks %q: %v", part, err)
				}
			}
			if left := children(); len(left) > 0 {
				t.Errorf("processes %v are left", left)
			}
		})
	}
}

func TestCancelledStartLeavesNothing(t *testing.T) {
	for _, after := range []time.Duration{0, 100 * time.Millisecond, time.Second, 2500 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		begin := time.Now()
		c, err := Start(ctx, Config{})
		cancel()
		if err == nil { // A fast machine.
			err = c.Stop()
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cancelled after %s, Start failed with %v", after, err)
		}
		t.Logf("cancelled after %s, returned after %s: %v", after, time.Since(begin), err)
		if left := children(); len(left) > 0 {
			t.Errorf("processes %v are left", left)
		}
	}
}

func TestNothingSurvivesAHardKill(t *testing.T) {
	needRoot(t)
	helper := exec.Command(os.Args[0])
	helper.Env = append(os.Environ(), helperVariable+"=1")
	output, err := helper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	dir, pids := readHelper(t, bufio.NewScanner(output))
	if err := helper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = helper.Wait()
	begin := time.Now()
	eventually(t, "no process and no directory is left", func() error {
		for _, pid := range pids {
			if alive(pid) {
				return fmt.Errorf("process %d is still there", pid)
			}
		}
		if exists(dir) || len(mountsBelow(dir)) > 0 {
			return fmt.Errorf("%s is still there", dir)
		}
		return nil
	})
	t.Logf("%v and %s disappeared after %s", pids, dir, time.Since(begin))
}

// runHelper starts a cluster with a kubelet and a machine with another one, prints its directory and
// processes, and waits to be killed.
func runHelper() error {
	ctx := context.Background()
	c, err := Start(ctx, Config{})
	if err != nil {
		return err
	}
	bootstrap, err := c.TokenKubeconfig(tokenID + "." + tokenSecret)
	if err != nil {
		return err
	}
	k, err := c.StartKubelet(ctx, KubeletConfig{NodeName: "node-a", BootstrapKubeconfig: bootstrap})
	if err != nil {
		return err
	}
	point := filepath.Join(k.Dir(), "root", "mounted")
	if err := os.MkdirAll(point, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", point, "tmpfs", 0, ""); err != nil {
		fmt.Fprintln(os.Stderr, "no mount:", err)
	}
	ofMachine, err := startHelperMachine(ctx, c, bootstrap)
	if err != nil {
		return err
	}
	fmt.Println(c.Dir())
	fmt.Println(strings.Trim(fmt.Sprint(append(pids(c), ofMachine...)), "[]"))
	select {}
}

// startHelperMachine starts a machine with a kubelet and returns its processes.
func startHelperMachine(ctx context.Context, c *Cluster, bootstrap []byte) ([]int, error) {
	m, err := c.StartMachine(ctx, MachineConfig{HostName: "node-b"})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(m.Path(kubeadmBootstrapKubeconfig), bootstrap, 0o600); err != nil {
		return nil, err
	}
	_, err = m.Run(ctx, "mkdir /etc/kubernetes/pki; : >"+kubeadmCA+"; systemctl start kubelet; until pgrep -x kubelet; do sleep 0.1; done")
	if err != nil {
		return nil, err
	}
	return machinePIDs(m)
}

func readHelper(t *testing.T, lines *bufio.Scanner) (dir string, pids []int) {
	t.Helper()
	if lines.Scan() {
		dir = lines.Text()
	}
	if lines.Scan() {
		for field := range strings.FieldsSeq(lines.Text()) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatalf("the helper said %q", lines.Text())
			}
			pids = append(pids, pid)
		}
	}
	// Of the cluster and its kubelet 6; of the machine at least init, and ssh, containerd and kubelet with what supervises each.
	if len(pids) < 13 || !exists(dir) {
		t.Fatalf("the helper said %q and %v", dir, pids)
	}
	return dir, pids
}
