// SPDX-License-Identifier: Apache-2.0

// Package apiserver learns the API server's time and certificates from the connection to it. It also bounds the memory for
// responses.
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
	// maxServerCertificates bounds the certificates that are kept: one of each API server, and previous ones.
	maxServerCertificates = 16
	// recentlyPresented is how long a certificate counts as current after an API server presented it. Watches end after ten
	// minutes at the latest, and start again.
	recentlyPresented = time.Hour
)

// Certificates remembers the certificates that API servers present to the operator: their names are reserved, and a discovered
// CA must verify one of them. A nil one has none.
type Certificates struct {
	clock   clock.PassiveClock
	changed chan event.GenericEvent

	adding sync.Mutex
	seen   atomic.Pointer[[]*presented] // never changed in place
}

// presented is a chain, with the leaf first.
type presented struct {
	chain []*x509.Certificate
	last  atomic.Int64 // when it was last presented, in nanoseconds since 1970
}

func (p *presented) lastSeen() time.Time { return time.Unix(0, p.last.Load()) }

// NewCertificates returns Certificates that are empty until the API server has answered through Wrap.
func NewCertificates(k clock.PassiveClock) *Certificates {
	c := &Certificates{clock: k, changed: make(chan event.GenericEvent, 1)}
	c.seen.Store(&[]*presented{})
	return c
}

// Wrap observes the certificates of all responses of a transport. It is for rest.Config.Wrap.
func (c *Certificates) Wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(r)
		// A certificate that was not verified can be anyone's.
		if err == nil && response.TLS != nil && len(response.TLS.VerifiedChains) > 0 {
			c.Observe(response.TLS.PeerCertificates)
		}
		return response, err
	})
}

// Observe is called for each response, usually with a certificate that is known.
func (c *Certificates) Observe(chain []*x509.Certificate) {
	now := c.clock.Now()
	if !c.presentedAgain(chain[0], now) {
		c.add(chain, now)
	}
}

// presentedAgain updates when a certificate was last presented, and reports whether it is known.
func (c *Certificates) presentedAgain(leaf *x509.Certificate, now time.Time) bool {
	for _, p := range *c.seen.Load() {
		if p.chain[0].Equal(leaf) {
			p.last.Store(now.UnixNano())
			return true
		}
	}
	return false
}

func (c *Certificates) add(chain []*x509.Certificate, now time.Time) {
	c.adding.Lock()
	defer c.adding.Unlock()
	if c.presentedAgain(chain[0], now) {
		return
	}
	seen := *c.seen.Load()
	kept := slices.DeleteFunc(slices.Clone(seen), func(p *presented) bool { return now.After(p.chain[0].NotAfter) })
	if len(kept) >= maxServerCertificates {
		oldest := slices.MinFunc(kept, func(a, b *presented) int { return a.lastSeen().Compare(b.lastSeen()) })
		kept = slices.DeleteFunc(kept, func(p *presented) bool { return p == oldest })
	}
	p := &presented{chain: slices.Clone(chain)}
	p.last.Store(now.UnixNano())
	kept = append(kept, p)
	c.seen.Store(&kept)
	if len(seen) == 0 { // no decision was made without it
		return
	}
	select {
	case c.changed <- event.GenericEvent{Object: &v1alpha1.NodeBootstrap{}}:
	default: // an event is already pending
	}
}

// Changed receives an event for each certificate that was not presented before, except for the first one.
func (c *Certificates) Changed() <-chan event.GenericEvent { return c.changed }

// Leaves returns all certificates that are kept, without their chains.
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

// Recent returns the chains that were presented recently, and always the last one. A replaced certificate does not matter for
// the current CA.
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
