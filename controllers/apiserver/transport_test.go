// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/http"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// watched returns the body of a watch with events of some sizes.
func watched(sizes ...int) []byte {
	var out []byte
	for i, size := range sizes {
		out = binary.BigEndian.AppendUint32(out, uint32(size))
		out = append(out, bytes.Repeat([]byte{byte(i)}, size)...)
	}
	return out
}

// However a watch is read, its content does not change, and the turn is given back.
func TestFramedBodyPassesEverything(t *testing.T) {
	body := watched(0, 1, 3, 4, 5, LargeBytes, LargeBytes+1, 10, 1<<20, 0, 1<<20)
	for what, wrap := range map[string]func(io.Reader) io.Reader{
		"as it comes": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "by halves": iotest.HalfReader, "with the end": iotest.DataErrReader,
	} {
		framed := newFramedBody(io.NopCloser(wrap(bytes.NewReader(body))), false)
		framed.age = time.Hour
		got, err := io.ReadAll(framed)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%s: got %d bytes of %d, %v", what, len(got), len(body), err)
		}
		if len(largeFrames) != 0 {
			t.Errorf("%s: the turn is not given back", what)
		}
	}
}

// While one large event is read and decoded, another one waits, but a small one does not. A closed watch gives the turn back.
func TestLargeEventsTakeTurns(t *testing.T) {
	read := func(b *framedBody, n int) { // as the framer does: the length, then the event
		for _, n := range []int{4, n} {
			if _, err := io.ReadFull(b, make([]byte, n)); err != nil {
				t.Error(err)
			}
		}
	}
	first := newFramedBody(io.NopCloser(bytes.NewReader(watched(1<<20, 1))), false)
	second := newFramedBody(io.NopCloser(bytes.NewReader(watched(1, 1<<20))), false)
	read(first, 1<<20)
	if !first.holds() {
		t.Fatal("a large event does not hold the turn")
	}
	read(second, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		read(second, 1<<20)
	}()
	select {
	case <-done:
		t.Error("two large events are read at a time")
	default:
	}
	read(first, 1) // the large one is decoded
	<-done
	if !second.holds() || first.holds() {
		t.Error("the turn has not moved on")
	}
	if err := second.Close(); err != nil || len(largeFrames) != 0 {
		t.Errorf("after closing %d turns are held, %v", len(largeFrames), err)
	}
	second.hold() // by a concurrent read
	if len(largeFrames) != 0 {
		t.Error("a closed watch keeps the turn")
	}
}

// A watch with a large event ends after its initial list and its minimum duration, between two events.
func TestWatchEndsAfterLargeEvents(t *testing.T) {
	end := "\x0a\x08BOOKMARK" + metav1.InitialEventsAnnotationKey
	bookmark := append(binary.BigEndian.AppendUint32(nil, uint32(len(end))), end...)
	forged := append(binary.BigEndian.AppendUint32(nil, uint32(len(metav1.InitialEventsAnnotationKey))), metav1.InitialEventsAnnotationKey...)
	large := 4 + 1<<20
	for what, tt := range map[string]struct {
		body    []byte
		listing bool
		age     time.Duration
		want    int
	}{
		"a list":                        {slices.Concat(watched(10, 1<<20), bookmark, watched(10, 10)), true, 0, 14 + large + len(bookmark) + 14},
		"a list that has just ended":    {slices.Concat(watched(10, 1<<20), bookmark, watched(10, 10)), true, time.Hour, 14 + large + len(bookmark) + 28},
		"a list of small ones":          {slices.Concat(watched(10), bookmark, watched(10, 10)), true, 0, 14 + len(bookmark) + 28},
		"a list with a forged bookmark": {slices.Concat(watched(1<<20), forged, watched(10, 10)), true, 0, large + len(forged) + 28},
		"a watch":                       {watched(10, 1<<20, 10), false, 0, 14 + large},
		"a watch that has just begun":   {watched(10, 1<<20, 10), false, time.Hour, 14 + large + 14},
		"a watch of small ones":         {watched(10, 10), false, 0, 28},
	} {
		b := newFramedBody(io.NopCloser(bytes.NewReader(tt.body)), tt.listing)
		b.age = tt.age
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, tt.body[:tt.want]) {
			t.Errorf("%s: got %d bytes, want %d of %d, %v", what, len(got), tt.want, len(tt.body), err)
		}
		if len(largeFrames) != 0 {
			t.Errorf("%s: the turn is not given back", what)
		}
	}
}

// An idle watch with a large buffer ends, too.
func TestWatchEndsWhenIdle(t *testing.T) {
	reader, writer := io.Pipe()
	b := newFramedBody(reader, false)
	b.age, b.events = 10*time.Millisecond, -1 // as after a list
	go func() {
		_, _ = writer.Write(watched(1 << 20))
	}()
	if got, err := io.ReadAll(b); err != nil || len(got) != 4+1<<20 {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

// The limit is set on the innermost transport, before its first request.
func TestBuffersAreLimited(t *testing.T) {
	base := &http.Transport{}
	LimitMemory(&limitedTransport{base})
	if base.HTTP2 == nil || base.HTTP2.MaxReceiveBufferPerStream != receiveBuffer {
		t.Errorf("got %+v", base.HTTP2)
	}
}
