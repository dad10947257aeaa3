// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const managerName = "kube-controller-manager"

// StartControllerManager starts kube-controller-manager and returns once it answers /healthz, which is shortly before its
// controllers run. args replace its default flags as Config.ControllerManagerArgs do, which are ignored here. It fails if a
// kube-controller-manager already runs.
func (c *Cluster) StartControllerManager(ctx context.Context, args map[string]string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.stopped:
		return errors.New("starting " + managerName + ": the cluster is stopped")
	case c.manager != nil:
		return errors.New("starting " + managerName + ": it is running")
	}
	return c.startManager(ctx, args)
}

// StopControllerManager stops kube-controller-manager. It is no error if none
// runs.
func (c *Cluster) StopControllerManager() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.manager == nil {
		return nil
	}
	err := c.manager.stop()
	if err == nil {
		c.manager = nil
	}
	return err
}

func (c *Cluster) startConfiguredManager(ctx context.Context) error {
	return c.startManager(ctx, c.cfg.ControllerManagerArgs)
}

func (c *Cluster) startManager(ctx context.Context, args map[string]string) error {
	path, err := c.binaries.find(managerName)
	if err != nil {
		return err
	}
	defaults, err := c.managerDefaults()
	if err != nil {
		return err
	}
	merged := merge(defaults, args)
	p, err := startProcess(c.guard, managerName, path, c.logFile(managerName), flags(merged))
	if err != nil {
		return err
	}
	if err := c.waitForManager(ctx, p, merged["secure-port"]); err != nil {
		err = p.failed(fmt.Errorf("waiting for %s to be healthy: %w", managerName, err))
		return errors.Join(err, p.stop())
	}
	c.manager = p
	return nil
}

// managerDefaults stores the files that kube-controller-manager needs and returns
// its flags.
func (c *Cluster) managerDefaults() (map[string]string, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	kubeconfig, err := c.KubeconfigFor("system:" + managerName)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{
		c.pkiFile(managerName + ".kubeconfig"): kubeconfig,
		c.pkiFile("apiserver-ca.crt"):          c.ServerCA(),
	}
	for path, content := range files {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return nil, fmt.Errorf("storing a file for %s: %w", managerName, err)
		}
	}
	certFile, keyFile := c.pkiFile(managerName+".crt"), c.pkiFile(managerName+".key")
	if err := c.ca.issueServing(managerName, certFile, keyFile); err != nil {
		return nil, err
	}
	return map[string]string{
		"kubeconfig":                       c.pkiFile(managerName + ".kubeconfig"),
		"controllers":                      "*,bootstrapsigner,tokencleaner",
		"use-service-account-credentials":  "true",
		"service-account-private-key-file": filepath.Join(c.apiServerDir(), "sa-signer.key"),
		"root-ca-file":                     c.pkiFile("apiserver-ca.crt"),
		"cluster-signing-cert-file":        c.ca.certFile,
		"cluster-signing-key-file":         c.ca.keyFile,
		"leader-elect":                     "false",
		"bind-address":                     "127.0.0.1",
		"secure-port":                      strconv.Itoa(port),
		"tls-cert-file":                    certFile,
		"tls-private-key-file":             keyFile,
		// Its controllers start one after the other and send requests: with the
		// default limit of 20 a second that takes several seconds.
		"kube-api-qps":   "500",
		"kube-api-burst": "1000",
	}, nil
}

func (c *Cluster) waitForManager(ctx context.Context, p *process, port string) error {
	roots := x509.NewCertPool()
	roots.AddCert(c.ca.cert)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	return poll(ctx, p, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://127.0.0.1:"+port+"/healthz", http.NoBody)
		if err != nil {
			return err
		}
		answer, err := client.Do(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return errors.New(answer.Status)
		}
		return nil
	})
}

// waitForRootCA waits for the ConfigMaps that kube-controller-manager
// publishes, unless its flags select other controllers or another root CA.
func (c *Cluster) waitForRootCA(ctx context.Context) error {
	for _, name := range []string{"controllers", "root-ca-file"} {
		if _, ok := c.cfg.ControllerManagerArgs[name]; ok {
			return nil
		}
	}
	client, err := kubernetes.NewForConfig(c.admin)
	if err != nil {
		return fmt.Errorf("creating a client: %w", err)
	}
	err = poll(ctx, c.manager, func(ctx context.Context) error {
		_, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err
	})
	if err != nil {
		return c.manager.failed(fmt.Errorf("waiting for kube-root-ca.crt: %w", err))
	}
	return nil
}
