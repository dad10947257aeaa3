// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// latencies is how many NodeBootstraps are applied one after the other in a round.
const latencies = 150

// latency measures the time from sending a NodeBootstrap to an idle operator until its kubeconfig is visible, next to that of
// the three writes of a credential one after the other on the same cluster.
func (b *bench) latency(ctx context.Context) error {
	return onSite(ctx, quiet, func(s *site) error {
		for round := range b.rounds {
			for _, build := range b.builds {
				if err := b.latencyOn(ctx, s, build, round); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (b *bench) latencyOn(ctx context.Context, s *site, build build, round int) error {
	raw, err := s.rawLatencies(ctx)
	if err != nil {
		return err
	}
	m, err := s.start(ctx, build)
	if err != nil {
		return err
	}
	prefix := fmt.Sprintf("%s%d", strings.ReplaceAll(build.name, "_", "-"), round)
	if _, err := s.tokenClient(ctx, prefix+"-first"); err != nil { // the first of all causes the creation of the bindings
		return err
	}
	if _, err := m.untilQuiet(ctx); err != nil { // it cleans up after the raw limit
		return err
	}
	took, err := s.latencies(ctx, prefix)
	if err != nil {
		return err
	}
	for name, share := range map[string]float64{"p50": 0.5, "p99": 0.99} {
		got, limit := quantile(took, share), quantile(raw, share)
		b.results.add("raw_latency_"+name+"_ms", milliseconds(limit))
		b.results.add(build.name+"latency_"+name+"_ms", milliseconds(got))
		b.results.add(build.name+"latency_"+name+"_ratio", float64(got)/float64(limit))
	}
	return m.Stop()
}

func quantile(times []time.Duration, share float64) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[min(len(sorted)-1, int(float64(len(sorted))*share))]
}

// rawLatencies are of the three writes, by a client that does nothing else, without an operator.
func (s *site) rawLatencies(ctx context.Context) ([]time.Duration, error) {
	var out []time.Duration
	for i := range latencies {
		nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("raw-%d", i)}}
		if err := s.Client.Create(ctx, nb); err != nil {
			return nil, err
		}
		c, err := s.newCredential(nb)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if err := s.store(ctx, nb, c); err != nil {
			return nil, err
		}
		out = append(out, time.Since(began))
		if err := s.Client.Delete(ctx, nb); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *site) latencies(ctx context.Context, prefix string) ([]time.Duration, error) {
	w, err := s.Client.Watch(ctx, &corev1.SecretList{}, client.InNamespace(operator.Namespace))
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	var out []time.Duration
	for i := range latencies {
		nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", prefix, i)}}
		began := time.Now()
		if err := s.Client.Create(ctx, nb); err != nil {
			return nil, err
		}
		if err := awaitSecret(w, owned.KubeconfigSecretName(nb.Name)); err != nil {
			return nil, err
		}
		out = append(out, time.Since(began))
		// Wait until the operator is idle again, because only an idle one is measured.
		err := until(ctx, 5*time.Millisecond, "the status of "+nb.Name, func() (bool, error) {
			err := s.Client.Get(ctx, client.ObjectKeyFromObject(nb), nb)
			return nb.Status.KubeconfigSecretRef != nil, err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func awaitSecret(w watch.Interface, name string) error {
	timeout := time.After(time.Minute)
	for {
		select {
		case event, ok := <-w.ResultChan():
			if !ok {
				return fmt.Errorf("the watch ended before the Secret %s came", name)
			}
			if s, ok := event.Object.(*corev1.Secret); ok && s.Name == name {
				return nil
			}
		case <-timeout:
			return fmt.Errorf("the Secret %s has not come within a minute", name)
		}
	}
}

// joining is how many nodes join, few enough that each has its events.
const joining = 10

// join counts the operator's writes from a kubelet's CSR to the end of its credential, in the API server's audit log.
func (b *bench) join(ctx context.Context) error {
	for _, build := range b.builds {
		dir, err := os.MkdirTemp("", "bench-audit-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		audit, err := env.NewAudit(dir)
		if err != nil {
			return err
		}
		cfg := localcluster.Config{APIServerArgs: audit.Args()}
		if err := onSite(ctx, cfg, func(s *site) error { return b.joinOn(ctx, s, build, audit) }); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) joinOn(ctx context.Context, s *site, build build, audit *env.Audit) error {
	m, err := b.mintOn(ctx, s, build, joining)
	if err != nil {
		return err
	}
	if _, err := m.untilQuiet(ctx); err != nil {
		return err
	}
	before, err := audit.Writes()
	if err != nil {
		return err
	}
	tokens, err := s.tokens(ctx)
	if err != nil {
		return err
	}
	senders, err := tokenSenders(tokens)
	if err != nil {
		return err
	}
	err = inParallel(len(senders), func(i int) error { return s.joinAs(ctx, senders[i], owned.NodeOf(&tokens[i])) })
	if err != nil {
		return err
	}
	if err := s.untilJoined(ctx, m.running, joining); err != nil {
		return err
	}
	if _, err := m.untilQuiet(ctx); err != nil {
		return err
	}
	after, err := audit.Writes()
	if err != nil {
		return err
	}
	b.results.add(build.name+"join_writes", float64(len(after)-len(before))/joining)
	counts := map[string]int{}
	for _, e := range after[len(before):] {
		what := strings.TrimSuffix(e.Verb+" "+e.ObjectRef.Resource+"/"+e.ObjectRef.Subresource, "/")
		if e.ResponseStatus.Code >= http.StatusBadRequest {
			what += fmt.Sprintf(", refused with %d", e.ResponseStatus.Code)
		}
		counts[what]++
	}
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		fmt.Printf("    %s: %.1f\n", what, float64(counts[what])/joining)
	}
	return m.Stop()
}

// joinAs does what a kubelet does.
func (s *site) joinAs(ctx context.Context, from sender, node string) error {
	c, err := s.anonymous()
	if err != nil {
		return err
	}
	request, err := s.send(ctx, c, from)
	if err != nil {
		return err
	}
	err = until(ctx, 50*time.Millisecond, "the certificate of "+node, func() (bool, error) {
		err := s.Client.Get(ctx, client.ObjectKeyFromObject(request), request)
		return len(request.Status.Certificate) > 0, err
	})
	if err != nil {
		return err
	}
	if err := s.createNode(ctx, node); err != nil {
		return err
	}
	// A Lease proves the join only if it is renewed in a later second than the approval.
	return until(ctx, 300*time.Millisecond, "the Lease of "+node, func() (bool, error) { return s.renewed(ctx, node, request) })
}

func (s *site) renewed(ctx context.Context, node string, request *certificatesv1.CertificateSigningRequest) (bool, error) {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: node}}
	if err := s.Client.Get(ctx, client.ObjectKeyFromObject(lease), lease); err == nil {
		lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
		return time.Since(request.Status.Conditions[0].LastUpdateTime.Time) > 2*time.Second, s.Client.Update(ctx, lease)
	}
	lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
	return false, s.Client.Create(ctx, lease)
}
