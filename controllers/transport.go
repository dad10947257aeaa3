// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

const (
	// receiveBuffer is how many bytes of each answer and each watch may have come in and not been read. Go's default is 4 MiB, for each
	// of a dozen watches at the start.
	receiveBuffer = 256 << 10
	// largeFramePatience is for how long an event that is large waits for another one, whose sender may have stalled.
	largeFramePatience = 5 * time.Second
)

// LimitMemory wraps a transport so that little is in memory of what comes in: answers are read as they are decoded, and of large
// objects that are watched one is decoded at a time.
func LimitMemory(rt http.RoundTripper) http.RoundTripper {
	limitBuffers(rt)
	return &limitedTransport{rt}
}

// limitBuffers has to be called before the first request. Transports are shared between clients.
func limitBuffers(rt http.RoundTripper) {
	for {
		switch t := rt.(type) {
		case *http.Transport:
			if t.HTTP2 == nil {
				t.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: receiveBuffer}
			}
			return
		case utilnet.RoundTripperWrapper:
			rt = t.WrappedRoundTripper()
		default:
			return
		}
	}
}

// largeFrames lets one large event be read and decoded at a time, over all watches of the process.
var largeFrames = make(chan struct{}, 1)

type limitedTransport struct{ http.RoundTripper }

// WrappedRoundTripper implements utilnet.RoundTripperWrapper.
func (t *limitedTransport) WrappedRoundTripper() http.RoundTripper { return t.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t *limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.RoundTripper.RoundTrip(r)
	if err == nil && isFramed(response.Header.Get("Content-Type")) {
		response.Body = &framedBody{ReadCloser: response.Body}
	}
	return response, err
}

// isFramed reports whether a body is a watch in protobuf: each event has its length in four bytes ahead of it
// (apimachinery/pkg/util/framer).
func isFramed(contentType string) bool {
	return strings.HasPrefix(contentType, "application/vnd.kubernetes.protobuf") && strings.Contains(contentType, "stream=watch")
}

// framedBody is the body of a watch. Whoever reads it decodes an event before it reads the next one.
type framedBody struct {
	io.ReadCloser
	header [4]byte
	got    int // of the header
	left   int // of the event

	mu              sync.Mutex // Close may come while something is read
	holding, closed bool
}

// Read implements io.Reader.
func (b *framedBody) Read(p []byte) (int, error) {
	switch {
	case b.left == 0:
		b.release()
	case b.left > largeBytes:
		b.hold()
	}
	if b.left > 0 && len(p) > b.left {
		p = p[:b.left]
	}
	if b.left == 0 && len(p) > len(b.header)-b.got {
		p = p[:len(b.header)-b.got]
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.release()
	}
	if b.left > 0 {
		b.left -= n
		return n, err
	}
	b.got += copy(b.header[b.got:], p[:n])
	if b.got == len(b.header) {
		b.got, b.left = 0, int(binary.BigEndian.Uint32(b.header[:]))
	}
	return n, err
}

// Close implements io.Closer.
func (b *framedBody) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.release()
	return b.ReadCloser.Close()
}

// hold waits for its turn.
func (b *framedBody) hold() {
	if b.holds() {
		return
	}
	patience := time.NewTimer(largeFramePatience)
	defer patience.Stop()
	select {
	case largeFrames <- struct{}{}:
	case <-patience.C:
		return
	}
	b.mu.Lock()
	b.holding = true
	closed := b.closed
	b.mu.Unlock()
	if closed {
		b.release()
	}
}

func (b *framedBody) holds() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.holding
}

func (b *framedBody) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.holding {
		b.holding = false
		<-largeFrames
	}
}
