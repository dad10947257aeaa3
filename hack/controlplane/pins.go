// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Where the official builds are published. A mirror has the same paths below another URL.
const (
	kubernetesDownloads = "https://dl.k8s.io"
	etcdDownloads       = "https://github.com/etcd-io/etcd/releases/download"
)

// program is one of the programs, in its pinned version.
type program struct {
	name, version string

	// module is the directory of the go.mod that pins it, and pkg what is built there.
	module, pkg string
	// ldflags set the version that it reports.
	ldflags string

	// url and checksums are empty if nothing is published for this platform.
	url, checksums string
	// member is the program's path in the archive at url; empty if url is the program.
	member string

	// built and downloaded are what its stamp says after each of the two.
	built, downloaded string
}

// pinned lists the programs of the module in a directory, or of its subdirectory for a minor version.
func pinned(dir, minor, goos, goarch string) ([]program, error) {
	module := filepath.Join(dir, minor)
	if _, err := os.Stat(filepath.Join(module, "go.mod")); err != nil {
		others, _ := filepath.Glob(filepath.Join(dir, "[0-9]*"))
		for i := range others {
			others[i] = filepath.Base(others[i])
		}
		return nil, fmt.Errorf("K8S_VERSION is %s or nothing, not %s", strings.Join(others, ", "), minor)
	}
	versions, err := required(module)
	if err != nil {
		return nil, err
	}
	programs := kubernetes(module, versions["k8s.io/kubernetes"], goos, goarch)
	if minor == "" {
		programs = append(programs, etcd(module, versions["go.etcd.io/etcd/server/v3"], goos, goarch),
			program{name: "fakeruntime", module: module, pkg: "./fakeruntime"})
	}
	for i := range programs {
		if err := programs[i].stamp(goos, goarch); err != nil {
			return nil, err
		}
	}
	return programs, nil
}

func kubernetes(module, version, goos, goarch string) []program {
	minor, _, _ := strings.Cut(strings.TrimPrefix(version, "v1."), ".")
	const pkg = "k8s.io/component-base/version"
	var programs []program
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kubelet", "kubectl", "kubeadm"} {
		p := program{name: name, version: version, module: module, pkg: "k8s.io/kubernetes/cmd/" + name}
		p.ldflags = fmt.Sprintf("-X %s.gitVersion=%s -X %s.gitMajor=1 -X %s.gitMinor=%s", pkg, version, pkg, pkg, minor)
		if goos == "linux" { // the only one with all programs
			p.url = fmt.Sprintf("%s/%s/bin/linux/%s/%s", from("KUBERNETES_DOWNLOADS", kubernetesDownloads), version, goarch, name)
			p.checksums = p.url + ".sha256"
		}
		programs = append(programs, p)
	}
	return programs
}

func etcd(module, version, goos, goarch string) program {
	p := program{name: "etcd", version: version, module: module, pkg: "go.etcd.io/etcd/server/v3"}
	if goos == "linux" {
		site, archive := from("ETCD_DOWNLOADS", etcdDownloads), fmt.Sprintf("etcd-%s-linux-%s", version, goarch)
		p.url = fmt.Sprintf("%s/%s/%s.tar.gz", site, version, archive)
		p.checksums = fmt.Sprintf("%s/%s/SHA256SUMS", site, version)
		p.member = archive + "/etcd"
	}
	return p
}

// from is a site's URL: that of a mirror, if the variable names one.
func from(variable, official string) string {
	if mirror := os.Getenv(variable); mirror != "" {
		return strings.TrimRight(mirror, "/")
	}
	return official
}

// required is what a go.mod requires. It downloads nothing.
func required(dir string) (map[string]string, error) {
	cmd := exec.Command("go", "mod", "edit", "-json")
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("reading %s/go.mod: %w", dir, err)
	}
	var mod struct {
		Require []struct{ Path, Version string }
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		return nil, fmt.Errorf("reading %s/go.mod: %w", dir, err)
	}
	versions := map[string]string{}
	for _, r := range mod.Require {
		versions[r.Path] = r.Version
	}
	for _, path := range []string{"k8s.io/kubernetes", "go.etcd.io/etcd/server/v3"} {
		if versions[path] == "" && filepath.Base(dir) == "kubernetes" || path == "k8s.io/kubernetes" && versions[path] == "" {
			return nil, fmt.Errorf("%s/go.mod pins no %s", dir, path)
		}
	}
	return versions, nil
}

// stamp sets what a program's stamp says: all that decides what the program is.
func (p *program) stamp(goos, goarch string) error {
	files := []string{filepath.Join(p.module, "go.mod"), filepath.Join(p.module, "go.sum")}
	if strings.HasPrefix(p.pkg, "./") {
		sources, err := filepath.Glob(filepath.Join(p.module, p.pkg, "*.go"))
		if err != nil {
			return err
		}
		files = append(files, sources...)
	}
	hash := sha256.New()
	for _, name := range files {
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(hash, "%s %d\n%s", filepath.Base(name), len(content), content)
	}
	p.built = fmt.Sprintf("built by %s for %s/%s from %s %s\n", runtime.Version(), goos, goarch, hex.EncodeToString(hash.Sum(nil)), p.ldflags)
	if p.url != "" {
		p.downloaded = fmt.Sprintf("downloaded %s for %s/%s\n", p.version, goos, goarch)
	}
	return nil
}

func stampFile(dir, name string) string { return filepath.Join(dir, "."+name+".origin") }

// missing lists the programs that a directory does not have in their pinned versions; with source, those not built from it.
func missing(programs []program, dir string, source bool) []program {
	_, needed := split(programs, func(p program) bool {
		info, err := os.Stat(filepath.Join(dir, p.name))
		if err != nil || info.Mode()&0o111 == 0 {
			return false
		}
		stamp, err := os.ReadFile(stampFile(dir, p.name))
		return err == nil && (string(stamp) == p.built || !source && p.downloaded != "" && string(stamp) == p.downloaded)
	})
	return needed
}

// install puts a finished file in a program's place, at once: a test may start the program right now.
func install(file, dir string, p program, stamp string) error {
	if err := os.Chmod(file, 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(stampFile(dir, p.name)); err != nil {
		return err
	}
	if err := os.Rename(file, filepath.Join(dir, p.name)); err != nil {
		return err
	}
	return os.WriteFile(stampFile(dir, p.name), []byte(stamp), 0o644)
}
