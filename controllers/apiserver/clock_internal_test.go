// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"errors"
	"net/http"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

// answers is a transport to an API server with another clock and with latency in both directions.
type answers struct {
	own      *clocktesting.FakePassiveClock
	ahead    time.Duration
	way      time.Duration
	noDate   bool
	notation string
}

func (a answers) RoundTrip(*http.Request) (*http.Response, error) {
	a.own.SetTime(a.own.Now().Add(a.way))
	header := http.Header{}
	if !a.noDate {
		header.Set("Date", a.own.Now().Add(a.ahead).UTC().Format(http.TimeFormat))
	}
	if a.notation != "" {
		header.Set("Date", a.notation)
	}
	a.own.SetTime(a.own.Now().Add(a.way))
	return &http.Response{Header: header, Body: http.NoBody}, nil
}

// ask sends a request and drops the response.
func ask(transport http.RoundTripper) error {
	response, err := transport.RoundTrip(&http.Request{})
	if err != nil {
		return err
	}
	return response.Body.Close()
}

func TestServerClock(t *testing.T) {
	const exact, second = 0, time.Second
	for name, tt := range map[string]struct {
		answers   answers
		want      time.Duration
		tolerance time.Duration
	}{
		"the same":              {answers{}, 0, exact},
		"the same, far away":    {answers{way: 3 * time.Second}, 0, exact},
		"an hour ahead":         {answers{ahead: time.Hour}, time.Hour, second},
		"an hour behind":        {answers{ahead: -time.Hour}, -time.Hour, second},
		"an hour ahead, far":    {answers{ahead: time.Hour, way: 3 * time.Second}, time.Hour, 7 * time.Second},
		"half a second ahead":   {answers{ahead: time.Second / 2}, time.Second / 2, second},
		"it does not say":       {answers{ahead: time.Hour, noDate: true}, 0, exact},
		"it says something odd": {answers{notation: "noon"}, 0, exact},
	} {
		t.Run(name, func(t *testing.T) {
			own := clocktesting.NewFakePassiveClock(time.Date(2026, 3, 4, 5, 6, 7, 890_000_000, time.UTC))
			c := NewClock(own)
			tt.answers.own = own
			transport := c.Wrap(tt.answers)
			for range 20 { // at several fractions of a second
				if err := ask(transport); err != nil {
					t.Fatal(err)
				}
				if off := c.Now().Sub(own.Now().Add(tt.want)).Abs(); off > tt.tolerance {
					t.Fatalf("it is off by %s", off)
				}
				own.SetTime(own.Now().Add(123 * time.Millisecond))
			}
			if ago := c.Since(own.Now().Add(tt.want - time.Minute)); (ago - time.Minute).Abs() > tt.tolerance {
				t.Errorf("a minute ago is %s ago", ago)
			}
		})
	}
}

// The clock of this machine is corrected: the known offset must not be used any longer.
func TestServerClockFollowsItsOwn(t *testing.T) {
	own := clocktesting.NewFakePassiveClock(time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC))
	c := NewClock(own)
	ahead := c.Wrap(answers{own: own, ahead: time.Hour})
	right := c.Wrap(answers{own: own})
	for _, transport := range []http.RoundTripper{ahead, right} {
		if err := ask(transport); err != nil {
			t.Fatal(err)
		}
	}
	if off := c.Now().Sub(own.Now()).Abs(); off > time.Second {
		t.Errorf("it is off by %s", off)
	}
}

func TestServerClockPassesErrorsOn(t *testing.T) {
	want := errors.New("no route to host")
	c := NewClock(clocktesting.NewFakePassiveClock(time.Now()))
	if err := ask(c.Wrap(roundTripper(func(*http.Request) (*http.Response, error) { return nil, want }))); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
}
