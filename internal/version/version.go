// SPDX-License-Identifier: Apache-2.0

// Package version has the version of this build, and knows where the operator publishes its own.
package version

import (
	"regexp"
	"runtime"
	"strings"
)

// version is set by the linker: see the Makefile.
var version = "devel"

const (
	// Lease is the name of the Lease that the managers share. Its label Label is the version of the one that leads.
	Lease = "nodebootstrap.nodebootstrap.io"
	// Namespace is where the operator is, unless it was installed elsewhere.
	Namespace = "nodebootstrap-system"
	// Label is Kubernetes' recommended label for a version.
	Label = "app.kubernetes.io/version"
	// NameLabel with the value AppName selects the operator's Deployment.
	NameLabel = "app.kubernetes.io/name"
	// AppName is the value of NameLabel.
	AppName = "nodebootstrap"
)

// Build describes a build.
type Build struct {
	Version   string `json:"version"`
	GoVersion string `json:"goVersion"`
	Platform  string `json:"platform"`
}

// This is the running build.
func This() Build { return Build{version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH} }

// Name is the version only.
func Name() string { return version }

// String is the version with the Go version and the platform of the build.
func String() string {
	b := This()
	return "nodebootstrap " + b.Version + " " + b.GoVersion + " " + b.Platform
}

var notInLabels = regexp.MustCompile(`[^-A-Za-z0-9_.]`)

// LabelValue is the version as the value of a label.
func LabelValue() string {
	const most = 63
	value := notInLabels.ReplaceAllString(version, "_")
	return strings.Trim(value[:min(len(value), most)], "-_.")
}
