// SPDX-License-Identifier: Apache-2.0

// Package version tells which build this is.
package version

import "runtime"

// version is set by the linker: see the Makefile.
var version = "devel"

// Name is the version alone.
func Name() string { return version }

// String is the version with the Go version and platform it was built for.
func String() string {
	return "nodebootstrap " + version + " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
}
