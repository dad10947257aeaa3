// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	// receiveBuffer is how many unread bytes are buffered of each response and each watch. Go's default is 4 MiB, for each of a
	// dozen watches at the start.
	receiveBuffer = 256 << 10
	// largeFramePatience is how long a watch with a large event waits for another one, which may have stalled.
	largeFramePatience = 30 * time.Second
	// largeFrameAge is the minimum duration of a watch with a large event: it bounds how often watches restart.
	largeFrameAge = time.Second
	// frameHeader is the length of the header of each event, in bytes.
	frameHeader = 4
	// maxBookmark is more than the size of the event that ends a list: an object with one annotation.
	maxBookmark = 1 << 10
)

// LimitMemory wraps a transport to limit the memory for responses: they are read while they are decoded, and only one large
// watch event is decoded at a time.
//
// client-go has no option for that in its watch decoder, and a dozen watches start together.
func LimitMemory(rt http.RoundTripper) http.RoundTripper {
	limitBuffers(rt)
	return &limitedTransport{rt}
}

// limitBuffers must be called before the first request. Transports are shared between clients.
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

// largeFrames lets only one watch of the process read and decode a large event at a time.
var largeFrames = make(chan struct{}, 1)

type limitedTransport struct{ http.RoundTripper }

// WrappedRoundTripper implements utilnet.RoundTripperWrapper.
func (t *limitedTransport) WrappedRoundTripper() http.RoundTripper { return t.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t *limitedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.RoundTripper.RoundTrip(r)
	if err == nil && isFramed(response.Header.Get("Content-Type")) {
		response.Body = newFramedBody(response.Body, r.URL.Query().Get("sendInitialEvents") == "true")
	}
	return response, err
}

// isFramed reports whether a body is a watch in protobuf: the length of each event is in the four bytes before it
// (apimachinery/pkg/util/framer).
func isFramed(contentType string) bool {
	return strings.HasPrefix(contentType, "application/vnd.kubernetes.protobuf") && strings.Contains(contentType, "stream=watch")
}

// framedBody is the body of a watch. Its reader decodes each event before it reads the next one, into a buffer that stays as
// large as the largest event. So framedBody ends a watch soon after a large event, and client-go resumes with a new watch. But
// client-go lists everything again after a watch that ends within a second without an event.
type framedBody struct {
	io.ReadCloser
	age     time.Duration // the minimum duration of the watch
	listing bool          // the existing objects are sent first
	began   time.Time     // when the list ended, or the watch started
	events  int           // the number since then
	header  []byte        // of the next event, as far as it was received
	left    int           // unread bytes of the current event
	small   []byte        // the current event, if it can be the bookmark that ends the list
	large   bool          // a large event was received
	ending  bool          // the watch ends when it is idle

	mu                   sync.Mutex // guards the fields below: Close can be called during a Read
	holding, idle, ended bool
	closed               chan struct{}
	close                sync.Once
}

func newFramedBody(body io.ReadCloser, listing bool) *framedBody {
	return &framedBody{ReadCloser: body, age: largeFrameAge, listing: listing, began: time.Now(), closed: make(chan struct{})}
}

// Read implements io.Reader.
func (b *framedBody) Read(p []byte) (int, error) {
	between := b.left == 0 && len(b.header) == 0 && !b.listing // the reader has decoded the last event
	if between {
		b.release()
		if b.large && b.events > 0 && time.Since(b.began) > b.age {
			return 0, io.EOF
		}
		b.endWhenIdle()
	}
	if b.left > LargeBytes {
		b.large = true
		b.hold()
	}
	b.setIdle(between)
	n, err := b.ReadCloser.Read(p[:min(len(p), b.wanted())])
	b.see(p[:n])
	if ended := b.setIdle(false); err != nil {
		b.release()
		if ended {
			err = io.EOF
		}
	}
	return n, err
}

// endWhenIdle ends the watch after a while if it is idle then. Otherwise the watch ends after the event that is being received.
func (b *framedBody) endWhenIdle() {
	if !b.large || b.ending {
		return
	}
	b.ending = true
	time.AfterFunc(b.age+b.age/2, func() {
		b.mu.Lock()
		b.ended = b.idle
		ended := b.ended
		b.mu.Unlock()
		if ended {
			_ = b.ReadCloser.Close() // the reader closes it again
		}
	})
}

// setIdle stores whether the watch is idle, and reports whether it was ended.
func (b *framedBody) setIdle(idle bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.idle = idle
	return b.ended
}

// wanted returns how many bytes of the current event or of the next header are missing.
func (b *framedBody) wanted() int {
	if b.left > 0 {
		return b.left
	}
	return frameHeader - len(b.header)
}

func (b *framedBody) see(p []byte) {
	if b.left == 0 {
		if b.header = append(b.header, p...); len(b.header) == frameHeader {
			b.left, b.header = int(binary.BigEndian.Uint32(b.header)), b.header[:0]
		}
		return
	}
	b.left -= len(p)
	if !b.listing {
		if b.left == 0 {
			b.events++
		}
		return
	}
	if len(b.small)+len(p)+b.left <= maxBookmark {
		b.small = append(b.small, p...)
	}
	if b.left == 0 {
		b.listing = !endsList(b.small)
		b.began, b.small = time.Now(), b.small[:0]
	}
}

// endsList reports whether an event is the bookmark with the annotation that ends the initial list. The type is the first field
// of an event (apimachinery/pkg/apis/meta/v1, WatchEvent).
func endsList(event []byte) bool {
	const bookmark = "\x0a\x08" + string(watch.Bookmark)
	return bytes.HasPrefix(event, []byte(bookmark)) && bytes.Contains(event, []byte(metav1.InitialEventsAnnotationKey))
}

// Close implements io.Closer.
func (b *framedBody) Close() error {
	b.close.Do(func() { close(b.closed) })
	b.release()
	return b.ReadCloser.Close()
}

// hold waits until no other watch reads a large event.
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
	case <-b.closed:
		return
	}
	b.mu.Lock()
	b.holding = true
	b.mu.Unlock()
	select {
	case <-b.closed:
		b.release()
	default:
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

// LargeBytes is the size above which an object counts as large: many times the usual size of any object.
const LargeBytes = 64 << 10
