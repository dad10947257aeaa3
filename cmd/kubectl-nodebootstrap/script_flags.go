// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/nodebootstrap/nodebootstrap/internal/nodescript"
)

// scriptFlags are those of the commands that render the script with which a machine joins.
type scriptFlags struct {
	with                  string
	paths                 nodescript.Paths
	kubeletConfig         string
	ignorePreflightErrors []string
}

func (f *scriptFlags) add(flags *pflag.FlagSet) {
	f.paths = nodescript.Default
	flags.StringVar(&f.with, "with", "", "What lets the machine join: kubeadm or kubelet. By default kubeadm where it is installed, in a cluster of kubeadm.")
	flags.StringVar(&f.paths.Unit, "unit", f.paths.Unit, "The kubelet's systemd unit.")
	flags.StringVar(&f.paths.RuntimeSocket, "runtime-socket", "", "The container runtime's socket. By default the machine looks for it as kubelet and kubeadm do.")
	flags.StringVar(&f.paths.BootstrapKubeconfig, "bootstrap-kubeconfig-path", f.paths.BootstrapKubeconfig, "kubelet's --bootstrap-kubeconfig on the machine.")
	flags.StringVar(&f.paths.Kubeconfig, "kubeconfig-path", f.paths.Kubeconfig, "kubelet's --kubeconfig on the machine.")
	flags.StringVar(&f.paths.CA, "ca-path", f.paths.CA, "Where the cluster's CA is on the machine, as clientCAFile of the kubelet configuration says.")
	flags.StringVar(&f.paths.KubeletConfig, "kubelet-config-path", f.paths.KubeletConfig, "kubelet's --config on the machine.")
	flags.StringVar(&f.kubeletConfig, "kubelet-config", "",
		"A file with the kubelet configuration for a machine that has none. By default that of the ConfigMap kube-system/kubelet-config, if there is one.")
	flags.StringSliceVar(&f.ignorePreflightErrors, "ignore-preflight-errors", nil, "Checks of kubeadm join that may fail, such as Swap; all for all of them.")
}

// validate checks what the script would refuse, before the cluster is asked.
func (f *scriptFlags) validate() error {
	return errors.Join(nodescript.Method(f.with).Validate(), f.paths.Validate())
}

// options are those of a script for a node, with the API server and the CA of a published kubeconfig. They contain no token.
func (f *scriptFlags) options(ctx context.Context, c client.Client, node string, published *clientcmdapi.Config) (nodescript.Options, error) {
	cluster := published.Clusters[published.Contexts[published.CurrentContext].Cluster]
	o := nodescript.Options{
		Node: node, Server: cluster.Server, CA: cluster.CertificateAuthorityData, With: nodescript.Method(f.with), Paths: f.paths,
		IgnorePreflightErrors: f.ignorePreflightErrors, Rendered: time.Now(),
	}
	var err error
	if o.KubeletConfiguration, err = f.kubeletConfiguration(ctx, c); err != nil {
		return o, err
	}
	if o.With == nodescript.Detect && withoutKubeadm(ctx, c) {
		o.With = nodescript.Kubelet
	}
	return o, nil
}

// withoutKubeadm reports whether the cluster is not one of kubeadm, and the user may know.
func withoutKubeadm(ctx context.Context, c client.Client) bool {
	_, err := kubeadmConfigMap(ctx, c, kubeadmConfig)
	return apierrors.IsNotFound(err)
}

// kubeadmConfigMap reads a ConfigMap that kubeadm creates.
func kubeadmConfigMap(ctx context.Context, c client.Client, name string) (*corev1.ConfigMap, error) {
	var found corev1.ConfigMap
	return &found, c.Get(ctx, client.ObjectKey{Namespace: "kube-system", Name: name}, &found)
}

// kubeletConfiguration is that of --kubelet-config, or of the cluster, if it has one and the user may read it; else nil.
func (f *scriptFlags) kubeletConfiguration(ctx context.Context, c client.Client) ([]byte, error) {
	if f.kubeletConfig == "" {
		found, err := kubeadmConfigMap(ctx, c, "kubelet-config")
		if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the ConfigMap kube-system/kubelet-config: %w", err)
		}
		return []byte(found.Data["kubelet"]), nil
	}
	content, err := os.ReadFile(f.kubeletConfig)
	if err != nil {
		return nil, fmt.Errorf("reading the kubelet configuration: %w", err)
	}
	var is struct {
		Kind string `json:"kind"`
	}
	if yaml.Unmarshal(content, &is) != nil || is.Kind != "KubeletConfiguration" {
		return nil, fmt.Errorf("%s is not a KubeletConfiguration", f.kubeletConfig)
	}
	return content, nil
}
