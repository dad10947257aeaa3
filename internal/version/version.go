// SPDX-License-Identifier: Apache-2.0

// Package version has the version of this build.
package version

import "runtime"

// version is set by the linker: see the Makefile.
var version = "devel"

// Name is the version only.
func Name() string { return version }

// String is the version with the Go version and the platform of the build.
func String() string {
	return "nodebootstrap " + version + " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
}
