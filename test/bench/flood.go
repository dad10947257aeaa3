// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

const (
	// honest is how many nodes request certificates in one measurement, one after the other.
	honest = 20
	// patience is the limit for one step on a busy machine.
	patience = time.Minute
)

// flood measures the time from an honest CSR to its approval: without others, while others send their CSRs, and when all
// of those are pending.
func (b *bench) flood(ctx context.Context) error {
	for _, build := range b.builds {
		if err := onSite(ctx, localcluster.Config{}, func(s *site) error { return b.floodOn(ctx, s, build) }); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) floodOn(ctx context.Context, s *site, build build) error {
	m, err := s.start(ctx, build)
	if err != nil {
		return err
	}
	for round := range b.rounds {
		alone, err := s.approvals(ctx, fmt.Sprintf("alone-%d", round))
		if err != nil {
			return err
		}
		ended := make(chan error, 1)
		go func() { ended <- s.sendForeign(ctx, b.foreign) }()
		during, err := s.approvals(ctx, fmt.Sprintf("during-%d", round))
		if err != nil {
			return err
		}
		if err := <-ended; err != nil {
			return err
		}
		pending, err := s.approvals(ctx, fmt.Sprintf("pending-%d", round))
		if err != nil {
			return err
		}
		if err := s.Client.DeleteAllOf(ctx, &certificatesv1.CertificateSigningRequest{}); err != nil {
			return err
		}
		for what, times := range map[string][]time.Duration{"alone": alone, "during": during, "pending": pending} {
			b.results.add(build.name+"flood_"+what+"_p50_ms", milliseconds(quantile(times, 0.5)))
			b.results.add(build.name+"flood_"+what+"_max_ms", milliseconds(slices.Max(times)))
		}
		b.results.add(build.name+"flood_delay_ms", milliseconds(max(slices.Max(during), slices.Max(pending))-slices.Min(alone)))
	}
	return m.Stop()
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// approvals lets some nodes request their certificates, one after the other, and returns how long each waited.
func (s *site) approvals(ctx context.Context, prefix string) ([]time.Duration, error) {
	clients, err := s.tokenClients(ctx, prefix)
	if err != nil {
		return nil, err
	}
	return s.approvalsOf(ctx, prefix, clients)
}

func (s *site) approvalsOf(ctx context.Context, prefix string, clients []client.WithWatch) ([]time.Duration, error) {
	var out []time.Duration
	for i, c := range clients {
		took, err := s.approval(ctx, c, fmt.Sprintf("%s-%d", prefix, i))
		if err != nil {
			return nil, err
		}
		out = append(out, took)
	}
	return out, nil
}

// tokenClients creates some NodeBootstraps and waits for their credentials.
func (s *site) tokenClients(ctx context.Context, prefix string) ([]client.WithWatch, error) {
	var out []client.WithWatch
	for i := range honest {
		c, err := s.tokenClient(ctx, fmt.Sprintf("%s-%d", prefix, i))
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// tokenClient creates a NodeBootstrap and waits for its credential.
func (s *site) tokenClient(ctx context.Context, node string) (client.WithWatch, error) {
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: node}}
	if err := s.Client.Create(ctx, nb); err != nil {
		return nil, err
	}
	var secret corev1.Secret
	err := s.await(ctx, &corev1.SecretList{}, func(o client.Object) bool {
		s, ok := o.(*corev1.Secret)
		if ok && s.Name == owned.KubeconfigSecretName(node) {
			secret = *s
		}
		return secret.Name != ""
	}, client.InNamespace(operator.Namespace), client.MatchingFields{metav1.ObjectNameField: owned.KubeconfigSecretName(node)})
	if err != nil {
		return nil, fmt.Errorf("waiting for the credential of %s: %w", node, err)
	}
	cfg, err := clientcmd.RESTConfigFromKubeConfig(secret.Data[kubeconfig.Key])
	if err != nil {
		return nil, err
	}
	cfg.QPS = -1
	return client.NewWithWatch(cfg, client.Options{Scheme: s.Client.Scheme()})
}

// approval sends a kubelet's CSR and waits until it is approved.
func (s *site) approval(ctx context.Context, c client.WithWatch, node string) (time.Duration, error) {
	request, err := env.KubeletRequest(node)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := c.Create(ctx, request); err != nil {
		return 0, err
	}
	err = s.await(ctx, &certificatesv1.CertificateSigningRequestList{}, func(o client.Object) bool {
		r, ok := o.(*certificatesv1.CertificateSigningRequest)
		return ok && len(r.Status.Conditions) > 0
	}, client.MatchingFields{metav1.ObjectNameField: request.Name})
	if err != nil {
		return 0, fmt.Errorf("waiting for the approval of the request of %s: %w", node, err)
	}
	return time.Since(began), nil
}

// await watches objects until one of them is as wanted.
func (s *site) await(ctx context.Context, list client.ObjectList, wanted func(client.Object) bool, o ...client.ListOption) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	w, err := s.Client.Watch(ctx, list, o...)
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

// sendForeign sends CSRs of others: kubelets with other tokens, nodes that want serving certificates, and any other users
// of the API.
func (s *site) sendForeign(ctx context.Context, n int) error {
	return inParallel(writers, func(w int) error { return s.sendForeignOf(ctx, w, n) })
}

func (s *site) sendForeignOf(ctx context.Context, writer, foreign int) error {
	senders := []struct {
		user   string
		groups []string
		signer string
		usage  certificatesv1.KeyUsage
	}{
		{"system:bootstrap:foreign", []string{"system:bootstrappers", "system:masters"}, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth},
		{fmt.Sprintf("system:node:foreign-%d", writer), []string{"system:nodes"}, certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth},
		{"someone", []string{"system:masters"}, "example.com/signer", certificatesv1.UsageClientAuth},
	}
	for i, from := range senders {
		cfg, err := s.ConfigFor(from.user, from.groups...)
		if err != nil {
			return err
		}
		c, err := client.New(cfg, client.Options{Scheme: s.Client.Scheme()})
		if err != nil {
			return err
		}
		for n := writer*len(senders) + i; n < foreign; n += writers * len(senders) {
			request, err := env.KubeletRequest(strings.TrimPrefix(from.user, "system:node:"))
			if err != nil {
				return err
			}
			request.Spec.SignerName = from.signer
			request.Spec.Usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, from.usage}
			if err := c.Create(ctx, request); err != nil {
				return err
			}
		}
	}
	return nil
}
