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
	debug.SetGCPercent(800) // worlds are small and short-lived
	for name, value := range map[string]string{
		"rapid.nofailfile": "true", // a seed is printed, which is enough
		"rapid.steps":      "80",   // many of which do nothing
		"rapid.seed":       "5",    // the same histories each time; make faults uses other seeds
	} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
