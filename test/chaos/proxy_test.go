// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// conditions are those of the network. The zero value is a good network.
type conditions struct {
	// refuse resets each new connection at once.
	refuse bool
	// delay is the longest delay of one chunk of data.
	delay time.Duration
	// cutAfter is about how many bytes are passed each way before a connection is reset; 0 for no limit.
	cutAfter int64
	// drop loses all bytes of a direction, like a broken route. A connection that has lost any is reset when the
	// conditions change, because its ends would wait for minutes otherwise.
	drop direction
}

func (c conditions) String() string {
	return fmt.Sprintf("refuse=%t delay=%s cutAfter=%d drop=%d", c.refuse, c.delay, c.cutAfter, c.drop)
}

// direction is a way through the proxy, or both.
type direction int

const (
	toServer direction = 1 << iota
	toClient
)

// proxy forwards TCP connections to one address, under its conditions. It does not understand their content: TLS is between
// client and server.
type proxy struct {
	listener net.Listener
	target   string

	mu         sync.Mutex
	rnd        *rand.Rand
	conditions conditions
	pipes      map[*pipe]struct{}
	// slowest is the delay of earlier conditions, and counts until slowUntil.
	slowest   time.Duration
	slowUntil time.Time
	// troubled is when the last connection was broken, or could be.
	troubled time.Time

	// sent counts the bytes from clients, opened the connections, cut and refused those that the proxy broke.
	sent, opened, cut, refused atomic.Int64
}

// startProxy listens on a free port of the loopback address, until ctx is done.
func startProxy(ctx context.Context, target string, rnd *rand.Rand) (*proxy, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: listener, target: target, rnd: rnd, pipes: map[*pipe]struct{}{}}
	context.AfterFunc(ctx, func() { listener.Close(); p.cutAll() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go p.serve(ctx, client.(*net.TCPConn))
		}
	}()
	return p, nil
}

func (p *proxy) address() string { return p.listener.Addr().String() }

// set changes the conditions, for open connections too.
func (p *proxy) set(c conditions) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.troubled = time.Now()
	if p.conditions.delay > c.delay {
		p.slowest, p.slowUntil = p.conditions.delay, time.Now().Add(p.conditions.delay)
	}
	p.conditions = c
	for pipe := range p.pipes {
		p.limit(pipe)
		if pipe.lost {
			p.cut.Add(1)
			pipe.reset()
		}
	}
}

// lag is the longest delay of anything sent: a CSR takes one chunk or two, and so does its answer.
func (p *proxy) lag() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	delay := p.conditions.delay
	if time.Now().Before(p.slowUntil) {
		delay = max(delay, p.slowest)
	}
	return 3 * delay
}

// reconnectLimit is the longest pause of a client between two attempts to watch (client-go, tools/cache/reflector.go).
const reconnectLimit = 30 * time.Second

// behind is how long a client's watches may be behind.
func (p *proxy) behind() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conditions == (conditions{}) && time.Since(p.troubled) > reconnectLimit {
		return 0
	}
	return reconnectLimit
}

// cutAll resets all connections.
func (p *proxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.troubled = time.Now()
	for pipe := range p.pipes {
		p.cut.Add(1)
		pipe.reset()
	}
}

// limit sets how many bytes a pipe passes until it is cut. The caller holds mu.
func (p *proxy) limit(pipe *pipe) {
	for i := range pipe.left {
		left := int64(-1)
		if p.conditions.cutAfter > 0 {
			left = p.rnd.Int64N(2 * p.conditions.cutAfter)
		}
		pipe.left[i].Store(left)
	}
}

func (p *proxy) serve(ctx context.Context, client *net.TCPConn) {
	p.opened.Add(1)
	pipe := &pipe{ends: []*net.TCPConn{client}}
	defer pipe.reset()
	p.mu.Lock()
	refuse := p.conditions.refuse
	p.mu.Unlock()
	if refuse {
		p.refused.Add(1)
		return
	}
	server, err := new(net.Dialer).DialContext(ctx, "tcp", p.target)
	if err != nil {
		return
	}
	pipe.ends = append(pipe.ends, server.(*net.TCPConn))
	p.mu.Lock()
	p.limit(pipe)
	p.pipes[pipe] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.pipes, pipe)
	}()
	var both sync.WaitGroup
	both.Go(func() { p.pass(ctx, pipe, 0) })
	both.Go(func() { p.pass(ctx, pipe, 1) })
	both.Wait()
}

// pass forwards bytes one way, from the end with an index to the other one: 0 is the client.
func (p *proxy) pass(ctx context.Context, pipe *pipe, end int) {
	defer pipe.reset() // a connection that is half closed is useless for HTTP
	from, to := pipe.ends[end], pipe.ends[1-end]
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if end == 0 {
			p.sent.Add(int64(n))
		}
		wait(ctx, p.late())
		if p.loses(pipe, toServer<<end) {
			continue
		}
		left := pipe.left[end].Load()
		if left >= 0 && int64(n) > left {
			p.cut.Add(1)
			_, _ = to.Write(buffer[:left])
			return
		}
		if left >= 0 {
			pipe.left[end].CompareAndSwap(left, left-int64(n)) // else the conditions have changed
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// late is the delay of the next chunk.
func (p *proxy) late() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conditions.delay == 0 {
		return 0
	}
	return time.Duration(p.rnd.Int64N(int64(p.conditions.delay)))
}

// loses reports whether the next chunk is lost, and records it.
func (p *proxy) loses(pipe *pipe, way direction) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conditions.drop&way == 0 {
		return false
	}
	pipe.lost = true
	return true
}

// pipe is a connection through the proxy.
type pipe struct {
	ends []*net.TCPConn  // the client, the server
	left [2]atomic.Int64 // bytes from each end until it is cut; negative for no limit
	lost bool            // it has lost bytes; the proxy's mu guards it
}

// reset ends both connections at once, with RST and not with FIN.
func (p *pipe) reset() {
	for _, end := range p.ends {
		_ = end.SetLinger(0)
		end.Close()
	}
}
