// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// echo returns the bytes that it receives, until ctx is done.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	context.AfterFunc(t.Context(), func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				conn.Close()
			}()
		}
	}()
	return listener.Addr().String()
}

// exchange sends bytes through a proxy and returns how many came back, and how long that took.
func exchange(t *testing.T, p *proxy, size int) (int, time.Duration) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.address())
	if err != nil {
		return 0, 0
	}
	defer conn.Close()
	began := time.Now()
	go func() { _, _ = conn.Write(bytes.Repeat([]byte("x"), size)) }()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, _ := io.ReadFull(conn, make([]byte, size))
	return n, time.Since(began)
}

func TestProxyBreaksWhatItShould(t *testing.T) {
	p, err := startProxy(t.Context(), echo(t), rand.New(rand.NewPCG(1, 1)))
	if err != nil {
		t.Fatal(err)
	}
	const size = 200_000
	if n, _ := exchange(t, p, size); n != size {
		t.Errorf("without faults %d of %d bytes came back", n, size)
	}
	p.set(conditions{cutAfter: 1000})
	if n, _ := exchange(t, p, size); n >= 2000 || p.cut.Load() == 0 {
		t.Errorf("of a connection that is cut %d bytes came back", n)
	}
	p.set(conditions{refuse: true})
	if n, _ := exchange(t, p, size); n != 0 || p.refused.Load() == 0 {
		t.Errorf("of a connection that is refused %d bytes came back", n)
	}
	p.set(conditions{delay: time.Second})
	if n, took := exchange(t, p, 10); n != 10 || took < 10*time.Millisecond {
		t.Errorf("%d delayed bytes came back within %s", n, took)
	}
	exchangeDropped(t, p)
	p.set(conditions{})
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p.cutAll()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a connection still works after it was cut")
	}
	if got := p.sent.Load(); got < size {
		t.Errorf("%d bytes were counted", got)
	}
}

// exchangeDropped sends bytes that are lost, in one direction, until the connection is reset.
func exchangeDropped(t *testing.T, p *proxy) {
	t.Helper()
	for _, way := range []direction{toServer, toClient} {
		p.set(conditions{drop: way})
		sent := p.sent.Load()
		done := make(chan int)
		go func() {
			n, _ := exchange(t, p, 10)
			done <- n
		}()
		for p.sent.Load() == sent {
			wait(t.Context(), time.Millisecond)
		}
		select {
		case <-done:
			t.Errorf("a connection whose bytes are dropped %d did not wait", way)
			continue
		case <-time.After(100 * time.Millisecond):
		}
		p.set(conditions{})
		if n := <-done; n != 0 {
			t.Errorf("of what was dropped %d, %d bytes came back", way, n)
		}
	}
}
