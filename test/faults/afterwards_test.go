// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// endsWell lets the cluster settle, whatever has happened to it. Then the status is true, each wanted node can join, and
// each can be removed. It stops at the first violation.
func (w *world) endsWell(machines map[string]*machine) {
	const backoff = 20 * time.Minute // the workqueue's is not longer
	w.run(backoff)
	checks := []func(){w.checkSettled}
	for _, node := range nodes {
		checks = append(checks, func() { w.CheckTruth(node, int64(w.revision), w.now()) })
		if m := machines[node]; m != nil {
			checks = append(checks, func() { w.finallyJoins(m) })
		}
	}
	checks = append(checks, func() {
		for _, node := range nodes {
			w.unwants(node)
		}
		w.run(time.Minute)
		w.checkSettled()
	}, w.checkLeaks)
	for _, check := range checks {
		if check(); len(w.violations) > 0 {
			return
		}
	}
}

// finallyJoins lets a new machine join as the node, if that is wanted, after a reissue if no credential exists.
func (w *world) finallyJoins(m *machine) {
	nb := get[*v1alpha1.NodeBootstrap](w.store, "", m.node)
	if nb == nil {
		return
	}
	w.note("- a new machine joins as %s", m.node)
	// A token is for one key; and after the join deadline the last one expires.
	runsOut := nb.Status.Token != nil && nb.Status.Token.ExpirationTime.Sub(w.clock.Now()) < time.Minute
	if !w.isReady(m.node) || len(nb.Status.Certificates) > 0 || runsOut {
		w.asksReissue(m.node, fmt.Sprint("finally ", w.revision))
		w.run(5 * time.Second)
	}
	m.wipe()
	for i, do := range []func() bool{m.give, m.ask, m.collectApproved, m.register, m.beat} {
		if !do() {
			w.violated(fmt.Sprintf("the right machine can join: %s cannot take step %d", m, i+1))
			return
		}
		w.run(5 * time.Second)
	}
	w.run(time.Minute) // after a reissue, a Lease proves nothing before that
	m.beat()
	w.run(time.Minute)
	if !w.isJoined(m.node) {
		w.violated(fmt.Sprintf("the right machine can join: %s has, and the status does not show it", m))
	}
}

// collectApproved approves as a person first, if the approval is Manual.
func (m *machine) collectApproved() bool {
	r := get[*certificatesv1.CertificateSigningRequest](m.w.store, "", m.request)
	if nb := get[*v1alpha1.NodeBootstrap](m.w.store, "", m.node); nb != nil && r != nil && nb.Spec.ApprovalMode() == v1alpha1.ApprovalManual && undecided(r) {
		m.w.decide(userAuthor, r, certificatesv1.CertificateApproved, "LooksGood")
		m.w.run(time.Second)
	}
	return m.collect()
}

// seconds are how long a busy person waits before the next step.
const seconds = 30

// goesOn does those of some steps that are possible.
func (w *world) goesOn(steps []*step) {
	for _, s := range steps {
		for range seconds {
			if w.take(s) {
				break
			}
			w.run(time.Second)
		}
		w.run(s.wait)
	}
}

// withoutLeaving are the steps except the last.
func withoutLeaving(steps []*step) []*step { return slices.Delete(steps, len(steps)-1, len(steps)) }
