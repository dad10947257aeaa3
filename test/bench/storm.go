// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	certutil "k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// storm measures the load that the operator could cause by itself: the tokens of a large cluster, which were created
// together, are renewed, and a changed CA affects every kubeconfig. Half of the nodes of the largest cluster are waiting.
func (b *bench) storm(ctx context.Context, s *site, m *minted) error {
	if err := b.spread(ctx, s, m.build); err != nil {
		return err
	}
	alone, err := s.approvals(ctx, "alone")
	if err != nil {
		return err
	}
	clients, err := s.tokenClients(ctx, "during")
	if err != nil {
		return err
	}
	if err := s.addCA(); err != nil {
		return err
	}
	err = until(ctx, 50*time.Millisecond, "the first kubeconfigs with the new CA", func() (bool, error) {
		have, _, err := b.renewedCAs(ctx, s)
		return have > 0, err
	})
	if err != nil {
		return err
	}
	began := time.Now()
	during, err := s.approvalsOf(ctx, "during", clients)
	if err != nil {
		return err
	}
	if have, asked, err := b.renewedCAs(ctx, s); err != nil || have == asked {
		return errors.Join(err, errors.New("all kubeconfigs were rendered again before the nodes had sent their CSRs: increase -most"))
	}
	err = until(ctx, time.Second/2, "the last kubeconfig with the new CA", func() (bool, error) {
		have, asked, err := b.renewedCAs(ctx, s)
		return have == asked, err
	})
	if err != nil {
		return err
	}
	b.results.add(fmt.Sprintf("%sca_change_s_%d", m.build.name, b.most-b.most/2), time.Since(began).Seconds())
	for what, times := range map[string][]time.Duration{"alone": alone, "during": during} {
		b.results.add(m.build.name+"ca_change_"+what+"_p50_ms", milliseconds(quantile(times, 0.5)))
		b.results.add(m.build.name+"ca_change_"+what+"_max_ms", milliseconds(slices.Max(times)))
	}
	return nil
}

// spread records the most renewals that are due within one minute, of tokens with the default ttl that were created together.
func (b *bench) spread(ctx context.Context, s *site, build build) error {
	var list v1alpha1.NodeBootstrapList
	if err := s.Client.List(ctx, &list); err != nil {
		return err
	}
	now, perMinute := time.Now(), map[int]int{}
	waiting := slices.DeleteFunc(list.Items, func(nb v1alpha1.NodeBootstrap) bool { return nb.Status.AwaitingSince == nil })
	waiting = waiting[:min(len(waiting), b.nodes)]
	for i := range waiting {
		nb := &waiting[i]
		t, _ := token.Parse(token.NewSecret(nb, token.NextID(nb.UID, ""), "0123456789abcdef", now.Add(nb.Spec.TokenTTL())))
		f := &lifecycle.Facts{
			Name: nb.Name, Namespace: operator.Namespace, NodeBootstrap: nb, TokenSecrets: []*corev1.Secret{t.Object},
			Cluster: kubeconfig.Cluster{Server: s.Server(), CA: s.ServerCA(), CAExpires: now.AddDate(10, 0, 0)}, Bypass: &lifecycle.Bypass{},
		}
		p := lifecycle.Decide(f, now)
		perMinute[int(p.RequeueAt.Sub(now)/time.Minute)]++
	}
	most := 0
	for _, n := range perMinute {
		most = max(most, n)
	}
	b.results.add(fmt.Sprintf("%srenewals_most_per_minute_%d", build.name, len(waiting)), float64(most))
	return nil
}

// addCA appends another CA to the API server's in the file that the manager reads, as during a CA rotation.
func (s *site) addCA() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	another, err := certutil.NewSelfSignedCACert(certutil.Config{CommonName: "another"}, key)
	if err != nil {
		return err
	}
	return os.WriteFile(s.caFile, append(bytes.Clone(s.ServerCA()), pem.EncodeToMemory(&pem.Block{Type: certutil.CertificateBlockType, Bytes: another.Raw})...), 0o600)
}

// renewedCAs is how many of some hundred kubeconfigs, spread over all, have more than the API server's CA.
func (b *bench) renewedCAs(ctx context.Context, s *site) (have, asked int, err error) {
	for i := b.most / 2; i < b.most; i += max(1, b.most/200) {
		var secret corev1.Secret
		key := client.ObjectKey{Namespace: operator.Namespace, Name: owned.KubeconfigSecretName(nodeName(i))}
		if err := s.Client.Get(ctx, key, &secret); err != nil {
			return 0, 0, err
		}
		asked++
		if !bytes.Equal(secret.Data[kubeconfig.CAKey], s.ServerCA()) {
			have++
		}
	}
	return have, asked, nil
}
