// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/steps"
)

// What is still noted about a node that has joined: when it became Ready, and whether its certificate will expire while it does not run.
// Neither is watched: whole Nodes and Leases would be events every few seconds.

// Bounds of the delay before a Node that is not Ready yet is read again: half of its age. The time comes from the Node, so that it does
// not matter when it is read.
const (
	readyPollMin = 10 * time.Second
	readyPollMax = 10 * time.Minute
)

// NeedsReady reports whether the Node must be read to know since when it is Ready.
func (f *Facts) NeedsReady(now time.Time) bool {
	return f.NodeBootstrap != nil && f.Node != nil && f.joined() && slices.ContainsFunc(steps.Waits(f.NodeBootstrap, now), func(w steps.Wait) bool { return w.Step == steps.Ready })
}

// A kubelet renews its client certificate after 70 to 90 % of its life (k8s.io/client-go/util/certificate).
const renewedAfterPercent = 90

const (
	// ExpiryNotice is how long before its expiry a certificate that was not renewed is reported.
	ExpiryNotice = 30 * 24 * time.Hour
	// runningFor is how long after a renewal of its Lease a node counts as running: a kubelet renews it every few seconds.
	runningFor = time.Hour
	// expiryLeaseInterval is how often the Lease of a node with such a certificate is read.
	expiryLeaseInterval = time.Hour
)

// renewalMissed is when a certificate that was not renewed is reported: when a kubelet that runs would have renewed it, and not more than
// ExpiryNotice before its expiry.
func renewalMissed(c *v1alpha1.ClientCertificate) time.Time {
	life := c.ExpirationTime.Sub(c.StartTime.Time)
	renewed, notice := c.StartTime.Add(life/100*renewedAfterPercent), c.ExpirationTime.Add(-ExpiryNotice)
	if notice.After(renewed) {
		return notice
	}
	return renewed
}

// NeedsLease reports whether the Lease must be read to know whether a node runs whose certificate was not renewed.
func (f *Facts) NeedsLease(now time.Time) bool {
	if f.NodeBootstrap == nil || f.Node == nil || !f.joined() {
		return false
	}
	c := f.ClientCertificate()
	return c != nil && !now.Before(renewalMissed(c))
}

// settle schedules what is still noted about a node that has joined.
func (p *Plan) settle(f *Facts, now time.Time) {
	if f.NeedsReady(now) {
		age := now.Sub(f.NodeBootstrap.Status.Join.RegisteredTime.Time)
		p.RequeueBy(now.Add(min(max(age/2, readyPollMin), readyPollMax)))
	}
	if p.ClientCertificate = f.ClientCertificate(); p.ClientCertificate == nil {
		return
	}
	if missed := renewalMissed(p.ClientCertificate); now.Before(missed) {
		p.RequeueBy(missed)
		return
	}
	p.Expiring = !now.Before(f.LeaseRenewed.Add(runningFor))
	p.RequeueBy(now.Add(expiryLeaseInterval))
}

// JoinedWith is the newest CSR of the current wait that has its certificate; nil if none is known.
func (f *Facts) JoinedWith() *certificatesv1.CertificateSigningRequest {
	if r := steps.Request(&f.NodeBootstrap.Status, f.OwnRequests()); r != nil && csr.Issued(r) {
		return r
	}
	return nil
}

// ClientCertificate is the newest client certificate of a node that has joined: that in the status, the one that it joins with, or a
// renewal. It is nil if none is known.
func (f *Facts) ClientCertificate() *v1alpha1.ClientCertificate {
	newest := f.NodeBootstrap.Status.ClientCertificate
	requests := f.Renewals
	if joined := f.JoinedWith(); joined != nil {
		requests = append([]*certificatesv1.CertificateSigningRequest{joined}, requests...)
	}
	for _, r := range requests {
		start, end, err := csr.Validity(r)
		if err == nil && (newest == nil || renews(newest, start)) {
			newest = &v1alpha1.ClientCertificate{StartTime: metav1.NewTime(start), ExpirationTime: metav1.NewTime(end)}
		}
	}
	return newest
}

// renews reports whether a certificate that starts at a time is noted in place of another one. One that comes within a tenth of its life is
// not: no kubelet renews so soon, and a node could otherwise cause any number of writes.
func renews(c *v1alpha1.ClientCertificate, start time.Time) bool {
	return !start.Before(c.StartTime.Add(c.ExpirationTime.Sub(c.StartTime.Time) / 10))
}
