// SPDX-License-Identifier: Apache-2.0

// Command picture has simulated machines join a real control plane with bin/manager for a while, and prints what the manager's
// /metrics say each second: a JSON object each with the time and the text. make dashboard-picture plots it.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/go-logr/logr"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate/csr"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
)

// Every second one of so many machines is declared, and comes up to slowest later. One of them is a thief, and asks in another
// name.
const (
	machines = 60
	thief    = 25
	slowest  = 10
	// firstLease is how long after its Node a machine's Lease is there.
	firstLease = 2 * time.Second
	// after is how long it goes on when the last machine has joined.
	after = 20 * time.Second
)

func main() {
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "picture: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	cluster, err := localcluster.Start(ctx, localcluster.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	if err := operator.Install(ctx, cluster); err != nil {
		return err
	}
	port, err := localcluster.FreePort()
	if err != nil {
		return err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	_, err = operator.Start(ctx, cluster, "--leader-elect", "--cluster-server", cluster.Server(), "--metrics-secure=false", "--metrics-bind-address", address)
	if err != nil {
		return err
	}
	scheme, err := controllers.NewScheme()
	if err != nil {
		return err
	}
	admin, err := client.New(cluster.AdminConfig(), client.Options{Scheme: scheme})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := join(ctx, admin); err != nil {
			cancel(err)
		}
	}()
	return scrape(ctx, "http://"+address+"/metrics", done)
}

// scrape prints metrics each second until some time after everything is done.
func scrape(ctx context.Context, url string, done <-chan struct{}) error {
	out := json.NewEncoder(os.Stdout)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var end <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-end:
			return nil
		case <-done:
			end, done = time.After(after), nil
		case now := <-tick.C:
			answer, err := http.Get(url) //nolint:gosec,noctx // the manager's, on this machine
			if err != nil {
				return err
			}
			text, err := io.ReadAll(answer.Body)
			if err := errors.Join(err, answer.Body.Close()); err != nil {
				return err
			}
			if err := out.Encode(map[string]any{"at": now.UnixMilli(), "text": string(text)}); err != nil {
				return err
			}
		}
	}
}

func join(ctx context.Context, admin client.Client) error {
	var machinesUp sync.WaitGroup
	errs := make([]error, machines)
	for i := range machines {
		nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("worker-%d", i)}}
		if err := admin.Create(ctx, nb); err != nil {
			return err
		}
		machinesUp.Go(func() {
			pause(ctx, time.Duration(i*7%slowest)*time.Second)
			errs[i] = machine(ctx, admin, nb.Name, i == thief)
		})
		pause(ctx, time.Second)
	}
	machinesUp.Wait()
	return errors.Join(errs...)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// machine does with the published kubeconfig what a kubelet does until its node is there.
func machine(ctx context.Context, admin client.Client, node string, stolen bool) error {
	secret := corev1.Secret{}
	err := wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		key := client.ObjectKey{Namespace: operator.Namespace, Name: bootstrap.KubeconfigSecretName(node)}
		err := admin.Get(ctx, key, &secret)
		return err == nil, client.IgnoreNotFound(err)
	})
	if err != nil {
		return err
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(secret.Data[bootstrap.KubeconfigKey])
	if err != nil {
		return err
	}
	asToken, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if stolen {
		node = "intruder"
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	request, err := certutil.MakeCSR(key, &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node}, nil, nil)
	if err != nil {
		return err
	}
	usages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	name, uid, err := csr.RequestCertificateWithContext(ctx, asToken, request, "", certificatesv1.KubeAPIServerClientKubeletSignerName, nil, usages, key)
	if err != nil || stolen {
		return err
	}
	config = rest.AnonymousClientConfig(config)
	if config.CertData, err = csr.WaitForCertificate(ctx, asToken, name, uid); err != nil {
		return err
	}
	if config.KeyData, err = keyutil.MarshalPrivateKeyToPEM(key); err != nil {
		return err
	}
	asNode, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if _, err := asNode.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	pause(ctx, firstLease)
	_, err = asNode.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: node},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &node, RenewTime: new(metav1.NowMicro())},
	}, metav1.CreateOptions{})
	return err
}
