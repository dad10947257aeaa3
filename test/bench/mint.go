// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// small is how many NodeBootstraps a small cluster has.
const small = 1000

// mint measures how many nodes get their credentials in a second, from the start of the process, compared with how many
// the API server accepts without an operator.
func (b *bench) mint(ctx context.Context) error {
	for range b.rounds {
		if err := b.mintBeside(ctx, small, func(_ context.Context, _ *site, m *minted) error { return m.Stop() }); err != nil {
			return err
		}
	}
	return nil
}

// mintBeside is one round, next to the raw limit. then runs in each cluster, and also stops the manager.
func (b *bench) mintBeside(ctx context.Context, n int, then func(context.Context, *site, *minted) error) error {
	limit, err := b.rawMint(ctx, n)
	if err != nil {
		return err
	}
	b.results.add(fmt.Sprintf("raw_mint_per_s_%d", n), limit)
	for _, build := range b.builds {
		err := b.mintThen(ctx, build, n, func(ctx context.Context, s *site, m *minted) error {
			b.results.add(fmt.Sprintf("%smint_ratio_%d", build.name, n), m.perSecond/limit)
			return then(ctx, s, m)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// mintThen is one round in a cluster of its own.
func (b *bench) mintThen(ctx context.Context, build build, n int, then func(context.Context, *site, *minted) error) error {
	return onSite(ctx, quiet, func(s *site) error {
		m, err := b.mintOn(ctx, s, build, n)
		if err != nil {
			return err
		}
		b.results.add(fmt.Sprintf("%smint_per_s_%d", build.name, n), m.perSecond)
		return then(ctx, s, m)
	})
}

func nodeName(i int) string { return fmt.Sprintf("worker-%d", i) }

// createNodeBootstraps creates some, each changed by edit.
func (s *site) createNodeBootstraps(ctx context.Context, n int, edit func(int, *v1alpha1.NodeBootstrap)) ([]*v1alpha1.NodeBootstrap, error) {
	out := make([]*v1alpha1.NodeBootstrap, n)
	return out, inParallel(n, func(i int) error {
		out[i] = &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)}}
		if edit != nil {
			edit(i, out[i])
		}
		return s.Client.Create(ctx, out[i])
	})
}

// A minted cluster is one whose nodes all have their credentials.
type minted struct {
	*running
	build build
	// perSecond is how many got them in a second, from the start of the process.
	perSecond float64
	// cost is the manager's processor time for each, without that of its start.
	cost time.Duration
}

// mintOn creates n NodeBootstraps, starts the manager and waits until all have their credentials.
func (b *bench) mintOn(ctx context.Context, s *site, build build, n int) (*minted, error) {
	if _, err := s.createNodeBootstraps(ctx, n, nil); err != nil {
		return nil, err
	}
	before, err := s.stored(ctx)
	if err != nil {
		return nil, err
	}
	used, began := usage(), time.Now()
	m, err := s.start(ctx, build)
	if err != nil {
		return nil, err
	}
	atStart, err := m.cpu()
	if err != nil {
		return nil, err
	}
	stop := b.profile(ctx, s, m, fmt.Sprintf("%smint-%d", build.name, n))
	if err := s.untilAvailable(ctx, m, n); err != nil {
		return nil, err
	}
	took := time.Since(began)
	atEnd, err := m.cpu()
	if err != nil {
		return nil, err
	}
	b.addUsage(fmt.Sprintf("%smint_%d", build.name, n), n, used)
	if err := b.addWrites(ctx, s, build.name+"writes_per_node", n, before); err != nil {
		return nil, err
	}
	if err := s.checkAvailable(ctx, n); err != nil {
		return nil, err
	}
	return &minted{m, build, float64(n) / took.Seconds(), (atEnd - atStart) / time.Duration(n)}, stop()
}

// untilAvailable waits until the manager reports that so many nodes have got their credentials. The manager walks all of
// them for each answer, so it is polled rarely, and more often towards the end.
func (s *site) untilAvailable(ctx context.Context, m *running, n int) error {
	const often, seldom = 50 * time.Millisecond, time.Second
	began := time.Now()
	last, lastAsked := 0.0, began
	for {
		have, err := m.sum(ctx, "nodebootstrap_credential_duration_seconds", nil)
		if err != nil || have >= float64(n) {
			return err
		}
		now, pause := time.Now(), often
		if have > last {
			left := (float64(n) - have) / (have - last) * float64(now.Sub(lastAsked))
			pause = min(max(time.Duration(left/2), often), seldom)
		}
		last, lastAsked = have, now
		if time.Since(began) > patience*time.Duration(1+n/1000) {
			return fmt.Errorf("%.0f of %d nodes have a credential after %s", have, n, time.Since(began))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// checkAvailable checks with the API server, because the manager's own report proves nothing.
func (s *site) checkAvailable(ctx context.Context, n int) error {
	var list v1alpha1.NodeBootstrapList
	if err := s.Client.List(ctx, &list); err != nil {
		return err
	}
	var tokens, kubeconfigs corev1.SecretList
	for into, namespace := range map[*corev1.SecretList]string{&tokens: token.Namespace, &kubeconfigs: operator.Namespace} {
		if err := s.Client.List(ctx, into, client.InNamespace(namespace)); err != nil {
			return err
		}
	}
	available := 0
	for i := range list.Items {
		if ref := list.Items[i].Status.KubeconfigSecretRef; ref != nil {
			available++
		}
	}
	if available != n || len(tokens.Items) != n || len(kubeconfigs.Items) != n {
		return fmt.Errorf("%d nodes have a credential, with %d tokens and %d kubeconfigs, instead of %d", available, len(tokens.Items), len(kubeconfigs.Items), n)
	}
	return nil
}

var mintedResources = []string{"secrets", "nodebootstraps", "events"}

// stored is how often each kind that the operator writes was written.
func (s *site) stored(ctx context.Context) (map[string]float64, error) {
	out := map[string]float64{}
	for _, resource := range mintedResources {
		n, err := s.writes(ctx, resource)
		if err != nil {
			return nil, err
		}
		out[resource] = n
	}
	return out, nil
}

// addWrites records how many writes each of n nodes took since before, by the API server's own metrics.
func (b *bench) addWrites(ctx context.Context, s *site, key string, n int, before map[string]float64) error {
	after, err := s.stored(ctx)
	if err != nil {
		return err
	}
	total := 0.0
	for _, resource := range mintedResources {
		total += after[resource] - before[resource]
	}
	b.results.add(key, total/float64(n))
	return nil
}

// credential is what the operator writes for one node.
type credential struct {
	token, kubeconfig *corev1.Secret
	status            v1alpha1.NodeBootstrapStatus
}

// newCredential returns what the operator would write.
func (s *site) newCredential(nb *v1alpha1.NodeBootstrap) (*credential, error) {
	random, err := bootstraputil.GenerateBootstrapToken()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	secret := token.NewSecret(nb, token.NextID(nb.UID, ""), random[7:], now.Add(nb.Spec.TokenTTL()))
	t, _ := token.Parse(secret)
	f := &lifecycle.Facts{
		Name: nb.Name, Namespace: operator.Namespace, NodeBootstrap: nb,
		Cluster: kubeconfig.Cluster{Server: s.Server(), CA: s.ServerCA(), CAExpires: now.AddDate(10, 0, 0)},
		Bypass:  &lifecycle.Bypass{},
	}
	text, err := kubeconfig.NewSecret(nb, operator.Namespace, f.Cluster, t)
	if err != nil {
		return nil, err
	}
	p := lifecycle.Decide(f, now)
	stored := status.Report(f, &p, &status.Outcome{Token: &t, Published: true, Acceptance: status.Accepted}, now)
	return &credential{secret, text, *stored}, nil
}

// rawMint measures the same three writes for each node, sent as fast as the API server accepts them.
func (b *bench) rawMint(ctx context.Context, n int) (rate float64, err error) {
	err = onSite(ctx, quiet, func(s *site) error {
		all, err := s.createNodeBootstraps(ctx, n, nil)
		if err != nil {
			return err
		}
		credentials := make([]*credential, n)
		for i, nb := range all {
			if credentials[i], err = s.newCredential(nb); err != nil {
				return err
			}
		}
		stop := b.profile(ctx, s, nil, fmt.Sprintf("raw-mint-%d", n))
		used, began := usage(), time.Now()
		err = inParallel(n, func(i int) error { return s.store(ctx, all[i], credentials[i]) })
		rate = float64(n) / time.Since(began).Seconds()
		b.addUsage(fmt.Sprintf("raw_mint_%d", n), n, used)
		return errors.Join(err, stop())
	})
	return rate, err
}

// store does the three writes.
func (s *site) store(ctx context.Context, nb *v1alpha1.NodeBootstrap, c *credential) error {
	if err := s.Client.Create(ctx, c.token); err != nil {
		return err
	}
	if err := s.Client.Create(ctx, c.kubeconfig); err != nil {
		return err
	}
	nb.Status = c.status
	return s.Client.Status().Update(ctx, nb)
}
