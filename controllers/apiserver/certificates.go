// SPDX-License-Identifier: Apache-2.0

// Package apiserver knows what the connection to the API server tells: its time and its certificates. It also bounds the memory for answers.
package apiserver

import (
	"crypto/x509"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

const (
	// maxServerCertificates bounds the certificates that are kept: one of each API server, and those before them.
	maxServerCertificates = 16
	// recentlyPresented is for how long an API server is taken to present a certificate after it did. Watches end after ten
	// minutes at the latest, and are asked for again.
	recentlyPresented = time.Hour
)

// Certificates knows the certificates that API servers present to the operator: their names are reserved, and a CA that was
// discovered has to verify one of them. A nil one knows none.
type Certificates struct {
	clock   clock.PassiveClock
	changed chan event.GenericEvent

	adding sync.Mutex
	seen   atomic.Pointer[[]*presented] // never changed in place
}

// presented is a chain with the leaf first.
type presented struct {
	chain []*x509.Certificate
	last  atomic.Int64 // when it was last presented, in nanoseconds since 1970
}

func (p *presented) lastSeen() time.Time { return time.Unix(0, p.last.Load()) }

// NewCertificates knows none until the API server has answered through Wrap.
func NewCertificates(k clock.PassiveClock) *Certificates {
	c := &Certificates{clock: k, changed: make(chan event.GenericEvent, 1)}
	c.seen.Store(&[]*presented{})
	return c
}

// Wrap notes the certificates of all answers that come through a transport. It is for rest.Config.Wrap.
func (c *Certificates) Wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(r)
		// One that was not verified may be anybody's.
		if err == nil && response.TLS != nil && len(response.TLS.VerifiedChains) > 0 {
			c.Observe(response.TLS.PeerCertificates)
		}
		return response, err
	})
}

// Observe is called for each answer. Usually the certificate is the very one of the answer before: crypto/tls parses equal ones
// once.
func (c *Certificates) Observe(chain []*x509.Certificate) {
	now := c.clock.Now()
	for _, p := range *c.seen.Load() {
		if p.chain[0] == chain[0] {
			p.last.Store(now.UnixNano())
			return
		}
	}
	c.add(chain, now)
}

func (c *Certificates) add(chain []*x509.Certificate, now time.Time) {
	c.adding.Lock()
	defer c.adding.Unlock()
	seen := *c.seen.Load()
	for _, p := range seen {
		if p.chain[0].Equal(chain[0]) {
			p.last.Store(now.UnixNano())
			return
		}
	}
	kept := slices.DeleteFunc(slices.Clone(seen), func(p *presented) bool { return now.After(p.chain[0].NotAfter) })
	if len(kept) >= maxServerCertificates {
		oldest := slices.MinFunc(kept, func(a, b *presented) int { return a.lastSeen().Compare(b.lastSeen()) })
		kept = slices.DeleteFunc(kept, func(p *presented) bool { return p == oldest })
	}
	p := &presented{chain: slices.Clone(chain)}
	p.last.Store(now.UnixNano())
	kept = append(kept, p)
	c.seen.Store(&kept)
	if len(seen) == 0 { // nothing was decided without it
		return
	}
	select {
	case c.changed <- event.GenericEvent{Object: &v1alpha1.NodeBootstrap{}}:
	default: // one is waiting
	}
}

// Changed receives an event for each certificate that was not presented before, except for the first one.
func (c *Certificates) Changed() <-chan event.GenericEvent { return c.changed }

// Leaves are all certificates that are kept, without their chains.
func (c *Certificates) Leaves() []*x509.Certificate {
	if c == nil {
		return nil
	}
	var out []*x509.Certificate
	for _, p := range *c.seen.Load() {
		out = append(out, p.chain[0])
	}
	return out
}

// Recent are the chains that were presented lately, and the last one in any case. A certificate that was replaced says nothing
// about the present CA.
func (c *Certificates) Recent() [][]*x509.Certificate {
	if c == nil {
		return nil
	}
	seen := *c.seen.Load()
	if len(seen) == 0 {
		return nil
	}
	newest := slices.MaxFunc(seen, func(a, b *presented) int { return a.lastSeen().Compare(b.lastSeen()) })
	since := newest.lastSeen().Add(-recentlyPresented)
	out := make([][]*x509.Certificate, 0, len(seen))
	for _, p := range seen {
		if p.lastSeen().After(since) {
			out = append(out, p.chain)
		}
	}
	return out
}
