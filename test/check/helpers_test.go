// SPDX-License-Identifier: Apache-2.0

// Package check tests kubectl nodebootstrap check on a real control plane, with the manager binary as its own ServiceAccount: each test breaks
// one thing, and sees that only the line about it changes, and that the fix that is printed turns it back.
package check

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/check"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

const (
	// member is a node with a kubelet, and with a certificate that was issued for its NodeBootstrap.
	member = "member"
	// pluginVersion is that of the plugin in these tests.
	pluginVersion = "v0.3.1"
)

var (
	cluster *env.Env
	manager *operator.Manager
	kubelet *localcluster.Kubelet

	root, plugin string
)

func TestMain(m *testing.M) { env.Main(m, setup) }

func setup(ctx context.Context) (func() error, error) {
	var err error
	if root, err = localcluster.ProjectRoot(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "nb-check-")
	if err != nil {
		return nil, err
	}
	plugin = filepath.Join(dir, "kubectl-nodebootstrap")
	build := exec.CommandContext(ctx, "go", "build", "-o", plugin,
		"-ldflags", "-X github.com/nodebootstrap/nodebootstrap/internal/version.version="+pluginVersion, "./cmd/kubectl-nodebootstrap")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the plugin: %w: %s", err, out)
	}
	if cluster, err = env.Start(ctx, localcluster.Config{}); err != nil {
		return nil, err
	}
	teardown := func() error { return errors.Join(cluster.Stop(), os.RemoveAll(dir)) }
	if err := errors.Join(prepare(ctx), startManager(ctx)); err != nil {
		return nil, errors.Join(err, teardown())
	}
	return teardown, nil
}

func startManager(ctx context.Context) (err error) {
	manager, err = operator.Start(ctx, cluster.Cluster, "--leader-elect")
	return err
}

// prepare creates what a cluster in order has, besides the operator itself.
func prepare(ctx context.Context) error {
	renewals := []string{"create", "clusterrolebinding", "approve-kubelet-renewals", "--group=system:nodes",
		"--clusterrole=system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"}
	info, err := clusterInfo(cluster.Server(), cluster.ServerCA())
	if err != nil {
		return err
	}
	_, err = operator.Kubectl(ctx, cluster.Cluster, renewals...)
	return errors.Join(err, cluster.Client.Create(ctx, info))
}

// clusterInfo is kubeadm's ConfigMap.
func clusterInfo(server string, ca []byte) (*corev1.ConfigMap, error) {
	config := clientcmdapi.NewConfig()
	config.Clusters[""] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	content, err := clientcmd.Write(*config)
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-public", Name: "cluster-info"},
		Data:       map[string]string{"kubeconfig": string(content)},
	}, err
}

// setClusterInfo changes the server in kubeadm's ConfigMap until the test is over.
func setClusterInfo(t *testing.T, server string) {
	t.Helper()
	set := func(t *testing.T, server string) {
		t.Helper()
		want, err := clusterInfo(server, cluster.ServerCA())
		env.Must(t, err)
		env.Must(t, client.IgnoreNotFound(cluster.Client.Delete(context.WithoutCancel(t.Context()), want)))
		if server != "" {
			want.ResourceVersion = ""
			env.Must(t, cluster.Client.Create(context.WithoutCancel(t.Context()), want))
		}
	}
	set(t, server)
	t.Cleanup(func() { set(t, cluster.Server()) })
}

// report is what a run of the command has printed.
type report struct {
	code        int
	out, errOut string
	results     []check.Result
}

// run runs the command with -o json as an administrator, and again for people, and compares both.
func run(t *testing.T, args ...string) report {
	t.Helper()
	r := execute(t, append(args, "-o", "json")...)
	var printed struct {
		Checks []check.Result `json:"checks"`
	}
	if err := json.Unmarshal([]byte(r.out), &printed); err != nil {
		t.Fatalf("%q prints no JSON (%v): %s%s", args, err, r.out, r.errOut)
	}
	r.results = printed.Checks
	bad := 0
	for _, result := range r.results {
		if result.Status == check.Failed {
			bad++
			if result.Fix == "" {
				t.Errorf("%s failed, and has no fix: %s", result.Name, result.Message)
			}
		}
	}
	if (bad > 0) != (r.code == 1) || r.code > 1 {
		t.Errorf("%d checks failed, and the exit code is %d: %s", bad, r.code, r.errOut)
	}
	return r
}

func execute(t *testing.T, args ...string) report {
	t.Helper()
	kubeconfig, err := cluster.WriteAdminKubeconfig()
	env.Must(t, err)
	cmd := exec.CommandContext(t.Context(), plugin, append([]string{"check", "--kubeconfig", kubeconfig}, args...)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return report{code: cmd.ProcessState.ExitCode(), out: out.String(), errOut: errOut.String()}
}

// statuses are the worst status for each name.
func (r report) statuses() map[string]check.Status {
	rank := map[check.Status]int{check.Skipped: 0, check.Passed: 1, check.Warning: 2, check.Failed: 3}
	out := map[string]check.Status{}
	for _, result := range r.results {
		if have, found := out[result.Name]; !found || rank[result.Status] > rank[have] {
			out[result.Name] = result.Status
		}
	}
	return out
}

// find is the worst result of a check.
func (r report) find(t *testing.T, name string) check.Result {
	t.Helper()
	for _, result := range r.results {
		if result.Name == name && result.Status == r.statuses()[name] {
			return result
		}
	}
	t.Fatalf("there is no %s in %+v", name, r.results)
	return check.Result{}
}

// differs is an error if other checks than one have another status than before, except for those that cannot be made any more.
func (r report) differs(before map[string]check.Status, name string, want check.Status) error {
	var errs []error
	for n, status := range r.statuses() {
		switch {
		case n == name && status != want, n != name && status != before[n] && status != check.Skipped:
			errs = append(errs, fmt.Errorf("%s is %s, and was %s", n, status, before[n]))
		}
	}
	if len(errs) > 0 {
		errs = append(errs, fmt.Errorf("the results are %+v", r.results))
	}
	return errors.Join(errs...)
}

// fix runs what the check prints below a line, with some changes.
func fix(t *testing.T, r check.Result, changes ...string) {
	t.Helper()
	script := strings.NewReplacer(changes...).Replace(r.Fix)
	kubectl, err := cluster.Binary("kubectl")
	env.Must(t, err)
	kubeconfig, err := cluster.WriteAdminKubeconfig()
	env.Must(t, err)
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "PATH="+filepath.Dir(kubectl)+":"+filepath.Dir(plugin)+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the fix %q failed: %v: %s", script, err, out)
	}
}

// kubectl runs kubectl as the administrator.
func kubectl(t *testing.T, args ...string) {
	t.Helper()
	_, err := operator.Kubectl(context.WithoutCancel(t.Context()), cluster.Cluster, args...)
	env.Must(t, err)
}

// undo runs kubectl when the test is over. The fix may have done the same.
func undo(t *testing.T, args ...string) {
	t.Helper()
	t.Cleanup(func() { _, _ = operator.Kubectl(context.WithoutCancel(t.Context()), cluster.Cluster, args...) })
}

// deploy creates the Deployment of the operator, with one replica.
func deploy(t *testing.T) {
	t.Helper()
	kubectl(t, "apply", "-k", filepath.Join(root, "config", "manager"))
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: "nodebootstrap-manager"}}
	t.Cleanup(func() { cluster.DeleteAfter(t, deployment) })
	env.Change(t, cluster, deployment, func(d *appsv1.Deployment) {
		d.Spec.Replicas = new(int32(1))
		d.Spec.Template.Spec.Containers[0].Image = "registry.example.com/nodebootstrap:" + pluginVersion
	})
	playPods(t, deployment)
}

// playPods makes all Pods of the Deployment ready, as kubelets do, and waits until it has its replicas.
func playPods(t *testing.T, deployment *appsv1.Deployment) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // cleanups use it, too
	env.Eventually(t, "the Pods of the Deployment", func() error {
		var pods corev1.PodList
		if err := cluster.Client.List(ctx, &pods, client.InNamespace(operator.Namespace)); err != nil {
			return err
		}
		for _, p := range pods.Items {
			p.Status.Phase = corev1.PodRunning
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
			if err := cluster.Client.Status().Update(ctx, &p); err != nil {
				return err
			}
		}
		if err := cluster.Client.Get(ctx, client.ObjectKeyFromObject(deployment), deployment); err != nil {
			return err
		}
		if s := deployment.Status; s.ObservedGeneration != deployment.Generation || s.ReadyReplicas != *deployment.Spec.Replicas || s.Replicas != s.ReadyReplicas {
			return fmt.Errorf("it has %+v", s)
		}
		return nil
	})
}
