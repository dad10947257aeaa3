// SPDX-License-Identifier: Apache-2.0

package userdata_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/internal/userdata"
)

// ignitionProgram is where Debian has it: only an initramfs runs it.
const ignitionProgram = "/usr/lib/dracut/modules.d/30ignition/ignition"

// run runs a program that make test-packages installs, and returns what it prints.
func run(t *testing.T, env []string, name string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%v: make test-packages installs it", err)
	}
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func wantFile(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != content || info.Mode() != mode {
		t.Errorf("%s has mode %s and the content\n%s", path, info.Mode(), got)
	}
}

func TestCloudInitSchema(t *testing.T) {
	file := filepath.Join(t.TempDir(), "user-data")
	good := cloudConfig(t, script(t))
	write(t, file, good)
	if out, err := run(t, nil, "cloud-init", "schema", "--config-file", file); err != nil || !strings.Contains(out, "Valid cloud-config") {
		t.Errorf("%v\n%s", err, out)
	}
	write(t, file, []byte(strings.Replace(string(good), `permissions: "0700"`, "permissions: 0700", 1)))
	if out, err := run(t, nil, "cloud-init", "schema", "--config-file", file); err == nil {
		t.Errorf("a mode that is a number is valid:\n%s", out)
	}
}

// systemd accepts the unit, and would not accept one that it does not understand.
func TestUnitIsValid(t *testing.T) {
	_, unit := cloudFiles(t, cloudConfig(t, script(t)))
	file := filepath.Join(t.TempDir(), userdata.Unit)
	write(t, file, []byte(unit.Content))
	if out, err := run(t, nil, "systemd-analyze", "verify", file); err != nil || strings.Contains(out, userdata.Unit) {
		t.Errorf("%v\n%s", err, out)
	}
	write(t, file, []byte(strings.Replace(unit.Content, "Restart=on-failure", "Restart=always", 1)))
	if out, err := run(t, nil, "systemd-analyze", "verify", file); err == nil {
		t.Errorf("a unit of Type=oneshot with Restart=always is valid:\n%s", out)
	}
}

// cloudInit runs cloud-init with directories of its own, and then the script that it makes of runcmd, with a systemctl that records its
// arguments. What it wrote is copied to $OUT.
const cloudInit = `
for dir in /etc/systemd/system /run /var/lib /var/log; do mount -t tmpfs none $dir; done
for module in cc_write_files cc_runcmd; do
	cloud-init --file "$OUT/user-data" single --name $module --frequency always
done
printf '#!/bin/sh\necho "$@" >> "$OUT/systemctl"\n' > /run/systemctl
chmod 0700 /run/systemctl
PATH=/run:$PATH /var/lib/cloud/instances/*/scripts/runcmd
mkdir -p "$OUT/etc/systemd" "$OUT/var/lib"
cp -a /etc/systemd/system "$OUT/etc/systemd"
cp -a /var/lib/nodebootstrap "$OUT/var/lib"
`

// cloud-init writes the files and runs the command.
func TestCloudInitWrites(t *testing.T) {
	dir := t.TempDir()
	script := script(t)
	content := cloudConfig(t, script)
	_, unit := cloudFiles(t, content)
	write(t, filepath.Join(dir, "user-data"), content)
	out, err := run(t, []string{"OUT=" + dir}, "unshare", "-m", "--propagation", "private", "sh", "-exc", cloudInit)
	if err != nil {
		t.Fatalf("this needs root and cloud-init, which make test-packages installs: %v\n%s", err, out)
	}
	wantFile(t, filepath.Join(dir, userdata.ScriptPath), string(script), 0o700)
	wantFile(t, filepath.Join(dir, "etc/systemd/system", userdata.Unit), unit.Content, 0o644)
	wantFile(t, filepath.Join(dir, "systemctl"), "enable --now "+userdata.Unit+"\n", 0o644)
}

// Ignition writes the files and enables the unit.
func TestIgnitionWrites(t *testing.T) {
	dir := t.TempDir()
	script := script(t)
	_, unit := cloudFiles(t, cloudConfig(t, script))
	config, root := filepath.Join(dir, "config.ign"), filepath.Join(dir, "root")
	write(t, config, ignitionConfig(t, script))
	if out, err := run(t, nil, "ignition-validate", config); err != nil || out != "" {
		t.Errorf("ignition-validate: %v\n%s", err, out)
	}
	// It gives each file its SELinux label with setfiles, which only matters on a system that has SELinux.
	write(t, filepath.Join(dir, "setfiles"), []byte("#!/bin/sh\ncat >/dev/null\n"))
	selinux := filepath.Join(root, "etc/selinux")
	if err := errors.Join(os.Chmod(filepath.Join(dir, "setfiles"), 0o700), os.MkdirAll(selinux, 0o755)); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(selinux, "config"), []byte("SELINUXTYPE=targeted\n"))
	env := []string{"IGNITION_CONFIG_FILE=" + config, "PATH=" + dir + ":" + os.Getenv("PATH")}
	for _, stage := range []string{"fetch", "files"} {
		out, err := run(t, env, ignitionProgram, "--platform", "file", "--stage", stage, "--root", root,
			"--config-cache", filepath.Join(dir, "cache"), "--state-file", filepath.Join(dir, "state"), "--neednet", filepath.Join(dir, "neednet"), "--log-to-stdout")
		if err != nil {
			t.Fatalf("stage %s: %v\n%s", stage, err, out)
		}
	}
	wantFile(t, filepath.Join(root, userdata.ScriptPath), string(script), 0o700)
	wantFile(t, filepath.Join(root, "etc/systemd/system", userdata.Unit), unit.Content, 0o644)
	presets, err := filepath.Glob(filepath.Join(root, "etc/systemd/system-preset/*"))
	if err != nil || len(presets) != 1 {
		t.Fatalf("the presets are %v (%v)", presets, err)
	}
	wantFile(t, presets[0], "enable "+userdata.Unit+"\n", 0o644)
}

// The shells parse the script, and shellcheck has nothing to report.
func TestScriptIsValid(t *testing.T) {
	file := filepath.Join(t.TempDir(), "join.sh")
	content := script(t)
	write(t, file, content)
	// SC2317: a trap calls undo. SC2015: in "A && B || fail", fail is for A as well as for B.
	checks := [][]string{{"dash", "-n"}, {"bash", "-n"}, {"busybox", "sh", "-n"}, {"shellcheck", "--shell=sh", "--exclude=SC2317,SC2015"}}
	for _, check := range checks {
		if out, err := run(t, nil, check[0], append(check[1:], file)...); err != nil || out != "" {
			t.Errorf("%s: %v\n%s", check[0], err, out)
		}
	}
	write(t, file, []byte(strings.Replace(string(content), "\nmain\n}\n", "\nmain\n", 1))) // an incomplete one, which no shell may run
	for _, check := range checks {
		if out, err := run(t, nil, check[0], append(check[1:], file)...); err == nil {
			t.Errorf("%s accepts an incomplete script\n%s", check[0], out)
		}
	}
}
