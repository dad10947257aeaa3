// SPDX-License-Identifier: Apache-2.0

package userdata_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	ignition "github.com/coreos/ignition/v2/config/v3_3"
	"sigs.k8s.io/yaml"

	"github.com/nodebootstrap/nodebootstrap/internal/nodescript"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/userdata"
)

const (
	node   = "worker-1"
	server = "https://api.example.com:6443"
)

// script returns a script as the plugin renders it.
func script(t *testing.T) []byte {
	t.Helper()
	ca := nodetest.Certificate(nodetest.Now.Add(-time.Hour), nodetest.Now.Add(time.Hour))
	kubeconfig := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters:\n- {name: kubernetes, cluster: {server: %s, certificate-authority-data: %s}}\n"+
		"users:\n- {name: kubelet-bootstrap, user: {token: abcdef.0123456789abcdef}}\n", server, base64.StdEncoding.EncodeToString(ca))
	out, err := nodescript.Render(nodescript.Options{
		Node: node, Server: server, CA: ca, Paths: nodescript.Default, Kubeconfig: []byte(kubeconfig), Rendered: nodetest.Now,
		Expires: nodetest.Now.Add(24 * time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func cloudConfig(t *testing.T, script []byte) []byte {
	t.Helper()
	out, err := userdata.CloudConfig(node, script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func ignitionConfig(t *testing.T, script []byte) []byte {
	t.Helper()
	out, err := userdata.Ignition(node, script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// unpack undoes gzip and base64.
func unpack(t *testing.T, packed string) string {
	t.Helper()
	r, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(packed)))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

type cloudFile struct{ Path, Permissions, Encoding, Content string }

// cloudFiles returns the script and the unit in a cloud-config.
func cloudFiles(t *testing.T, config []byte) (script, unit cloudFile) {
	t.Helper()
	var got struct {
		WriteFiles []cloudFile `json:"write_files"`
		RunCmd     any         `json:"runcmd"`
	}
	if err := yaml.UnmarshalStrict(config, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.WriteFiles) != 2 {
		t.Fatalf("got the files %+v", got.WriteFiles)
	}
	return got.WriteFiles[0], got.WriteFiles[1]
}

func TestCloudConfig(t *testing.T) {
	want := script(t)
	config := cloudConfig(t, want)
	if !bytes.HasPrefix(config, []byte("#cloud-config\n")) {
		t.Errorf("the first line is not #cloud-config:\n%.100s", config)
	}
	script, unit := cloudFiles(t, config)
	if script.Path != userdata.ScriptPath || script.Permissions != "0700" || script.Encoding != "gz+b64" || unpack(t, script.Content) != string(want) {
		t.Errorf("the script is %+v", script)
	}
	if unit.Path != "/etc/systemd/system/"+userdata.Unit || unit.Permissions != "0644" || unit.Encoding != "" {
		t.Errorf("the unit is %+v", unit)
	}
}

// Ignition's own parser has nothing to report: of an unknown key it would only warn.
func TestIgnition(t *testing.T) {
	want := script(t)
	config := ignitionConfig(t, want)
	got, report, err := ignition.Parse(config)
	if err != nil || len(report.Entries) > 0 {
		t.Fatalf("%v\n%s\n%s", err, report.String(), config)
	}
	if len(got.Storage.Files) != 1 || len(got.Systemd.Units) != 1 {
		t.Fatalf("got %+v", got)
	}
	script, unit := got.Storage.Files[0], got.Systemd.Units[0]
	packed, isData := strings.CutPrefix(*script.Contents.Source, "data:;base64,")
	if script.Path != userdata.ScriptPath || *script.Mode != 0o700 || *script.Contents.Compression != "gzip" || !isData || unpack(t, packed) != string(want) {
		t.Errorf("the script is %+v", script)
	}
	if _, cloud := cloudFiles(t, cloudConfig(t, want)); unit.Name != userdata.Unit || !*unit.Enabled || *unit.Contents != cloud.Content {
		t.Errorf("the unit is %+v", unit)
	}

	spoiled := bytes.Replace(config, []byte(`"mode"`), []byte(`"mods"`), 1)
	if _, report, err := ignition.Parse(spoiled); err != nil || len(report.Entries) == 0 {
		t.Errorf("an unknown key is not reported: %v", err)
	}
}

// EC2 accepts 16 KiB before base64.
func TestSize(t *testing.T) {
	script := script(t)
	for name, out := range map[string][]byte{"cloud-init": cloudConfig(t, script), "Ignition": ignitionConfig(t, script)} {
		t.Logf("%s: %d bytes, the script %d", name, len(out), len(script))
		if len(out) > 12<<10 { // leaves 4 KiB for a larger CA and a kubelet configuration
			t.Errorf("%s: %d bytes", name, len(out))
		}
	}
}

// The unit runs the script until it succeeds, but not again after a failure that only a person can correct.
func TestUnit(t *testing.T) {
	_, unit := cloudFiles(t, cloudConfig(t, script(t)))
	for _, line := range []string{
		"ConditionPathExists=/var/lib/nodebootstrap/join.sh", "ExecStart=/bin/sh /var/lib/nodebootstrap/join.sh",
		"ExecStartPost=/bin/rm -f /var/lib/nodebootstrap/join.sh", "Restart=on-failure", "StartLimitIntervalSec=0",
		"RestartPreventExitStatus=9 10 11 12 13 17 18 19 20 21", "WantedBy=multi-user.target",
	} {
		if !strings.Contains(unit.Content, "\n"+line+"\n") {
			t.Errorf("the unit has no line %s:\n%s", line, unit.Content)
		}
	}
}
