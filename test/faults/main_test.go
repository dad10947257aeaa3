// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"flag"
	"os"
	"runtime/debug"
	"testing"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(800)                                      // worlds are small and short-lived
	if err := flag.Set("rapid.nofailfile", "true"); err != nil { // a seed is printed, which is enough
		panic(err)
	}
	os.Exit(m.Run())
}
