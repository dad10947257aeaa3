// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

const pinnedManifest = `apiVersion: nodebootstrap.io/v1alpha1
kind: NodeBootstrap
metadata:
  name: ` + pinned + `
spec:
  clientCertificate:
    keyFingerprint: %s
`

// pin shows that a kubeconfig is worthless without the pinned key, also under the right name and before the machine.
func pin(ctx context.Context, cluster *localcluster.Cluster) (err error) {
	machine, err := os.MkdirTemp("", pinned+"-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(machine)) }()
	key, request, manifest := filepath.Join(machine, "node.key"), pinned+".csr", pinned+".yaml"
	fingerprint, err := makeKey(key, filepath.Join(machine, request))
	if err != nil {
		return err
	}
	fmt.Printf("\n%s created a key, and a CSR for it in %s. The key is pinned:\n", pinned, request)
	if err := os.WriteFile(filepath.Join(machine, manifest), fmt.Appendf(nil, pinnedManifest, fingerprint), 0o600); err != nil {
		return err
	}
	s, stolen, err := begin(ctx, cluster, pinned, machine, manifest)
	if err != nil {
		return err
	}
	config := localcluster.KubeletConfig{
		NodeName: impostor, BootstrapKubeconfig: stolen, ExtraArgs: map[string]string{"hostname-override": pinned},
	}
	if err := s.start(ctx, cluster, config, "the kubeconfig and the name of "+pinned, csrSeen, denied, alarmed, notRevoked); err != nil {
		return err
	}
	const file = "bootstrap-kubeconfig"
	if err := plugin(ctx, cluster, machine, "sign", pinned, "--request", request, "--output", "kubeconfig", "--output-file", file, "--key-path", key); err != nil {
		return err
	}
	signed, err := os.ReadFile(filepath.Join(machine, file))
	if err != nil {
		return err
	}
	config = localcluster.KubeletConfig{NodeName: pinned, BootstrapKubeconfig: signed}
	return s.start(ctx, cluster, config, file+", which has no token", approved, issued, registered, nodeReady, joined, tokenGone, kubeconfigGone)
}

// makeKey writes a key and a CSR as the machine would with openssl, and returns the key's fingerprint.
func makeKey(keyPath, requestPath string) (fingerprint string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	request, err := certutil.MakeCSR(key, &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + pinned}, nil, nil)
	if err != nil {
		return "", err
	}
	encoded, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return "", err
	}
	return csr.EvaluateContent(request, pinned).KeyFingerprint,
		errors.Join(os.WriteFile(keyPath, encoded, 0o600), os.WriteFile(requestPath, request, 0o600))
}

// plugin runs "kubectl nodebootstrap" in a directory, as the cluster's administrator, and shows what it prints.
func plugin(ctx context.Context, cluster *localcluster.Cluster, dir string, args ...string) error {
	root, err := localcluster.ProjectRoot()
	if err != nil {
		return err
	}
	kubectl, err := cluster.Binary("kubectl")
	if err != nil {
		return err
	}
	admin, err := cluster.WriteAdminKubeconfig()
	if err != nil {
		return err
	}
	args = append([]string{"nodebootstrap"}, args...)
	fmt.Printf("\n$ kubectl %s\n", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, kubectl, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "KUBECONFIG="+admin, "PATH="+filepath.Join(root, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("kubectl %s: %w", strings.Join(args, " "), err)
	}
	return nil
}
