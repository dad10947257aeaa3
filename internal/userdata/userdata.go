// SPDX-License-Identifier: Apache-2.0

// Package userdata wraps the script of internal/nodescript as user data, for cloud-init and for Ignition.
//
// Both get the same two files: the script, and a systemd unit that runs it. Neither runs the script itself: cloud-init runs commands
// once, when the container runtime or the network may not be up yet, and Ignition runs none at all.
package userdata

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/nodebootstrap/nodebootstrap/internal/nodescript"
)

const (
	// ScriptPath is where the script is on the machine until it has joined. A reboot must not delete it, so it is not below /run.
	ScriptPath = "/var/lib/nodebootstrap/join.sh"
	// Unit is the name of the systemd unit that runs the script.
	Unit = "nodebootstrap-join.service"

	unitPath = "/etc/systemd/system/" + Unit
	// ignitionVersion is the newest version of the specification that Ignition 2.14 knows.
	ignitionVersion = "3.3.0"
)

// transient are the exit codes of the script on a machine that is still starting: without a runtime, network or clock. After other
// failures running it again does not help before a person has done something.
var transient = []int{nodescript.ExitRuntime, nodescript.ExitServer, nodescript.ExitClock}

// unit returns the systemd unit. With Type=oneshot, systemd accepts Restart=on-failure from version 244 on. It has no limit of starts: the
// API server can be away for longer than any.
func unit(node string) string {
	var permanent []string
	for _, e := range nodescript.ExitCodes {
		if e.Code != nodescript.ExitJoined && !slices.Contains(transient, e.Code) {
			permanent = append(permanent, strconv.Itoa(e.Code))
		}
	}
	return fmt.Sprintf(`[Unit]
Description=Join Kubernetes as node %[1]s
ConditionPathExists=%[2]s
Wants=network-online.target
After=network-online.target containerd.service crio.service cri-docker.service
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=/bin/sh %[2]s
ExecStartPost=/bin/rm -f %[2]s
Restart=on-failure
RestartSec=15s
RestartPreventExitStatus=%[3]s

[Install]
WantedBy=multi-user.target
`, node, ScriptPath, strings.Join(permanent, " "))
}

type cloudConfig struct {
	WriteFiles []cloudFile `json:"write_files"`
	RunCmd     [][]string  `json:"runcmd"`
}

type cloudFile struct {
	Path        string `json:"path"`
	Permissions string `json:"permissions"`
	Encoding    string `json:"encoding,omitempty"`
	Content     string `json:"content"`
}

// CloudConfig returns user data for cloud-init.
func CloudConfig(node string, script []byte) ([]byte, error) {
	packed, err := pack(script)
	if err != nil {
		return nil, err
	}
	content, err := yaml.Marshal(cloudConfig{
		WriteFiles: []cloudFile{
			{Path: ScriptPath, Permissions: "0700", Encoding: "gz+b64", Content: packed},
			{Path: unitPath, Permissions: "0644", Content: unit(node)},
		},
		RunCmd: [][]string{{"systemctl", "enable", "--now", Unit}},
	})
	if err != nil {
		return nil, fmt.Errorf("encoding for cloud-init: %w", err)
	}
	return append([]byte("#cloud-config\n"), content...), nil
}

// ignition has the few fields that are needed. The types of github.com/coreos/ignition/v2, which the tests use, would write all the
// others as empty objects.
type ignition struct {
	Ignition struct {
		Version string `json:"version"`
	} `json:"ignition"`
	Storage struct {
		Files []ignitionFile `json:"files"`
	} `json:"storage"`
	Systemd struct {
		Units []ignitionUnit `json:"units"`
	} `json:"systemd"`
}

type ignitionFile struct {
	Path     string           `json:"path"`
	Mode     int              `json:"mode"`
	Contents ignitionContents `json:"contents"`
}

type ignitionContents struct {
	Compression string `json:"compression"`
	Source      string `json:"source"`
}

type ignitionUnit struct {
	Name     string `json:"name"`
	Enabled  bool   `json:"enabled"`
	Contents string `json:"contents"`
}

// Ignition returns an Ignition configuration.
func Ignition(node string, script []byte) ([]byte, error) {
	packed, err := pack(script)
	if err != nil {
		return nil, err
	}
	var config ignition
	config.Ignition.Version = ignitionVersion
	config.Storage.Files = []ignitionFile{{
		Path: ScriptPath, Mode: 0o700, Contents: ignitionContents{Compression: "gzip", Source: "data:;base64," + packed},
	}}
	config.Systemd.Units = []ignitionUnit{{Name: Unit, Enabled: true, Contents: unit(node)}}
	content, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding for Ignition: %w", err)
	}
	return append(content, '\n'), nil
}

// pack returns the base64 of the compressed script, so that the whole stays below the 16 KiB that some clouds accept.
func pack(script []byte) (string, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return "", err
	}
	if _, err := w.Write(script); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(out.Bytes()), nil
}
