// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/hack/progress"
)

// site serves official builds of three programs from loopback. A test replaces the handlers of some paths.
type site struct {
	*httptest.Server
	files    map[string][]byte // by path
	handlers map[string]http.HandlerFunc

	mu       sync.Mutex
	requests []string // path and range
}

const (
	kubeletPath = "/v1.2.3/bin/linux/amd64/kubelet"
	kubectlPath = "/v1.2.3/bin/linux/amd64/kubectl"
	archivePath = "/v4.5.6/etcd-v4.5.6-linux-amd64.tar.gz"
)

// published is what a site publishes as a program.
func published(name string) []byte {
	return bytes.Repeat([]byte("published "+name+"\n"), 20_000)
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{handlers: map[string]http.HandlerFunc{}}
	archive := pack(t, "etcd-v4.5.6-linux-amd64/etcd", published("etcd"))
	s.files = map[string][]byte{
		kubeletPath: published("kubelet"), kubeletPath + ".sha256": []byte(sum(published("kubelet"))),
		kubectlPath: published("kubectl"), kubectlPath + ".sha256": []byte(sum(published("kubectl")) + "\n"),
		archivePath:          archive,
		"/v4.5.6/SHA256SUMS": []byte(sum(nil) + "  etcd-v4.5.6-linux-arm64.tar.gz\n" + sum(archive) + "  etcd-v4.5.6-linux-amd64.tar.gz\n"),
	}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, strings.TrimSpace(r.URL.Path+" "+r.Header.Get("Range")))
	s.mu.Unlock()
	if handler := s.handlers[r.URL.Path]; handler != nil {
		handler(w, r)
		return
	}
	s.serve(w, r)
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	content, ok := s.files[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

func (s *site) requested(request string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.requests {
		if r == request {
			n++
		}
	}
	return n
}

func sum(content []byte) string {
	hash := sha256.Sum256(content)
	return hex.EncodeToString(hash[:])
}

func pack(t *testing.T, name string, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	zipped := gzip.NewWriter(&b)
	files := tar.NewWriter(zipped)
	for _, header := range []tar.Header{
		{Name: filepath.Dir(name) + "/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(content))},
	} {
		must(t, files.WriteHeader(&header))
		if header.Size > 0 {
			_, err := files.Write(content)
			must(t, err)
		}
	}
	must(t, files.Close())
	must(t, zipped.Close())
	return b.Bytes()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fixture fills a directory from a site, or from a module with a small program for each name.
type fixture struct {
	*filler
	programs []program
	output   *bytes.Buffer
}

func newFixture(t *testing.T, url string) *fixture {
	t.Helper()
	module := t.TempDir()
	write(t, filepath.Join(module, "go.mod"), "module example.com/programs\n\ngo 1.26\n")
	write(t, filepath.Join(module, "go.sum"), "")
	names := []string{"kubelet", "kubectl", "etcd"}
	for _, name := range names {
		write(t, filepath.Join(module, name, "main.go"), "package main\n\nfunc main() { println(\""+name+"\") }\n")
	}
	t.Setenv("KUBERNETES_DOWNLOADS", url)
	t.Setenv("ETCD_DOWNLOADS", url+"/")
	var programs []program
	for _, p := range append(kubernetes(module, "v1.2.3", "linux", "amd64"), etcd(module, "v4.5.6", "linux", "amd64")) {
		if slices.Contains(names, p.name) {
			p.pkg, p.ldflags = "./"+p.name, ""
			must(t, p.stamp("linux", "amd64"))
			programs = append(programs, p)
		}
	}
	output := &bytes.Buffer{}
	show := progress.NewPlain(output, time.Hour)
	d := newDownloader(show)
	d.pause, d.minimum = 0, 1
	dir := t.TempDir()
	return &fixture{
		filler:   &filler{dir: dir, show: show, downloader: d, builder: &builder{dir: dir, show: show}},
		programs: programs, output: output,
	}
}

func write(t *testing.T, name, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(name), 0o755))
	must(t, os.WriteFile(name, []byte(content), 0o600))
}

func (f *fixture) run(t *testing.T) error {
	t.Helper()
	return f.fill(t.Context(), f.programs, false)
}

// wantOrigins checks where each program is from, "published" or "built", and that there is no other file.
func (f *fixture) wantOrigins(t *testing.T, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	entries, err := os.ReadDir(f.dir)
	must(t, err)
	for _, e := range entries {
		name := e.Name()
		if program, ok := strings.CutSuffix(strings.TrimPrefix(name, "."), ".origin"); ok && want[program] != "" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(f.dir, name))
		must(t, err)
		info, err := e.Info()
		must(t, err)
		switch {
		case info.Mode().Perm() != 0o755:
			got[name] = info.Mode().String()
		case bytes.Equal(content, published(name)):
			got[name] = "published"
		case bytes.HasPrefix(content, []byte("\x7fELF")):
			got[name] = "built"
		default:
			got[name] = fmt.Sprintf("%d bytes of something", len(content))
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("the directory has %v, want %v; the output is\n%s", got, want, f.output)
	}
}

func (f *fixture) wantOutput(t *testing.T, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(f.output.String(), part) {
			t.Errorf("the output lacks %q:\n%s", part, f.output)
		}
	}
}
