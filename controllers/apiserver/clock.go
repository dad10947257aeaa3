// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"
	"sync/atomic"
	"time"

	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
)

// Clock is the API server's clock, from the Date header of its responses (RFC 9110, section 6.6.1). The API server sets the
// times of objects, and accepts a token until it expires by its clock: an operator whose own clock is an hour behind would keep
// creating tokens that are already expired.
type Clock struct {
	own   clock.PassiveClock
	ahead atomic.Int64 // how far the API server's clock is ahead of ours, in nanoseconds
}

// NewClock returns a Clock that equals our own clock until the API server has answered through Wrap.
func NewClock(own clock.PassiveClock) *Clock { return &Clock{own: own} }

// Now returns the API server's time, with an error of less than two seconds.
func (c *Clock) Now() time.Time { return c.own.Now().Add(time.Duration(c.ahead.Load())) }

// Since returns how long ago a time was by the API server's clock.
func (c *Clock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

// Within reports whether an age is less than a limit. A negative age is unknown, since the clock was set back: it counts as too
// old, so that the caller asks again.
func Within(age, limit time.Duration) bool { return age >= 0 && age < limit }

// Wrap reads the Date header of all responses of a transport. It is for rest.Config.Wrap.
func (c *Clock) Wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		sent := c.own.Now()
		response, err := next.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
			c.observe(sent, c.own.Now(), date)
		}
		return response, nil
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// observe learns from a response whose Date was set between two times of our own clock. Date has whole seconds, so this gives
// bounds for the offset. The known offset changes only when it is out of these bounds.
func (c *Clock) observe(sent, received, date time.Time) {
	least, most := date.Sub(received), date.Add(time.Second).Sub(sent)
	was := time.Duration(c.ahead.Load())
	ahead := min(max(was, least), most)
	c.ahead.Store(int64(ahead))
	const worthLogging = 10 * time.Second
	if (ahead - was).Abs() > worthLogging {
		ctrl.Log.WithName("clock").Info("the API server's clock differs from the local clock; using the API server's time", "ahead", ahead.Round(time.Second))
	}
}
