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
	"slices"
	"strings"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/clientcmd"
	certutil "k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
)

const (
	// honest is how many nodes ask in one measurement, one after the other.
	honest = 20
	// writers send the flood side by side.
	writers = 8
	// patience is for one step on a busy machine.
	patience = time.Minute
)

// flood measures the time from an honest request to its approval: alone, while others send their requests, and when all of
// those are pending. Beside it stands the time that the API server takes for the same two writes from one client.
func (b *bench) flood(ctx context.Context) error {
	fmt.Printf("Honest approvals with %d requests of others, %d rounds of %d, in ms from sending the request to seeing it approved:\n\n", b.foreign, b.rounds, honest)
	fmt.Printf("  %-8s%-28s%10s%10s%10s\n", "round", "", "p50", "p99", "max")
	var delays []float64
	for round := range b.rounds {
		alone, err := b.approvals(ctx, fmt.Sprintf("alone-%d", round))
		if err != nil {
			return err
		}
		show(round, "alone", alone)
		ended := make(chan error, 1)
		go func() { ended <- b.sendForeign(ctx) }()
		during, err := b.approvals(ctx, fmt.Sprintf("during-%d", round))
		if err != nil {
			return err
		}
		show(round, "while they are sent", during)
		if err := <-ended; err != nil {
			return err
		}
		pending, err := b.approvals(ctx, fmt.Sprintf("pending-%d", round))
		if err != nil {
			return err
		}
		show(round, "while they are pending", pending)
		if err := b.client.DeleteAllOf(ctx, &certificatesv1.CertificateSigningRequest{}); err != nil {
			return err
		}
		delays = append(delays, milliseconds(max(slices.Max(during), slices.Max(pending))-slices.Min(alone)))
	}
	b.figures["flood_delay_ms"] = slices.Max(delays)
	fmt.Printf("\n  flood_delay_ms: %.0f (the slowest of all in the flood, less the fastest of the round without)\n", slices.Max(delays))
	return nil
}

func show(round int, what string, times []time.Duration) {
	slices.Sort(times)
	fmt.Printf("  %-8d%-28s%10.1f%10.1f%10.1f\n", round+1, what,
		milliseconds(times[len(times)/2]), milliseconds(times[len(times)*99/100]), milliseconds(times[len(times)-1]))
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// approvals has some nodes ask for their certificates, one after the other, and returns how long each waited.
func (b *bench) approvals(ctx context.Context, prefix string) ([]time.Duration, error) {
	var clients []client.WithWatch
	for i := range honest {
		c, err := b.tokenClient(ctx, fmt.Sprintf("%s-%d", prefix, i))
		if err != nil {
			return nil, err
		}
		clients = append(clients, c)
	}
	var out []time.Duration
	for i, c := range clients {
		took, err := b.approval(ctx, c, fmt.Sprintf("%s-%d", prefix, i))
		if err != nil {
			return nil, err
		}
		out = append(out, took)
	}
	return out, nil
}

// tokenClient makes a NodeBootstrap and waits for its credential.
func (b *bench) tokenClient(ctx context.Context, node string) (client.WithWatch, error) {
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: node}}
	if err := b.client.Create(ctx, nb); err != nil {
		return nil, err
	}
	var secret corev1.Secret
	err := b.await(ctx, &corev1.SecretList{}, func(o client.Object) bool {
		s, ok := o.(*corev1.Secret)
		if ok && s.Name == bootstrap.KubeconfigSecretName(node) {
			secret = *s
		}
		return secret.Name != ""
	}, client.InNamespace(operator.Namespace))
	if err != nil {
		return nil, fmt.Errorf("waiting for the credential of %s: %w", node, err)
	}
	cfg, err := clientcmd.RESTConfigFromKubeConfig(secret.Data[bootstrap.KubeconfigKey])
	if err != nil {
		return nil, err
	}
	cfg.QPS = -1
	return client.NewWithWatch(cfg, client.Options{Scheme: b.client.Scheme()})
}

// approval sends what a kubelet sends and waits until it is approved.
func (b *bench) approval(ctx context.Context, c client.WithWatch, node string) (time.Duration, error) {
	request, err := kubeletRequest(node)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := c.Create(ctx, request); err != nil {
		return 0, err
	}
	err = b.await(ctx, &certificatesv1.CertificateSigningRequestList{}, func(o client.Object) bool {
		r, ok := o.(*certificatesv1.CertificateSigningRequest)
		return ok && len(r.Status.Conditions) > 0
	}, client.MatchingFields{metav1.ObjectNameField: request.Name})
	if err != nil {
		return 0, fmt.Errorf("waiting for the approval of the request of %s: %w", node, err)
	}
	return time.Since(began), nil
}

// await watches objects until one of them is as wanted.
func (b *bench) await(ctx context.Context, list client.ObjectList, wanted func(client.Object) bool, o ...client.ListOption) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	w, err := b.client.Watch(ctx, list, o...)
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		select {
		case event, ok := <-w.ResultChan():
			if !ok {
				return errors.New("the watch ended")
			}
			if o, ok := event.Object.(client.Object); ok && event.Type != watch.Deleted && wanted(o) {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func kubeletRequest(node string) (*certificatesv1.CertificateSigningRequest, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	pem, err := certutil.MakeCSR(key, &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node}, nil, nil)
	if err != nil {
		return nil, err
	}
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem, SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}, nil
}

// sendForeign sends requests of others: kubelets with other tokens, nodes that want serving certificates, and whoever else
// uses the API.
func (b *bench) sendForeign(ctx context.Context) error {
	errs := make([]error, writers)
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() { errs[w] = b.sendForeignOf(ctx, w) })
	}
	group.Wait()
	return errors.Join(errs...)
}

func (b *bench) sendForeignOf(ctx context.Context, writer int) error {
	senders := []struct {
		user   string
		groups []string
		signer string
		usage  certificatesv1.KeyUsage
	}{
		{"system:bootstrap:foreign", []string{"system:bootstrappers", "system:masters"}, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth},
		{fmt.Sprintf("system:node:foreign-%d", writer), []string{"system:nodes"}, certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth},
		{"somebody", []string{"system:masters"}, "example.com/signer", certificatesv1.UsageClientAuth},
	}
	for i, s := range senders {
		cfg, err := b.cluster.ConfigFor(s.user, s.groups...)
		if err != nil {
			return err
		}
		c, err := client.New(cfg, client.Options{Scheme: b.client.Scheme()})
		if err != nil {
			return err
		}
		for n := writer*len(senders) + i; n < b.foreign; n += writers * len(senders) {
			request, err := kubeletRequest(strings.TrimPrefix(s.user, "system:node:"))
			if err != nil {
				return err
			}
			request.Spec.SignerName = s.signer
			request.Spec.Usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, s.usage}
			if err := c.Create(ctx, request); err != nil {
				return err
			}
		}
	}
	return nil
}
