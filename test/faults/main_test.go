// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"flag"
	"os"
	"runtime/debug"
	"testing"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	debug.SetGCPercent(800)                                      // worlds are small and short-lived
	if err := flag.Set("rapid.nofailfile", "true"); err != nil { // a seed is printed, which is enough
		panic(err)
	}
	os.Exit(m.Run())
}
