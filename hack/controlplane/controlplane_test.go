// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/hack/progress"
)

const module = "../tools/kubernetes"

// The paths are those of the official sites.
func TestPins(t *testing.T) {
	t.Setenv("KUBERNETES_DOWNLOADS", "")
	t.Setenv("ETCD_DOWNLOADS", "")
	programs, err := pinned(module, "", "linux", "arm64")
	must(t, err)
	urls := map[string][2]string{}
	for _, p := range programs {
		urls[p.name] = [2]string{p.url, p.checksums}
	}
	kube, etcd := programs[0].version, programs[5].version
	if !strings.HasPrefix(kube, "v1.") || !strings.HasPrefix(etcd, "v3.") {
		t.Fatalf("the versions are %s and %s", kube, etcd)
	}
	for name, want := range map[string][2]string{
		"kube-apiserver": {"https://dl.k8s.io/" + kube + "/bin/linux/arm64/kube-apiserver", "https://dl.k8s.io/" + kube + "/bin/linux/arm64/kube-apiserver.sha256"},
		"kubeadm":        {"https://dl.k8s.io/" + kube + "/bin/linux/arm64/kubeadm", "https://dl.k8s.io/" + kube + "/bin/linux/arm64/kubeadm.sha256"},
		"etcd": {"https://github.com/etcd-io/etcd/releases/download/" + etcd + "/etcd-" + etcd + "-linux-arm64.tar.gz",
			"https://github.com/etcd-io/etcd/releases/download/" + etcd + "/SHA256SUMS"},
		"fakeruntime": {},
	} {
		if urls[name] != want {
			t.Errorf("%s: %q, want %q", name, urls[name], want)
		}
	}
	if len(urls) != 7 {
		t.Errorf("the programs are %v", urls)
	}
}

func TestOtherMinor(t *testing.T) {
	programs, err := pinned(module, "1.36", "linux", "amd64")
	must(t, err)
	if len(programs) != 5 || !strings.HasPrefix(programs[0].version, "v1.36.") || !strings.Contains(programs[0].ldflags, "gitMinor=36") {
		t.Errorf("the programs are %+v", programs)
	}
	if _, err := pinned(module, "1.12", "linux", "amd64"); err == nil || !strings.Contains(err.Error(), "1.35, 1.36 or nothing, not 1.12") {
		t.Errorf("the error is %v", err)
	}
}

func TestNothingIsPublishedForOtherSystems(t *testing.T) {
	programs, err := pinned(module, "", "darwin", "arm64")
	must(t, err)
	downloads, build, why := newDownloader(nil).decide(t.Context(), programs)
	if len(downloads) > 0 || len(build) != 7 || !strings.Contains(why.Error(), "only for Linux") {
		t.Errorf("downloads %v, builds %v: %v", downloads, build, why)
	}
}

// Neither a download nor a build is repeated for the same pins; SOURCE replaces downloads, and only them.
func TestStamps(t *testing.T) {
	s := newSite(t)
	f := newFixture(t, s.URL)
	wantMissing := func(source bool, names string) {
		t.Helper()
		var got []string
		for _, p := range missing(f.programs, f.dir, source) {
			got = append(got, p.name)
		}
		if strings.Join(got, " ") != names {
			t.Errorf("missing with source=%v: %q, want %q", source, got, names)
		}
	}
	wantMissing(false, "kubelet kubectl etcd")
	must(t, f.run(t))
	wantMissing(false, "")
	wantMissing(true, "kubelet kubectl etcd")
	must(t, f.fill(t.Context(), missing(f.programs, f.dir, true), true))
	f.wantOrigins(t, allBuilt)
	wantMissing(true, "")
	wantMissing(false, "")

	must(t, os.Remove(filepath.Join(f.dir, "etcd")))
	must(t, os.Remove(stampFile(f.dir, "kubelet")))
	wantMissing(false, "kubelet etcd")
	write(t, filepath.Join(f.programs[0].module, "go.sum"), "other pins")
	for i := range f.programs {
		must(t, f.programs[i].stamp("linux", "amd64"))
	}
	wantMissing(false, "kubelet kubectl etcd")
}

// A new version makes a downloaded program stale.
func TestNewVersionIsDownloaded(t *testing.T) {
	f := newFixture(t, newSite(t).URL)
	must(t, f.run(t))
	newer := kubernetes(f.programs[0].module, "v1.2.4", "linux", "amd64")[2:3]
	must(t, newer[0].stamp("linux", "amd64"))
	if len(missing(newer, f.dir, false)) != 1 {
		t.Errorf("%s of %s counts as %s", newer[0].name, f.programs[0].version, newer[0].version)
	}
}

// What is not published is built, during the downloads.
func TestOwnProgram(t *testing.T) {
	f := newFixture(t, newSite(t).URL)
	own := f.programs[0]
	own.name, own.version, own.url = "own", "", ""
	f.programs = append(f.programs, own)
	must(t, f.run(t))
	f.wantOrigins(t, map[string]string{"kubelet": "published", "kubectl": "published", "etcd": "published", "own": "built"})
	if strings.Contains(f.output.String(), "Building") {
		t.Errorf("the output is %s", f.output)
	}
	must(t, os.Remove(filepath.Join(f.dir, "own")))
	must(t, f.fill(t.Context(), missing(f.programs, f.dir, false), false))
	f.wantOutput(t, "Building own.\n", "1 of 1: own is built")
}

// A build that fails shows what the compiler says, and leaves the program that was there before.
func TestBuildFails(t *testing.T) {
	f := newFixture(t, newSite(t).URL)
	must(t, f.run(t))
	write(t, filepath.Join(f.programs[1].module, "kubectl", "main.go"), "package main\n\nfunc main() { undefined() }\n")
	err := f.fill(t.Context(), f.programs, true)
	if err == nil || !strings.Contains(err.Error(), "building kubectl") || !strings.Contains(err.Error(), "undefined: undefined") {
		t.Errorf("the error is %v", err)
	}
	f.wantOrigins(t, map[string]string{"kubelet": "built", "kubectl": "published", "etcd": "published"})
}

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "k8s")
	var first, second bytes.Buffer
	unlock, err := lock(dir, progress.NewPlain(&first, time.Hour))
	must(t, err)
	waiting := make(chan error)
	go func() {
		unlock, err := lock(dir, progress.NewPlain(&second, time.Hour))
		if err == nil {
			unlock()
		}
		waiting <- err
	}()
	select {
	case err := <-waiting:
		t.Fatalf("the second run did not wait (%v)", err)
	case <-time.After(100 * time.Millisecond):
	}
	unlock()
	must(t, <-waiting)
	if first.Len() > 0 || !strings.HasPrefix(second.String(), "Waiting for another run") {
		t.Errorf("they print %q and %q", first.String(), second.String())
	}
}

func TestProgress(t *testing.T) {
	m := newMeter(2)
	for _, c := range []struct{ got, want string }{
		{m.at(231e6, 478e6, 20*time.Second), "  231 of 478 MB, 48 %, 11.6 MB/s, 21s left"},
		{m.at(231e6, 0, 20*time.Second), "  231 MB, 11.6 MB/s"},
		{m.at(0, 478e6, 0), "  0 of 478 MB, 0 %, 0.0 MB/s"},
		{m.at(478e6, 478e6, 40*time.Second), "  478 of 478 MB, 100 %, 11.9 MB/s"},
		{(&buildProgress{steps: 7, all: 2000}).at(step{2, "kubelet"}, 500, 250, time.Minute), "  2 of 7: kubelet, 25 %: 500 of 2000 packages in 1m0s, about 6m0s left"},
		{(&buildProgress{steps: 7, all: 2000}).at(step{1, "kubelet"}, 5, 5, time.Second), "  1 of 7: kubelet, 0 %: 5 of 2000 packages in 1s"},
		{(&buildProgress{steps: 7, all: 2000}).at(step{7, "etcd"}, 2000, 2000, time.Second), "  7 of 7: etcd, 99 %: 2000 of 2000 packages in 1s, about 0s left"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}
