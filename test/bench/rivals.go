// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// A rival gets its CSRs approved in a cluster of its own.
type rival struct {
	name string
	site *site
	// manager is the operator, paused except in its own rounds; nil if there is none.
	manager *running
	client  *http.Client
	// senders send the same CSRs again in each round.
	senders []sender
	// approve runs after each CSR is sent.
	approve approver
}

// compete runs the rounds of all rivals in turn, because a machine's speed varies over time, and records the share of the first
// one's rate that the others reach.
func (b *bench) compete(ctx context.Context, rivals []*rival) error {
	for range b.rounds {
		limit, controllerManager := 0.0, 0.0
		for i, r := range rivals {
			rate, err := b.round(ctx, r)
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			b.results.add(r.name+"_per_s", rate)
			if i == 0 {
				limit = rate
			} else {
				b.results.add(r.name+"_ratio", rate/limit)
			}
			if r.name == controllerManagerRival {
				controllerManager = rate
			} else if controllerManager > 0 {
				b.results.add(r.name+"_to_kube_controller_manager", rate/controllerManager)
			}
		}
	}
	for _, r := range rivals {
		if r.manager == nil {
			continue
		}
		if err := errors.Join(r.manager.resume(), r.manager.Stop()); err != nil {
			return err
		}
	}
	return nil
}

// round leaves the cluster as it was, with the manager idle.
func (b *bench) round(ctx context.Context, r *rival) (rate float64, err error) {
	if r.manager != nil {
		if err := r.manager.resume(); err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, r.manager.pause()) }()
	}
	if rate, err = b.rate(ctx, r); err != nil {
		return 0, err
	}
	if err := r.site.Client.DeleteAllOf(ctx, &certificatesv1.CertificateSigningRequest{}); err != nil {
		return 0, err
	}
	if r.manager != nil {
		_, err = r.manager.untilQuiet(ctx)
	}
	return rate, err
}

// rate is how many CSRs were approved in a second, up to the last, when all are sent at once.
func (b *bench) rate(ctx context.Context, r *rival) (float64, error) {
	wait, err := r.site.approved(ctx, len(r.senders))
	if err != nil {
		return 0, err
	}
	stop := b.profile(ctx, r.site, r.manager, r.name)
	used, began := usage(), time.Now()
	sent := make(chan error, 1)
	go func() {
		sent <- inParallel(len(r.senders), func(i int) error {
			request, err := r.site.send(ctx, r.client, r.senders[i])
			if err != nil {
				return err
			}
			return r.approve(request)
		})
	}()
	if err := wait(); err != nil {
		return 0, err
	}
	took := time.Since(began)
	b.addUsage(r.name, len(r.senders), used)
	return float64(len(r.senders)) / took.Seconds(), errors.Join(<-sent, stop())
}

// An approver runs after a CSR is sent.
type approver func(*certificatesv1.CertificateSigningRequest) error

func leaveIt(*certificatesv1.CertificateSigningRequest) error { return nil }

// approved waits until so many CSRs are approved. It watches them, also in the undisturbed run.
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
				if !ok { // the API server ends a watch that is too slow; a new one begins with all existing objects
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
