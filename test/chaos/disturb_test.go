// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// momentLimit is the longest time between two kills.
	momentLimit = 5 * time.Second
	// electionBlock is the number of kills after which leader election is turned on or off at random again.
	electionBlock = 8
)

// between is a random number between two bounds, with each order of magnitude equally likely.
func between(rnd *rand.Rand, low, high float64) float64 {
	return low * math.Exp(rnd.Float64()*math.Log(high/low))
}

// timeBetween is the same for times.
func timeBetween(rnd *rand.Rand, low, high time.Duration) time.Duration {
	return time.Duration(between(rnd, float64(low), float64(high)))
}

// disturbNetwork changes the network's conditions until ctx is done, and then restores them. A manager that cannot even
// start does nothing wrong, so every other period is undisturbed.
func (s *suite) disturbNetwork(ctx context.Context, rnd *rand.Rand) {
	for ctx.Err() == nil {
		wait(ctx, timeBetween(rnd, 300*time.Millisecond, 4*time.Second))
		var c conditions
		switch rnd.IntN(7) {
		case 0, 1:
			c.delay = timeBetween(rnd, 10*time.Millisecond, time.Second)
		case 2, 3:
			c.cutAfter = int64(between(rnd, 500, 200_000))
		case 4:
			c.drop = 1 + direction(rnd.IntN(3))
		case 5:
			c.refuse = true
			s.proxy.cutAll()
		case 6:
			s.line.note("network: all connections are cut")
			s.proxy.cutAll()
			continue
		}
		s.line.note("network: %s", c)
		s.proxy.set(c)
		wait(ctx, timeBetween(rnd, 200*time.Millisecond, 3*time.Second))
		s.proxy.set(conditions{})
		s.line.note("network: in order")
	}
}

// killManagers kills managers until there were enough kills and a stock kubelet has joined meanwhile, or ctx is done. It
// restarts the control plane in between.
func (s *suite) killManagers(ctx context.Context, rnd *rand.Rand) {
	var restart sync.WaitGroup
	defer restart.Wait()
	for i := 0; (s.managers.kills() < *killsFlag || s.kubeletMissing()) && ctx.Err() == nil; i++ {
		if i%electionBlock == 0 {
			s.managers.elect(rnd.IntN(4) == 0)
		}
		s.untilMoment(ctx, rnd)
		if s.restartDue() {
			restart.Wait() // never two at once
			s.restarts++
			etcdFirst := rnd.IntN(2) == 0
			restart.Go(func() { s.restartControlPlane(ctx, etcdFirst) })
		}
		if err := s.killOne(ctx, rnd); err != nil {
			s.fail("%v", err)
		}
	}
}

// restartDue reports whether to restart the control plane now: as often as the flag requires, spread over all kills.
func (s *suite) restartDue() bool {
	return s.restarts < *restartsFlag && 2**restartsFlag*s.managers.kills() >= (2*s.restarts+1)**killsFlag
}

// untilMoment waits for the moment of a kill: a time, an observed step, or a number of bytes.
func (s *suite) untilMoment(ctx context.Context, rnd *rand.Rand) {
	switch rnd.IntN(5) {
	case 0:
		wait(ctx, time.Duration(rnd.Int64N(int64(momentLimit))))
	case 1:
		wait(ctx, timeBetween(rnd, 5*time.Millisecond, momentLimit))
	case 2, 3:
		step, times, after := steps[rnd.IntN(len(steps))], 1+rnd.IntN(3), time.Duration(rnd.IntN(2)*rnd.IntN(40))*time.Millisecond
		s.line.note("the next kill is %s after %q, %d times", after, step, times)
		s.seen.untilStep(ctx, step, times, momentLimit)
		wait(ctx, after)
	case 4:
		bytes := int64(between(rnd, 2_000, 300_000))
		s.line.note("the next kill is after %d bytes", bytes)
		goal := s.proxy.sent.Load() + bytes
		for deadline := time.Now().Add(momentLimit); ctx.Err() == nil && s.proxy.sent.Load() < goal && time.Now().Before(deadline); {
			wait(ctx, time.Millisecond)
		}
	}
}

// killOne kills the manager that has run for longest, and ensures that another one runs: afterwards, or before, or before
// while the killed one was paused.
func (s *suite) killOne(ctx context.Context, rnd *rand.Rand) error {
	successor, paused := rnd.IntN(10) >= 7, rnd.IntN(3) == 0
	both, after, vacate := rnd.Int64N(int64(4*time.Second)), rnd.Int64N(int64(time.Second)), rnd.IntN(4) > 0
	old := s.managers.oldest()
	for ; old == nil; old = s.managers.oldest() { // it has just ended by itself
		if wait(ctx, restartDelay); ctx.Err() != nil {
			return nil
		}
	}
	if successor {
		if paused {
			s.signal(old, "pausing", old.Pause)
		}
		if err := s.managers.start(); err != nil {
			return err
		}
		wait(ctx, time.Duration(both))
		if paused {
			s.signal(old, "resuming", old.Resume)
			wait(ctx, time.Duration(after))
		}
	}
	if err := s.managers.kill(old); err != nil {
		return err
	}
	if err := s.managers.ensure(); err != nil {
		return err
	}
	if vacate && s.managers.electing() {
		s.managers.vacateLease(ctx)
	}
	return nil
}

// signal sends a signal to a manager, which may have ended by itself.
func (s *suite) signal(m *manager, what string, send func() error) {
	s.line.note("%s %s", what, m.name)
	if err := send(); err != nil {
		s.line.note("  %v", err)
	}
}

// restartControlPlane kills etcd and kube-apiserver, one after the other, and starts them again.
func (s *suite) restartControlPlane(ctx context.Context, etcdFirst bool) {
	s.outage.Store(true)
	defer s.outage.Store(false)
	for _, etcd := range []bool{etcdFirst, !etcdFirst} {
		name, restart := "kube-apiserver", s.env.RestartAPIServer
		if etcd {
			name, restart = "etcd", s.env.RestartEtcd
		}
		s.line.note("killing %s", name)
		if err := restart(s.ctx); err != nil {
			s.fail("%v", err)
			s.quit()
			return
		}
		s.line.note("%s is back", name)
		wait(ctx, time.Second)
	}
}

// wait waits for a time, or until ctx is done.
func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
