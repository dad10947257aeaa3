// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// InitKubeadm publishes what kubeadm init publishes, so that machines can join with kubeadm join: the ConfigMaps kubeadm-config,
// kubelet-config and cluster-info, and the RBAC for kubeadm's own tokens and for nodes. kubeadm creates such a token too. kubelet are fields
// of the cluster's KubeletConfiguration, on top of those with which a kubelet runs on any machine.
func (c *Cluster) InitKubeadm(ctx context.Context, kubelet map[string]any) error {
	kubeadm, err := c.binaries.find("kubeadm")
	if err != nil {
		return err
	}
	admin, err := c.WriteAdminKubeconfig()
	if err != nil {
		return err
	}
	config, err := c.kubeadmConfig(ctx, kubeadm, kubelet)
	if err != nil {
		return err
	}
	file := filepath.Join(c.dir, "kubeadm.yaml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return fmt.Errorf("storing kubeadm's configuration: %w", err)
	}
	for _, phase := range [][]string{{"upload-config", "all"}, {"bootstrap-token", "--skip-token-print"}} {
		args := append([]string{"init", "phase"}, phase...)
		out, err := exec.CommandContext(ctx, kubeadm, append(args, "--config", file, "--kubeconfig", admin)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("kubeadm %v: %w: %s", args, err, out)
		}
	}
	return nil
}

// kubeadmConfig is the configuration of kubeadm init. The documents are JSON, which is YAML.
func (c *Cluster) kubeadmConfig(ctx context.Context, kubeadm string, kubelet map[string]any) ([]byte, error) {
	version, err := exec.CommandContext(ctx, kubeadm, "version", "--output", "short").Output()
	if err != nil {
		return nil, fmt.Errorf("asking kubeadm for its version: %w", err)
	}
	const api = "kubeadm.k8s.io/v1beta4"
	var config bytes.Buffer
	for _, document := range []map[string]any{
		{
			"apiVersion": api, "kind": "InitConfiguration",
			"localAPIEndpoint": map[string]any{"advertiseAddress": "192.0.2.10"}, // kubeadm refuses loopback, and does not use it here
			"nodeRegistration": map[string]any{"criSocket": "unix:///run/containerd/containerd.sock"},
		},
		{
			"apiVersion": api, "kind": "ClusterConfiguration",
			"kubernetesVersion":    string(bytes.TrimSpace(version)),
			"controlPlaneEndpoint": strings.TrimPrefix(c.Server(), "https://"),
		},
		merge(merge(runsAnywhere(), map[string]any{
			"authentication":         map[string]any{"x509": map[string]any{"clientCAFile": "/etc/kubernetes/pki/ca.crt"}},
			"enforceNodeAllocatable": []string{"none"}, // kubeadm drops an empty list
		}), kubelet),
	} {
		content, err := json.Marshal(document)
		if err != nil {
			return nil, fmt.Errorf("encoding kubeadm's configuration: %w", err)
		}
		config.WriteString("---\n")
		config.Write(append(content, '\n'))
	}
	return config.Bytes(), nil
}
