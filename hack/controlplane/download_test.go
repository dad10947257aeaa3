// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var (
	allPublished = map[string]string{"kubelet": "published", "kubectl": "published", "etcd": "published"}
	kubeletBuilt = map[string]string{"kubelet": "built", "kubectl": "published", "etcd": "published"}
	allBuilt     = map[string]string{"kubelet": "built", "kubectl": "built", "etcd": "built"}
)

// first lets a handler answer the first n requests, and the site all others.
func first(n int32, s *site, handler http.HandlerFunc) http.HandlerFunc {
	var requests atomic.Int32
	return func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) <= n {
			handler(w, r)
		} else {
			s.serve(w, r)
		}
	}
}

const always = 1 << 30

// truncated announces the whole kubelet, and ends the connection half way.
func truncated(w http.ResponseWriter, _ *http.Request) {
	content := published("kubelet")
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	_, _ = w.Write(content[:len(content)/2])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func answer(content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) }
}

func stall(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Length", "1000")
	_, _ = w.Write([]byte("a few bytes"))
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

func loginPage(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	answer([]byte("<html>Sign in to the guest network, as 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef</html>\n"))(w, r)
}

// slow sends its content in many pieces.
func slow(w http.ResponseWriter, r *http.Request) {
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for content := published("kubelet"); len(content) > 0; content = content[min(10_000, len(content)):] {
		_, _ = w.Write(content[:min(10_000, len(content))])
		w.(http.Flusher).Flush()
		select {
		case <-ticker.C:
		case <-r.Context().Done():
		}
	}
}

// Each way in which a download can go, and what is in the directory afterwards: programs, whole, and nothing else.
func TestDownloads(t *testing.T) {
	for name, c := range map[string]struct {
		spoil  func(*site)
		want   map[string]string
		output []string
		err    string
	}{
		"good": {spoil: func(*site) {}, want: allPublished,
			output: []string{"Downloading the official builds of kubelet, kubectl v1.2.3, etcd v4.5.6.", "the checksums are as published"}},
		"redirected": {want: allPublished, spoil: func(s *site) {
			s.files["/elsewhere"] = s.files[kubeletPath]
			s.handlers[kubeletPath] = http.RedirectHandler("/elsewhere", http.StatusFound).ServeHTTP
		}},
		"slow":           {want: allPublished, spoil: func(s *site) { s.handlers[kubeletPath] = slow }},
		"truncated once": {want: allPublished, spoil: func(s *site) { s.handlers[kubeletPath] = first(1, s, truncated) }},
		"truncated once, by a server without ranges": {want: allPublished, spoil: func(s *site) {
			whole := func(w http.ResponseWriter, r *http.Request) { answer(s.files[kubeletPath])(w, r) }
			failing := first(1, s, truncated)
			var requests atomic.Int32
			s.handlers[kubeletPath] = func(w http.ResponseWriter, r *http.Request) {
				if requests.Add(1) == 1 {
					failing(w, r)
				}
				whole(w, r)
			}
		}},
		"truncated": {want: kubeletBuilt, spoil: func(s *site) { s.handlers[kubeletPath] = first(always, s, cutAtOnce) },
			output: []string{"kubelet: ", "unexpected EOF. It is built from source instead.", "1 of 1: kubelet is built"}},
		"truncated as if it were whole": {want: without("kubelet"), err: "twice", spoil: func(s *site) {
			s.files[kubeletPath] = s.files[kubeletPath][:1000]
		}},
		"damaged once": {want: allPublished, spoil: func(s *site) {
			s.handlers[kubeletPath] = first(1, s, answer([]byte("damaged")))
		}},
		"damaged": {want: without("kubelet"), spoil: func(s *site) { s.files[kubeletPath] = append([]byte("x"), published("kubelet")...) },
			err: "has the SHA-256 " + sum(append([]byte("x"), published("kubelet")...)) + ", twice, and "},
		"a damaged archive": {want: without("etcd"), err: "etcd: ", spoil: func(s *site) { s.files[archivePath] = s.files[archivePath][1:] }},
		"an archive without the program": {want: without("etcd"), err: "extracting etcd-v4.5.6-linux-amd64/etcd", spoil: func(s *site) {
			s.files[archivePath] = nil
			s.files["/v4.5.6/SHA256SUMS"] = []byte(sum(nil) + " *etcd-v4.5.6-linux-amd64.tar.gz")
		}},
		"a login page for a program": {want: without("kubelet"), err: "twice", spoil: func(s *site) { s.handlers[kubeletPath] = loginPage }},
		"stalled": {want: kubeletBuilt, spoil: func(s *site) { s.handlers[kubeletPath] = stall },
			output: []string{"has stalled: ", "It is built from source instead."}},
		"never answered": {want: kubeletBuilt, spoil: func(s *site) {
			s.handlers[kubeletPath] = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		}, output: []string{"has stalled: 0 bytes"}},
		"absent": {want: kubeletBuilt, spoil: func(s *site) { delete(s.files, kubeletPath) },
			output: []string{"404 Not Found. It is built from source instead."}},
		"checksum absent": {want: kubeletBuilt, spoil: func(s *site) { delete(s.files, kubeletPath+".sha256") },
			output: []string{"Building from source: kubelet v1.2.3; because http://", "kubelet.sha256 answers 404 Not Found."}},
		"checksum of another file": {want: map[string]string{"kubelet": "published", "kubectl": "published", "etcd": "built"}, spoil: func(s *site) {
			s.files["/v4.5.6/SHA256SUMS"] = []byte(sum(nil) + "  etcd-v4.5.6-linux-arm64.tar.gz\n")
		}, output: []string{"has no SHA-256 of etcd-v4.5.6-linux-amd64.tar.gz"}},
		"a login page for everything": {want: allBuilt, spoil: func(s *site) { s.Config.Handler = http.HandlerFunc(loginPage) },
			output: []string{"Building from source: kubelet, kubectl v1.2.3, etcd v4.5.6; because ", "has no SHA-256 of kubelet", "2 of 3: kubectl is built"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			c.spoil(s)
			f := newFixture(t, s.URL)
			f.downloader.window = 300 * time.Millisecond
			err := f.run(t)
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("the error is %v, want %q", err, c.err)
			}
			f.wantOrigins(t, c.want)
			f.wantOutput(t, c.output...)
		})
	}
}

// cutAtOnce announces a file and sends none of it.
func cutAtOnce(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func without(name string) map[string]string {
	want := map[string]string{}
	for program, origin := range allPublished {
		if program != name {
			want[program] = origin
		}
	}
	return want
}

// What has arrived is not sent again.
func TestResume(t *testing.T) {
	s := newSite(t)
	s.handlers[kubeletPath] = first(1, s, truncated)
	f := newFixture(t, s.URL)
	must(t, f.run(t))
	if request := kubeletPath + " bytes=" + strconv.Itoa(len(published("kubelet"))/2) + "-"; s.requested(request) != 1 {
		t.Errorf("%q was not requested, but %q", request, s.requests)
	}
}

// Where nothing answers, all is built, and nobody waits longer than the patience of the downloader.
func TestUnreachable(t *testing.T) {
	if patience := newDownloader(nil).patience; patience >= 3*time.Second {
		t.Errorf("it decides within %s", patience)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, and nobody answers
	must(t, err)
	defer silent.Close()
	refusing, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, refusing.Close())
	for name, c := range map[string]struct{ url, why string }{
		"refused":  {"http://" + refusing.Addr().String(), "connection refused"},
		"silent":   {"http://" + silent.Addr().String(), "no answer within 300ms"},
		"no TLS":   {"https://" + silent.Addr().String(), "no answer within 300ms"},
		"no name":  {"http://downloads.invalid", "downloads.invalid"},
		"no URL":   {"://", "missing protocol scheme"},
		"no proto": {"ftp://127.0.0.1", "unsupported protocol scheme"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, c.url)
			f.downloader.patience = 300 * time.Millisecond
			downloads, build, why := f.downloader.decide(t.Context(), f.programs)
			if len(downloads) > 0 || len(build) != len(f.programs) || !strings.Contains(why.Error(), c.why) {
				t.Errorf("downloads %v, builds %v, because %v", downloads, build, why)
			}
		})
	}
}

func TestSourceAsksNobody(t *testing.T) {
	s := newSite(t)
	f := newFixture(t, s.URL)
	must(t, f.fill(t.Context(), f.programs, true))
	f.wantOrigins(t, allBuilt)
	f.wantOutput(t, "because SOURCE is set")
	if len(s.requests) > 0 {
		t.Errorf("requested were %q", s.requests)
	}
}

// Ctrl-C leaves no partial file.
func TestInterrupted(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.handlers[kubeletPath] = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte("a few bytes"))
		w.(http.Flusher).Flush()
		cancel()
		<-r.Context().Done()
	}
	f := newFixture(t, s.URL)
	if err := f.fill(ctx, f.programs, false); !errors.Is(err, ctx.Err()) {
		t.Errorf("the error is %v", err)
	}
	entries, err := os.ReadDir(f.dir)
	must(t, err)
	for _, e := range entries {
		if strings.Contains(e.Name(), ".download-") || strings.HasSuffix(e.Name(), ".build") || e.Name() == "kubelet" {
			t.Errorf("%s was left behind", e.Name())
		}
	}
}

// A full disk is reported: building would not fit either.
func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	s := newSite(t)
	var broken *transferError
	_, err = newDownloader(nil).fetch(t.Context(), s.URL+kubeletPath, full, newMeter(1))
	if !errors.Is(err, syscall.ENOSPC) || errors.As(err, &broken) || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("the error is %v", err)
	}
	if n := s.requested(kubeletPath); n != 1 {
		t.Errorf("it was requested %d times", n)
	}
}

func TestMeterCountsEachByteOnce(t *testing.T) {
	s := newSite(t)
	s.handlers[kubeletPath] = first(1, s, truncated)
	m := newMeter(1)
	d := newDownloader(nil)
	d.pause = 0
	_, err := d.fetch(t.Context(), s.URL+kubeletPath, io.Discard, m)
	must(t, err)
	if size := int64(len(published("kubelet"))); m.received.Load() != size || m.size() != size {
		t.Errorf("received %d of %d, want %d", m.received.Load(), m.size(), size)
	}
}
