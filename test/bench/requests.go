// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

func (s *site) tokens(ctx context.Context) ([]corev1.Secret, error) {
	var list corev1.SecretList
	return list.Items, s.Client.List(ctx, &list, client.InNamespace(bootstrap.TokenNamespace), client.MatchingLabels{bootstrap.ManagedByLabel: bootstrap.ManagedBy})
}

// approved waits until so many requests are approved. It watches them, in the undisturbed run as well.
func (s *site) approved(ctx context.Context, n int) (wait func() error, err error) {
	w, err := s.Client.Watch(ctx, &certificatesv1.CertificateSigningRequestList{})
	if err != nil {
		return nil, err
	}
	return func() error {
		done := map[string]bool{}
		timeout := time.After(10 * time.Minute)
		for len(done) < n {
			select {
			case event, ok := <-w.ResultChan():
				if !ok { // the API server ends a watch that is too slow; a new one begins with all that is there
					if w, err = s.Client.Watch(ctx, &certificatesv1.CertificateSigningRequestList{}); err != nil {
						return err
					}
					continue
				}
				if err := noteApproved(event, done); err != nil {
					return err
				}
			case <-timeout:
				return fmt.Errorf("%d of %d requests are approved after ten minutes", len(done), n)
			}
		}
		w.Stop()
		return nil
	}, nil
}

func noteApproved(event watch.Event, done map[string]bool) error {
	r, ok := event.Object.(*certificatesv1.CertificateSigningRequest)
	if !ok || event.Type == watch.Deleted || len(r.Status.Conditions) == 0 {
		return nil
	}
	if c := r.Status.Conditions[0]; c.Type != certificatesv1.CertificateApproved {
		return fmt.Errorf("the request %s is %s: %s", r.Name, c.Type, c.Message)
	}
	done[r.Name] = true
	return nil
}

// rate sends all requests at once and is how many were approved in a second, up to the last. What follows each is approve.
func (b *bench) rate(ctx context.Context, s *site, m *running, name string, c *http.Client, senders []sender, approve approver) (float64, error) {
	wait, err := s.approved(ctx, len(senders))
	if err != nil {
		return 0, err
	}
	stop := b.profile(ctx, s, m, name)
	used, began := usage(), time.Now()
	sent := make(chan error, 1)
	go func() {
		sent <- inParallel(len(senders), func(i int) error {
			r, err := s.send(ctx, c, senders[i])
			if err != nil {
				return err
			}
			return approve(r)
		})
	}()
	if err := wait(); err != nil {
		return 0, err
	}
	took := time.Since(began)
	b.addUsage(name, len(senders), used)
	return float64(len(senders)) / took.Seconds(), errors.Join(<-sent, stop())
}

// rates are those of several rounds, in which the same senders send the same again. The operator, if there is one, has come to
// rest before each.
func (b *bench) rates(ctx context.Context, s *site, m *running, name string, c *http.Client, senders []sender, approve approver) ([]float64, error) {
	var out []float64
	for range b.rounds {
		if err := s.Client.DeleteAllOf(ctx, &certificatesv1.CertificateSigningRequest{}); err != nil {
			return nil, err
		}
		if m != nil {
			if _, err := m.untilQuiet(ctx); err != nil {
				return nil, err
			}
		}
		rate, err := b.rate(ctx, s, m, name, c, senders, approve)
		if err != nil {
			return nil, err
		}
		b.results.add(name+"_per_s", rate)
		out = append(out, rate)
	}
	return out, nil
}

// addRatios notes what share of the limit each round has reached.
func (b *bench) addRatios(key string, rates, limits []float64) {
	for i := range rates {
		b.results.add(key, rates[i]/limits[i])
	}
}

// An approver is what follows the sending of a request.
type approver func(*certificatesv1.CertificateSigningRequest) error

func leaveIt(*certificatesv1.CertificateSigningRequest) error { return nil }

// approve approves a request with no checks.
func (s *site) approve(ctx context.Context) approver {
	return func(r *certificatesv1.CertificateSigningRequest) error {
		r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{
			Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Benchmark", Message: "approved with no checks",
		}}
		return s.Client.SubResource("approval").Update(ctx, r)
	}
}

// claim writes the verdict into the status before it is carried out: the least that the operator has to write.
func (s *site) claim(ctx context.Context, all map[string]*v1alpha1.NodeBootstrap, then approver) approver {
	return func(r *certificatesv1.CertificateSigningRequest) error {
		nb := all[csr.RequestedNode(r)]
		key, err := csr.Fingerprint(r)
		if err != nil {
			return err
		}
		nb.Status.Certificates = []v1alpha1.CertificateDecision{{
			Name: r.Name, UID: r.UID, SignerName: r.Spec.SignerName, TokenID: nb.Status.Token.ID, KeyFingerprint: key,
			Verdict: v1alpha1.VerdictApproved, Reason: csr.ReasonKubeletClient, Time: metav1.Now(),
		}}
		if err := s.Client.Status().Update(ctx, nb); err != nil {
			return err
		}
		return then(r)
	}
}

// approve measures requests that kubelets send with their tokens all at once: with no checks, with no checks but with a claim,
// with kube-controller-manager's approver alone, without limits, and with the operator.
func (b *bench) approve(ctx context.Context) error {
	limits, err := b.rawApprovals(ctx)
	if err != nil {
		return err
	}
	if err := b.approvalsOfControllerManager(ctx); err != nil {
		return err
	}
	for _, build := range b.builds {
		err := onSite(ctx, quiet, func(s *site) error {
			m, err := b.mintOn(ctx, s, build, b.requests)
			if err != nil {
				return err
			}
			rates, err := b.ratesWithTokens(ctx, s, m.running, build.name+"approve", leaveIt)
			if err != nil {
				return err
			}
			b.addRatios(build.name+"approve_ratio", rates, limits)
			return m.Stop()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ratesWithTokens has all tokens that are there send one request each.
func (b *bench) ratesWithTokens(ctx context.Context, s *site, m *running, name string, approve approver) ([]float64, error) {
	tokens, err := s.tokens(ctx)
	if err != nil {
		return nil, err
	}
	senders, err := withTokens(tokens)
	if err != nil {
		return nil, err
	}
	c, err := s.anonymous()
	if err != nil {
		return nil, err
	}
	return b.rates(ctx, s, m, name, c, senders, approve)
}

// withoutOperator makes the credentials and the bindings that the operator would.
func (b *bench) withoutOperator(ctx context.Context, s *site, bindings []string) ([]*v1alpha1.NodeBootstrap, error) {
	for _, name := range bindings {
		if err := s.Client.Create(ctx, bootstrap.Binding(name)); err != nil {
			return nil, err
		}
	}
	all, err := s.makeNodeBootstraps(ctx, b.requests, nil)
	if err != nil {
		return nil, err
	}
	return all, inParallel(len(all), func(i int) error {
		c, err := s.newCredential(all[i])
		if err != nil {
			return err
		}
		if len(bindings) == len(bootstrap.BindingNames) {
			c.token.Data["auth-extra-groups"] = []byte(bootstrap.Group + "," + bootstrap.ClusterWideGroup)
		}
		return s.store(ctx, all[i], c)
	})
}

// rawApprovals are with no checks, then with no checks but with a claim.
func (b *bench) rawApprovals(ctx context.Context) (limits []float64, err error) {
	err = onSite(ctx, quiet, func(s *site) error {
		all, err := b.withoutOperator(ctx, s, []string{bootstrap.BindingCreateCSRs})
		if err != nil {
			return err
		}
		if limits, err = b.ratesWithTokens(ctx, s, nil, "raw_approve", s.approve(ctx)); err != nil {
			return err
		}
		byName := map[string]*v1alpha1.NodeBootstrap{}
		for _, nb := range all {
			byName[nb.Name] = nb
		}
		claimed, err := b.ratesWithTokens(ctx, s, nil, "raw_claim", s.claim(ctx, byName, s.approve(ctx)))
		b.addRatios("raw_claim_ratio", claimed, limits)
		return err
	})
	return limits, err
}

// approvalsOfControllerManager has it run its approver and nothing else, with no limit on what it asks of the API server.
func (b *bench) approvalsOfControllerManager(ctx context.Context) error {
	cfg := localcluster.Config{ControllerManagerArgs: map[string]string{
		"controllers": "certificatesigningrequest-approving-controller", "kube-api-qps": "10000", "kube-api-burst": "10000",
	}}
	return onSite(ctx, cfg, func(s *site) error {
		if _, err := b.withoutOperator(ctx, s, bootstrap.BindingNames); err != nil {
			return err
		}
		_, err := b.ratesWithTokens(ctx, s, nil, "kube_controller_manager_approve", leaveIt)
		return err
	})
}

// serving measures requests for serving certificates that the nodes themselves send all at once.
func (b *bench) serving(ctx context.Context) error {
	var limits []float64
	err := onSite(ctx, quiet, func(s *site) (err error) {
		if err := s.makeMembers(ctx, b.requests); err != nil {
			return err
		}
		limits, err = b.servingRates(ctx, s, nil, "raw_serving", s.approve(ctx))
		return err
	})
	if err != nil {
		return err
	}
	for _, build := range b.builds {
		err := onSite(ctx, quiet, func(s *site) error {
			if err := s.makeMembers(ctx, b.requests); err != nil {
				return err
			}
			m, err := s.start(ctx, build)
			if err != nil {
				return err
			}
			if err := s.untilJoined(ctx, m, b.requests); err != nil {
				return err
			}
			rates, err := b.servingRates(ctx, s, m, build.name+"serving", leaveIt)
			if err != nil {
				return err
			}
			b.addRatios(build.name+"serving_ratio", rates, limits)
			return m.Stop()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) servingRates(ctx context.Context, s *site, m *running, name string, approve approver) ([]float64, error) {
	senders, err := s.nodes(b.requests)
	if err != nil {
		return nil, err
	}
	c, err := rest.HTTPClientFor(s.AdminConfig())
	if err != nil {
		return nil, err
	}
	return b.rates(ctx, s, m, name, c, senders, approve)
}
