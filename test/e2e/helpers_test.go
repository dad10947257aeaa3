// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// startKubelet runs a stock kubelet until the test is over.
func startKubelet(t *testing.T, name string, kubeconfig []byte) *localcluster.Kubelet {
	t.Helper()
	kubelet, err := cluster.StartKubelet(t.Context(), localcluster.KubeletConfig{NodeName: name, BootstrapKubeconfig: kubeconfig})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kubelet.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			log, _ := os.ReadFile(kubelet.LogFile())
			t.Logf("the log of the kubelet %s ends with:\n%s", name, log[max(0, len(log)-4000):])
		}
		err := cluster.Client.Delete(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
		if client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	})
	return kubelet
}

// waitNodeReady waits for a node of a kubelet that heartbeats.
func waitNodeReady(t *testing.T, name string) *corev1.Node {
	t.Helper()
	var node corev1.Node
	env.Eventually(t, "node "+name, func() error {
		if err := cluster.Client.Get(t.Context(), client.ObjectKey{Name: name}, &node); err != nil {
			return err
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return errors.New("it is not Ready")
	})
	return &node
}

// waitJoined waits until a node has joined and nothing of its credential is left.
func waitJoined(t *testing.T, name string) *v1alpha1.NodeBootstrap {
	t.Helper()
	waitNodeReady(t, name)
	nb := cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonJoined)
	if !meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionJoined) {
		t.Errorf("the condition Joined is not True: %+v", nb.Status.Conditions)
	}
	if nb.Status.Token != nil || nb.Status.KubeconfigSecretRef != nil {
		t.Errorf("the status still names a credential: %+v", nb.Status)
	}
	if err := cluster.NothingLeft(t.Context(), name); err != nil {
		t.Error(err)
	}
	return nb
}

func kubectlAs(t *testing.T, kubeconfig []byte, args ...string) (string, error) {
	t.Helper()
	kubectl, err := cluster.Binary("kubectl")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), kubectl, append([]string{"--kubeconfig", path}, args...)...).CombinedOutput()
	return string(out), err
}

func sentWith(t *testing.T, tokenID string) []certificatesv1.CertificateSigningRequest {
	t.Helper()
	requests, err := cluster.Requests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(requests, func(r certificatesv1.CertificateSigningRequest) bool {
		return bootstrap.TokenIDOfUser(r.Spec.Username) != tokenID
	})
}
