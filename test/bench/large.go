// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certutil "k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// createMembers creates NodeBootstraps of nodes that are already members, each with an address.
func (s *site) createMembers(ctx context.Context, n int) error {
	if err := s.createNodes(ctx, n, nodeName); err != nil {
		return err
	}
	_, err := s.createNodeBootstraps(ctx, n, func(i int, nb *v1alpha1.NodeBootstrap) {
		nb.Spec.ServingCertificate.Addresses = []string{nodeName(i)}
	})
	return err
}

// untilJoined waits until the manager reports that so many nodes have joined.
func (s *site) untilJoined(ctx context.Context, m *running, n int) error {
	return until(ctx, time.Second/2, "the last node to be Joined", func() (bool, error) {
		have, err := m.sum(ctx, "nodebootstrap_nodebootstraps", map[string]string{"state": v1alpha1.ReasonJoined, "ready": "True"})
		return have >= float64(n), err
	})
}

// untilQuiet waits until the manager has used almost no processor for a while, and returns what it had used before.
func (m *running) untilQuiet(ctx context.Context) (used time.Duration, err error) {
	const while, little = time.Second, 30 * time.Millisecond
	err = until(ctx, while, "the manager to rest", func() (bool, error) {
		before := used
		var err error
		used, err = m.cpu()
		return before > 0 && used-before < little, err
	})
	return used, err
}

// large measures a large cluster: all of its nodes get their credentials, and half of them join.
func (b *bench) large(ctx context.Context) error {
	for range (b.rounds + 1) / 2 {
		if err := b.mintBeside(ctx, b.nodes, b.settle); err != nil {
			return err
		}
	}
	for _, build := range b.builds {
		if ratio := b.results.median(build.name + "mint_ratio_1000"); ratio > 0 { // it was measured, too
			b.results.add(build.name+"mint_ratio", min(ratio, b.results.median(fmt.Sprintf("%smint_ratio_%d", build.name, b.nodes))))
		}
	}
	return nil
}

// settle measures the memory of the manager, the cost of a start, and its work when only heartbeats arrive.
func (b *bench) settle(ctx context.Context, s *site, m *minted) error {
	if err := b.joinHalf(ctx, s, m, b.nodes); err != nil {
		return err
	}
	if err := m.Stop(); err != nil {
		return err
	}
	again, err := b.restart(ctx, s, m.build)
	if err != nil {
		return err
	}
	if err := b.rest(ctx, s, m.build, again); err != nil {
		return err
	}
	return again.Stop()
}

// largest measures the cost of a node in the largest cluster, next to that in a small one before and after, the memory, and a
// storm.
func (b *bench) largest(ctx context.Context) error {
	for _, build := range b.builds {
		var cost []float64
		for _, n := range []int{small, b.most, small} {
			err := b.mintThen(ctx, build, n, func(ctx context.Context, s *site, m *minted) error {
				cost = append(cost, m.cost.Seconds())
				if n == b.most {
					if err := b.joinHalf(ctx, s, m, n); err != nil {
						return err
					}
					if err := b.storm(ctx, s, m); err != nil {
						return err
					}
				}
				return m.Stop()
			})
			if err != nil {
				return err
			}
		}
		b.results.add(build.name+"mint_scale", 2*cost[1]/(cost[0]+cost[2]))
	}
	return nil
}

// joinHalf lets half of the nodes join, and records the peak memory of the manager.
func (b *bench) joinHalf(ctx context.Context, s *site, m *minted, n int) error {
	if err := s.createNodes(ctx, n/2, nodeName); err != nil {
		return err
	}
	if err := s.untilJoined(ctx, m.running, n/2); err != nil {
		return err
	}
	if _, err := m.untilQuiet(ctx); err != nil {
		return err
	}
	mib, err := m.peakMemory()
	b.results.add(fmt.Sprintf("%srss_mib_%d", m.build.name, n), mib)
	return err
}

// restart measures the processor time from the start of the process until it is idle, and its writes.
func (b *bench) restart(ctx context.Context, s *site, build build) (*running, error) {
	before, err := s.stored(ctx)
	if err != nil {
		return nil, err
	}
	m, err := s.start(ctx, build)
	if err != nil {
		return nil, err
	}
	used, err := m.untilQuiet(ctx)
	if err != nil {
		return nil, err
	}
	b.results.add(build.name+"restart_s", used.Seconds())
	return m, b.addWrites(ctx, s, build.name+"restart_writes", 1, before)
}

// rest watches a settled cluster whose nodes renew their Leases every ten seconds, and report every five minutes.
func (b *bench) rest(ctx context.Context, s *site, build build, m *running) error {
	before, err := s.stored(ctx)
	if err != nil {
		return err
	}
	began, usedBefore := time.Now(), time.Duration(0)
	if usedBefore, err = m.cpu(); err != nil {
		return err
	}
	beats, cancel := context.WithTimeout(ctx, b.idle)
	defer cancel()
	if err := s.heartbeats(beats, b.nodes/2); err != nil && beats.Err() == nil {
		return err
	}
	used, err := m.cpu()
	if err != nil {
		return err
	}
	b.results.add(build.name+"idle_cpu", 100*float64(used-usedBefore)/float64(time.Since(began)))
	return b.addWrites(ctx, s, build.name+"idle_writes", 1, before)
}

// heartbeats renews n Leases and updates n Nodes as kubelets do, until the context ends.
func (s *site) heartbeats(ctx context.Context, n int) error {
	const renewal, report = 10 * time.Second, 5 * time.Minute
	leases := make([]*coordinationv1.Lease, n)
	for i := range leases {
		leases[i] = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: nodeName(i)}}
		if err := s.Client.Get(ctx, client.ObjectKeyFromObject(leases[i]), leases[i]); err != nil { // createNodes created it
			return err
		}
	}
	ticker := time.NewTicker(renewal / time.Duration(n))
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		lease := leases[i%n]
		lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
		if err := s.Client.Update(ctx, lease); err != nil {
			return err
		}
		if i%int(report/renewal) != 0 {
			continue
		}
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: lease.Name}}
		patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":%q}]}}`, time.Now().UTC().Format(time.RFC3339))
		if err := s.Client.Status().Patch(ctx, node, client.RawPatch("application/strategic-merge-patch+json", []byte(patch))); err != nil {
			return err
		}
	}
}

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
	key, err := env.NewKey()
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
