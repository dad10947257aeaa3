// SPDX-License-Identifier: Apache-2.0

//go:build linux

package localcluster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a kubelet needs root")
	}
}

func start(t *testing.T, cfg Config) *Cluster {
	t.Helper()
	c, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// startTestKubelet starts a kubelet that has only a token.
func startTestKubelet(t *testing.T, c *Cluster, cfg KubeletConfig) *Kubelet {
	t.Helper()
	var err error
	if cfg.BootstrapKubeconfig, err = c.TokenKubeconfig(tokenID + "." + tokenSecret); err != nil {
		t.Fatal(err)
	}
	k, err := c.StartKubelet(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// allowTestToken creates a bootstrap token and lets its group join nodes.
func allowTestToken(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-" + tokenID},
		Type:       corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{
			"token-id": tokenID, "token-secret": tokenSecret,
			"usage-bootstrap-authentication": "true", "auth-extra-groups": tokenGroup,
		},
	}
	_, err := client.CoreV1().Secrets("kube-system").Create(t.Context(), secret, metav1.CreateOptions{})
	for name, role := range map[string]string{
		"test-bootstrap": "system:node-bootstrapper",
		"test-approve":   "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
	} {
		_, bindErr := client.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: tokenGroup}},
		}, metav1.CreateOptions{})
		err = errors.Join(err, bindErr)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func nodeReady(ctx context.Context, client kubernetes.Interface, name string) error {
	node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return errors.New("the node is not ready")
}

func whoAmI(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(
		t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status.UserInfo.Username
}

// eventually fails the test unless check holds within a minute.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	err := poll(t.Context(), nil, func(context.Context) error { return check() })
	if err != nil {
		t.Fatalf("waiting until %s: %v", what, err)
	}
}

// mountBelow mounts a tmpfs where a kubelet mounts volumes.
func mountBelow(t *testing.T, dir string) {
	t.Helper()
	point := filepath.Join(dir, "root", "mounted")
	if err := os.MkdirAll(filepath.Join(point, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", point, "tmpfs", 0, ""); err != nil {
		t.Logf("cannot mount here, so unmounting is not tested: %v", err)
		return
	}
	if len(mountsBelow(dir)) == 0 {
		t.Error("the mount is not listed")
	}
}

// pids lists the processes that must not survive, except the guard.
func pids(c *Cluster) []int {
	var pids []int
	for _, p := range c.plane {
		pids = append(pids, p.pid)
	}
	if c.manager != nil {
		pids = append(pids, c.manager.pid())
	}
	for _, k := range c.kubelets {
		pids = append(pids, k.runtime.pid(), k.kubelet.pid())
	}
	return append(pids, c.guard.cmd.Process.Pid)
}

// children lists our child processes, including zombies.
func children() []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if pid, _ := strconv.Atoi(filepath.Base(dir)); isChild(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// alive reports whether a process runs: a zombie whose parent died does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}
