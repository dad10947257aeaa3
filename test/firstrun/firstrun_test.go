// SPDX-License-Identifier: Apache-2.0

// Package firstrun does what a new user does first: make demo in a new clone, without bin/k8s.
package firstrun

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// clone copies what is under version control, or could be, into a new directory.
func clone(t *testing.T) string {
	t.Helper()
	root, err := localcluster.ProjectRoot()
	env.Must(t, err)
	dir := t.TempDir()
	copying := exec.CommandContext(t.Context(), "sh", "-c", `git ls-files -z --cached --others --exclude-standard | tar c --null --ignore-failed-read -T - | tar x -C "$0"`, dir)
	copying.Dir = root
	if out, err := copying.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "bin")); err == nil {
		t.Fatal("the clone has bin")
	}
	return dir
}

// site serves the programs in bin/k8s, whatever version is asked for, like the official sites.
type site struct {
	dir  string
	etcd []byte // an archive
}

func newSite(t *testing.T) *httptest.Server {
	t.Helper()
	root, err := localcluster.ProjectRoot()
	env.Must(t, err)
	s := &site{dir: filepath.Join(root, "bin", "k8s")}
	s.etcd = s.archive(t)
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return server
}

// archive is an archive like etcd's.
func (s *site) archive(t *testing.T) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(s.dir, "etcd"))
	env.Must(t, err)
	var b bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	env.Must(t, err)
	files := tar.NewWriter(zipped)
	env.Must(t, files.WriteHeader(&tar.Header{Name: s.etcdName(t) + "/etcd", Mode: 0o755, Size: int64(len(content))}))
	_, err = files.Write(content)
	env.Must(t, err)
	env.Must(t, files.Close())
	env.Must(t, zipped.Close())
	return b.Bytes()
}

// etcdName is the name of the directory in etcd's archive.
func (s *site) etcdName(t *testing.T) string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "sh", "-c", `echo "etcd-$(go list -m -f '{{.Version}}' go.etcd.io/etcd/server/v3)-linux-$(go env GOARCH)"`)
	list.Dir = filepath.Join(filepath.Dir(filepath.Dir(s.dir)), "hack", "tools", "kubernetes")
	out, err := list.Output()
	env.Must(t, err)
	return strings.TrimSpace(string(out))
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	program, isSum := strings.CutSuffix(name, ".sha256")
	switch {
	case name == "SHA256SUMS":
		for _, arch := range []string{"amd64", "arm64"} {
			version := path.Base(path.Dir(r.URL.Path))
			fmt.Fprintf(w, "%x  etcd-%s-linux-%s.tar.gz\n", sha256.Sum256(s.etcd), version, arch)
		}
	case strings.HasSuffix(name, ".tar.gz"):
		_, _ = w.Write(s.etcd)
	case isSum:
		if sum, err := sumOf(filepath.Join(s.dir, program)); err == nil {
			_, _ = io.WriteString(w, sum)
		} else {
			http.NotFound(w, r)
		}
	default:
		http.ServeFile(w, r, filepath.Join(s.dir, program))
	}
}

func sumOf(name string) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	_, err = io.Copy(hash, file)
	return hex.EncodeToString(hash.Sum(nil)), err
}

// makeIn runs make in a process group of its own, until it ends or a line of its output is the last one wanted.
func makeIn(t *testing.T, dir, url string, last func(string) bool, target string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, "make", "--no-print-directory", target)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "KUBERNETES_DOWNLOADS="+url, "ETCD_DOWNLOADS="+url, "SOURCE=", "KUBEBUILDER_ASSETS=", "MAKEFLAGS=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	out, in, err := os.Pipe()
	env.Must(t, err)
	cmd.Stdout, cmd.Stderr = in, in
	env.Must(t, cmd.Start())
	env.Must(t, in.Close())
	began := time.Now()
	var b strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		fmt.Fprintf(&b, "%5.1f %s\n", time.Since(began).Seconds(), lines.Text())
		if last(lines.Text()) {
			cancel()
		}
	}
	return b.String(), cmd.Wait()
}

// With downloads, make demo takes a new clone to a Ready node; the log says in which time.
func TestDemoWithDownloads(t *testing.T) {
	dir := clone(t)
	output, err := makeIn(t, dir, newSite(t).URL, func(string) bool { return false }, "demo")
	t.Logf("make demo:\n%s", output)
	env.Must(t, err)
	for _, part := range []string{"Downloading the official builds of kube-apiserver, ", "; the checksums are as published", "node Ready", "alarm raised", "Stopped everything"} {
		if !strings.Contains(output, part) {
			t.Errorf("the output lacks %q", part)
		}
	}
	if strings.Contains(output, "Building from source") {
		t.Error("it built something that it could download")
	}
	root, err := localcluster.ProjectRoot()
	env.Must(t, err)
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kubelet", "kubectl", "kubeadm"} {
		want, err := sumOf(filepath.Join(root, "bin", "k8s", name))
		env.Must(t, err)
		if got, err := sumOf(filepath.Join(dir, "bin", "k8s", name)); err != nil || got != want {
			t.Errorf("%s differs from what is in bin/k8s (%v)", name, err)
		}
	}

	// Neither is repeated.
	output, err = makeIn(t, dir, "http://127.0.0.1:1", func(string) bool { return false }, "controlplane")
	if err != nil || output != "" {
		t.Errorf("make controlplane after that: %v\n%s", err, output)
	}
}

// Without downloads, it says at once that it builds. An interrupt leaves nothing that is not whole.
func TestDemoWithoutDownloads(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, and nobody answers
	env.Must(t, err)
	defer silent.Close()
	dir := clone(t)
	const says = "Building from source: kube-apiserver, "
	output, err := makeIn(t, dir, "http://"+silent.Addr().String(), func(line string) bool { return strings.HasPrefix(line, says) }, "demo")
	t.Logf("make demo, interrupted by the test:\n%s", output)
	if err == nil || !strings.Contains(output, says) || !strings.Contains(output, "no answer within 2s") {
		t.Errorf("it ended with %v", err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "bin", "k8s"))
	env.Must(t, err)
	for _, e := range entries {
		if e.Name() != ".lock" {
			t.Errorf("%s was left behind", e.Name())
		}
	}
}
