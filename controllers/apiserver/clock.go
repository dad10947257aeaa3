// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"
	"sync/atomic"
	"time"

	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
)

// Clock tells the API server's time, by the Date of its answers (RFC 9110, section 6.6.1). The API server stamps what
// decisions are about, and accepts a token until that has expired by its clock: an operator that goes by another one, which
// is an hour behind, makes tokens that have expired when they are made, again and again.
type Clock struct {
	own   clock.PassiveClock
	ahead atomic.Int64 // the API server's clock of our own, in nanoseconds
}

// NewClock goes by our own clock until the API server has answered through Wrap.
func NewClock(own clock.PassiveClock) *Clock { return &Clock{own: own} }

// Now is the API server's time, less than two seconds off.
func (c *Clock) Now() time.Time { return c.own.Now().Add(time.Duration(c.ahead.Load())) }

// Since is how long ago a time was by the API server's clock.
func (c *Clock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

// Within reports whether an age is less than a limit. The age of what is from the future is unknown, since the clock was set back:
// it counts as too old, so that what rests on it is asked again.
func Within(age, limit time.Duration) bool { return age >= 0 && age < limit }

// Wrap reads the clock in all answers that come through a transport. It is for rest.Config.Wrap.
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

// observe learns from an answer whose Date was written between two moments of our own clock. Date is a whole second, so this
// gives bounds; nothing is corrected as long as they allow for what is known, least of all for clocks that agree.
func (c *Clock) observe(sent, received, date time.Time) {
	least, most := date.Sub(received), date.Add(time.Second).Sub(sent)
	was := time.Duration(c.ahead.Load())
	ahead := min(max(was, least), most)
	c.ahead.Store(int64(ahead))
	const worthTelling = 10 * time.Second
	if (ahead - was).Abs() > worthTelling {
		ctrl.Log.WithName("clock").Info("the API server's clock is not ours: what it says counts", "ahead", ahead.Round(time.Second))
	}
}
