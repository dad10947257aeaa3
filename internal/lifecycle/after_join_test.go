// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
)

const (
	day  = 24 * time.Hour
	year = 365 * day
)

// certified joined half an hour ago with a certificate of some age that is valid for a while.
func certified(age, life time.Duration) *lifecycle.Facts {
	f := nodetest.JoinedBefore()
	f.NodeBootstrap.Status.ClientCertificate = &v1alpha1.ClientCertificate{StartTime: nodetest.Ago(age), ExpirationTime: nodetest.Ago(age - life)}
	return f
}

func leaseRenewed(ago time.Duration) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) { f.LeaseRenewed = nodetest.Now.Add(-ago) }
}

// renewal is a CSR with which the node has renewed its certificate, as the cache keeps it.
func renewal(age, life time.Duration) *certificatesv1.CertificateSigningRequest {
	r := nodetest.Request("csr-renewal", 1, 0)
	r.Status.Certificate = nodetest.Certificate(nodetest.Now.Add(-age), nodetest.Now.Add(life-age))
	return r
}

// A kubelet that runs renews its certificate after 70 to 90 % of its life. Only if it did not does its Lease matter, which is not watched.
func TestCertificateOfANodeThatDoesNotRun(t *testing.T) {
	for name, tt := range map[string]struct {
		f         *lifecycle.Facts
		edit      func(*lifecycle.Facts)
		needs     bool
		expiring  bool
		requeueIn time.Duration // 0 for never
	}{
		"unknown":                       {f: nodetest.JoinedBefore()},
		"valid for long":                {f: certified(100*day, year), requeueIn: 235 * day},
		"31 days left":                  {f: certified(334*day, year), requeueIn: day},
		"30 days left, the node runs":   {f: certified(335*day, year), edit: leaseRenewed(59 * time.Minute), needs: true, requeueIn: time.Hour},
		"30 days left, it does not":     {f: certified(335*day, year), edit: leaseRenewed(time.Hour), needs: true, expiring: true, requeueIn: time.Hour},
		"30 days left, it has no Lease": {f: certified(335*day, year), needs: true, expiring: true, requeueIn: time.Hour},
		"expired":                       {f: certified(400*day, year), edit: leaseRenewed(100 * day), needs: true, expiring: true, requeueIn: time.Hour},
		"valid for a day, not due yet":  {f: certified(20*time.Hour, day), edit: leaseRenewed(2 * time.Hour), requeueIn: 96 * time.Minute},
		"valid for a day, and due":      {f: certified(22*time.Hour, day), edit: leaseRenewed(2 * time.Hour), needs: true, expiring: true, requeueIn: time.Hour},
		"renewed":                       {f: certified(340*day, year), edit: func(f *lifecycle.Facts) { f.Renewals = append(f.Renewals, renewal(0, year)) }, requeueIn: 335 * day},
		"a renewal that is not one": {f: certified(340*day, year), edit: func(f *lifecycle.Facts) {
			f.Renewals = append(f.Renewals, nodetest.Request("x", 1, 0, nodetest.WithCertificate))
		}, needs: true, expiring: true, requeueIn: time.Hour},
		"renewed again within a tenth of it":    {f: certified(10*day, year), edit: func(f *lifecycle.Facts) { f.Renewals = append(f.Renewals, renewal(0, year)) }, requeueIn: 325 * day},
		"awaited":                               {f: certified(340*day, year), edit: func(f *lifecycle.Facts) { nodetest.AskReissue(f) }},
		"its Node was deleted":                  {f: certified(340*day, year), edit: func(f *lifecycle.Facts) { f.Node = nil }},
		"a NodeBootstrap that no longer exists": {f: certified(340*day, year), edit: func(f *lifecycle.Facts) { f.NodeBootstrap = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.edit != nil {
				tt.edit(tt.f)
			}
			if got := tt.f.NeedsLease(nodetest.Now); got != tt.needs {
				t.Errorf("the Lease is read: %v, want %v", got, tt.needs)
			}
			p := nodetest.Decide(tt.f, nodetest.Now)
			if p.Expiring != tt.expiring {
				t.Errorf("expiring: %v, want %v", p.Expiring, tt.expiring)
			}
			if p.Phase != lifecycle.Joined {
				return
			}
			if got := requeuedIn(&p); got != tt.requeueIn {
				t.Errorf("requeued in %s, want %s", got, tt.requeueIn)
			}
		})
	}
}

func requeuedIn(p *lifecycle.Plan) time.Duration {
	if p.RequeueAt.IsZero() {
		return 0
	}
	return p.RequeueAt.Sub(nodetest.Now)
}

// A Node that was not Ready when it joined is read less and less often, for a day.
func TestReadyIsAwaited(t *testing.T) {
	for name, tt := range map[string]struct {
		registered time.Duration // ago; 0 if it is not known
		ready      bool
		needs      bool
		requeueIn  time.Duration
	}{
		"just joined":       {registered: time.Second, needs: true, requeueIn: 10 * time.Second},
		"a minute ago":      {registered: time.Minute, needs: true, requeueIn: 30 * time.Second},
		"hours ago":         {registered: 5 * time.Hour, needs: true, requeueIn: 10 * time.Minute},
		"a day ago":         {registered: day},
		"Ready":             {registered: time.Minute, ready: true},
		"its Node is older": {},
	} {
		t.Run(name, func(t *testing.T) {
			f := nodetest.JoinedBefore()
			f.NodeBootstrap.Status.Join = &v1alpha1.JoinTimes{}
			if tt.registered > 0 {
				f.NodeBootstrap.Status.Join.RegisteredTime = new(nodetest.Ago(tt.registered))
			}
			if tt.ready {
				f.NodeBootstrap.Status.Join.ReadyTime = new(metav1.NewTime(nodetest.Now))
			}
			if got := f.NeedsReady(nodetest.Now); got != tt.needs {
				t.Errorf("the Node is read: %v, want %v", got, tt.needs)
			}
			p := nodetest.Decide(f, nodetest.Now)
			if got := requeuedIn(&p); got != tt.requeueIn {
				t.Errorf("requeued in %s, want %s", got, tt.requeueIn)
			}
		})
	}
}
