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
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

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
