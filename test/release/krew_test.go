// SPDX-License-Identifier: Apache-2.0

// Package release tests how a release is put together.
package release

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
)

var platforms = regexp.MustCompile(`for platform in ((?:[a-z0-9]+_[a-z0-9]+ ?)+);`)

// The archives of a release can be installed with krew and the manifest that is made for them, as krew's own index requires it. The
// programs in them are stand-ins here, except for this machine's.
func TestKrew(t *testing.T) {
	root, err := localcluster.ProjectRoot()
	must(t, err)
	tools := filepath.Join(root, "hack", "tools", "krew")
	license, err := os.ReadFile(filepath.Join(root, "LICENSE"))
	must(t, err)
	plugin := build(t, root)
	for name, tc := range map[string]struct {
		version string
		// spoil changes the files of the archive for Windows, or the release after its manifest was made.
		spoilArchive func(files map[string][]byte)
		spoilRelease func(t *testing.T, dir string)
		want         string
	}{
		"good":            {version: "v1.2.3"},
		"without the v":   {version: "1.2.3-rc.1"},
		"no version":      {version: "7077b6e", want: "failed to parse plugin version"},
		"no license":      {version: "v1.2.3", want: "has no LICENSE", spoilArchive: func(files map[string][]byte) { delete(files, "LICENSE") }},
		"other file name": {version: "v1.2.3", want: "cannot be installed", spoilArchive: rename("kubectl-nodebootstrap.exe", "kubectl-nodebootstrap")},
		"other archive": {version: "v1.2.3", want: "checksum does not match", spoilRelease: func(t *testing.T, dir string) {
			writeArchive(t, dir, "darwin_arm64", map[string][]byte{"kubectl-nodebootstrap": []byte("someone else's"), "LICENSE": license})
		}},
		"one more platform": {version: "v1.2.3", want: "does not offer installation for this platform", spoilRelease: func(t *testing.T, dir string) {
			writeArchive(t, dir, "linux_arm", map[string][]byte{"kubectl-nodebootstrap": []byte("stand-in"), "LICENSE": license})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, platform := range releasedPlatforms(t, root) {
				files := map[string][]byte{binary(platform): []byte("stand-in"), "LICENSE": license}
				if platform == runtime.GOOS+"_"+runtime.GOARCH && tc.want == "" {
					files[binary(platform)] = plugin
				}
				if tc.spoilArchive != nil && platform == "windows_amd64" {
					tc.spoilArchive(files)
				}
				writeArchive(t, dir, platform, files)
			}
			run(t, "", filepath.Join(tools, "manifest.sh"), tc.version, dir)
			if tc.spoilRelease != nil {
				tc.spoilRelease(t, dir)
			}
			run(t, tc.want, filepath.Join(tools, "check.sh"), dir)
			if tc.want == "" {
				tryInstalled(t, tools, dir)
			}
		})
	}
}

// releasedPlatforms are those for which the Makefile builds the plugin.
func releasedPlatforms(t *testing.T, root string) []string {
	t.Helper()
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	must(t, err)
	match := platforms.FindSubmatch(makefile)
	if match == nil {
		t.Fatal("the Makefile names no platforms")
	}
	found := strings.Fields(string(match[1]))
	if len(found) < 6 {
		t.Fatalf("only the platforms %s are found", found)
	}
	return found
}

func binary(platform string) string {
	if strings.HasPrefix(platform, "windows_") {
		return "kubectl-nodebootstrap.exe"
	}
	return "kubectl-nodebootstrap"
}

func rename(from, to string) func(map[string][]byte) {
	return func(files map[string][]byte) {
		files[to] = files[from]
		delete(files, from)
	}
}

// tryInstalled installs this machine's plugin, and runs it as kubectl would.
func tryInstalled(t *testing.T, tools, dir string) {
	t.Helper()
	t.Chdir(tools)
	store := t.TempDir()
	t.Setenv("KREW_ROOT", store)
	t.Setenv("KREW_NO_UPGRADE_CHECK", "1")
	run(t, "", "go", "tool", "krew", "install", "--manifest", filepath.Join(dir, "nodebootstrap.yaml"),
		"--archive", filepath.Join(dir, "kubectl-nodebootstrap_"+runtime.GOOS+"_"+runtime.GOARCH+".tar.gz"))
	if out := run(t, "", filepath.Join(store, "bin", "kubectl-nodebootstrap"), "--help"); !strings.Contains(out, "kubectl nodebootstrap") {
		t.Errorf("the installed plugin prints %s", out)
	}
}

func build(t *testing.T, root string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubectl-nodebootstrap")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", file, "./cmd/kubectl-nodebootstrap")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	content, err := os.ReadFile(file)
	must(t, err)
	return content
}

// run runs a program that succeeds, or fails and prints a text.
func run(t *testing.T, want, program string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	switch exit := (*exec.ExitError)(nil); {
	case want == "" && err != nil:
		t.Fatalf("%s: %v\n%s", program, err, out)
	case want != "" && (!errors.As(err, &exit) || !strings.Contains(string(out), want)):
		t.Errorf("%s: %v, want a failure that says %q\n%s", program, err, want, out)
	}
	return string(out)
}

func writeArchive(t *testing.T, dir, platform string, files map[string][]byte) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "kubectl-nodebootstrap_"+platform+".tar.gz"))
	must(t, err)
	compressed, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	must(t, err)
	archive := tar.NewWriter(compressed)
	for name, content := range files {
		must(t, archive.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}))
		_, err := archive.Write(content)
		must(t, err)
	}
	must(t, errors.Join(archive.Close(), compressed.Close(), f.Close()))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
