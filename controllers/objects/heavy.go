// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"runtime/debug"
	"time"
)

func (g *gcPercent) beFrugal() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.end != nil {
		g.end.Reset(frugalFor)
		return
	}
	g.before = debug.SetGCPercent(frugalPercent)
	if 0 <= g.before && g.before < frugalPercent {
		debug.SetGCPercent(g.before)
	}
	g.end = time.AfterFunc(frugalFor, g.asUsual)
}

func (g *gcPercent) asUsual() {
	g.mu.Lock()
	defer g.mu.Unlock()
	debug.SetGCPercent(g.before)
	g.end = nil
}
