// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// A watched store: what is stored has revisions, and a watch shows them in order, some time later.
type watchedStore struct {
	revision, shown int
}

func (s *watchedStore) write() string {
	s.revision++
	return strconv.Itoa(s.revision)
}

// Whatever is stored by whomever, and however late answers and events come: when the cache is said to show all that was stored
// before a question, it does.
func TestFreshnessIsNeverWrong(t *testing.T) {
	answered := 0
	rapid.Check(t, func(t *rapid.T) {
		var f freshness
		store := watchedStore{revision: 10, shown: 10}
		version := "10"               // of the NodeBootstrap that is written
		questions := map[int]int{}    // the revision of the store when one was asked
		sent := map[int]struct{}{}    // writes that were sent and not stored
		stored := map[int][2]string{} // writes that were stored and not answered: the version before, and after
		t.Repeat(map[string]func(*rapid.T){
			"ask":     func(*rapid.T) { questions[f.tick()] = store.revision },
			"another": func(*rapid.T) { store.write() },
			"send":    func(*rapid.T) { sent[f.sends()] = struct{}{} },
			"store": func(t *rapid.T) {
				at := anyOf(t, sent)
				delete(sent, at)
				before := version
				switch rapid.SampledFrom([]string{"stored", "changes nothing", "fails"}).Draw(t, "end") {
				case "stored":
					version = store.write()
					stored[at] = [2]string{before, version}
				default:
					stored[at] = [2]string{before, before}
				}
			},
			"answer": func(t *rapid.T) {
				at := anyOf(t, stored)
				f.answered(at, stored[at][0], stored[at][1])
				delete(stored, at)
			},
			"event": func(t *rapid.T) {
				if store.shown == store.revision {
					t.Skip()
				}
				store.shown++
				f.shows(strconv.Itoa(store.shown))
			},
			"list again": func(t *rapid.T) {
				store.shown = rapid.IntRange(store.shown, store.revision).Draw(t, "revision")
				f.shows(strconv.Itoa(rapid.IntRange(1, store.shown).Draw(t, "an old object")))
				f.shows(strconv.Itoa(store.shown))
			},
			"": func(t *rapid.T) {
				for asked, revision := range questions {
					if f.known <= asked {
						continue
					}
					if store.shown < revision {
						t.Fatalf("asked at revision %d, and the cache is said to be there, which shows %d", revision, store.shown)
					}
					answered++
					delete(questions, asked)
				}
			},
		})
	})
	if answered == 0 {
		t.Error("no question was ever answered")
	}
}

func anyOf[V any](t *rapid.T, m map[int]V) int {
	if len(m) == 0 {
		t.Skip()
	}
	return rapid.SampledFrom(slices.Sorted(maps.Keys(m))).Draw(t, "which")
}

// Whoever is the first reads live at once. Others wait for what tells them, and no longer than that can come.
func TestFreshnessWaitsForWhatCanCome(t *testing.T) {
	for name, tt := range map[string]struct {
		// others is what is done by others: before somebody asks until it calls meanwhile, and then while that one waits.
		others func(f *freshness, meanwhile func())
		want   bool
		after  time.Duration
	}{
		"nobody else writes": {func(*freshness, func()) {}, false, 0},
		"another pass writes": {func(f *freshness, meanwhile func()) {
			f.await(t.Context(), "first")
			meanwhile()
			f.answered(f.sends(), "1", "2")
			f.ended("first")
			<-time.After(time.Millisecond)
			f.shows("2")
		}, true, time.Millisecond},
		"the event comes before the answer": {func(f *freshness, meanwhile func()) {
			f.await(t.Context(), "first")
			meanwhile()
			sent := f.sends()
			f.shows("2")
			<-time.After(time.Millisecond)
			f.answered(sent, "1", "2")
		}, true, time.Millisecond},
		"another pass fails": {func(f *freshness, meanwhile func()) {
			f.await(t.Context(), "first")
			meanwhile()
			f.answered(f.sends(), "1", "1")
			<-time.After(time.Millisecond)
			f.ended("first")
		}, false, time.Millisecond},
		"a write fails of a pass that did not ask": {func(f *freshness, meanwhile func()) {
			f.await(t.Context(), "first")
			meanwhile()
			sent := f.sends()
			f.ended("first")
			<-time.After(time.Millisecond)
			f.answered(sent, "1", "1")
		}, false, time.Millisecond},
		"an object is shown that is older": {func(f *freshness, meanwhile func()) {
			f.await(t.Context(), "first")
			meanwhile()
			sent := f.sends()
			f.shows("3")
			f.shows("1")
			<-time.After(time.Millisecond)
			f.answered(sent, "1", "2")
		}, true, time.Millisecond},
		"a write from before is on its way": {func(f *freshness, _ func()) {
			f.answered(f.sends(), "1", "2")
		}, false, 0},
		"a write was sent before": {func(f *freshness, meanwhile func()) {
			f.await(t.Context(), "first")
			sent := f.sends()
			meanwhile()
			f.answered(sent, "1", "2")
			f.shows("2")
			<-time.After(time.Millisecond)
			f.ended("first")
		}, false, time.Millisecond},
		"the watch stands still": {func(f *freshness, meanwhile func()) {
			f.await(t.Context(), "first")
			meanwhile()
			f.answered(f.sends(), "1", "2")
			f.ended("first")
		}, false, freshnessPatience},
		"versions have no order": {func(f *freshness, meanwhile func()) {
			f.await(t.Context(), "first")
			meanwhile()
			f.answered(f.sends(), "a", "b")
			f.shows("b")
			f.ended("first")
		}, false, freshnessPatience},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var f freshness
				asks, asked := make(chan struct{}), make(chan struct{})
				go tt.others(&f, func() {
					close(asks)
					<-asked
				})
				synctest.Wait()
				began, got := time.Now(), make(chan bool)
				go func() { got <- f.await(t.Context(), "second") }()
				synctest.Wait() // it waits, or has its answer
				close(asked)
				if known := <-got; known != tt.want || time.Since(began) != tt.after {
					t.Errorf("known: %t after %s, want %t after %s", known, time.Since(began), tt.want, tt.after)
				}
			})
		})
	}
}

func TestFreshnessDoesNotOutliveItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f freshness
		f.await(t.Context(), "first")
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		began := time.Now()
		if f.await(ctx, "second") || time.Since(began) != time.Millisecond {
			t.Errorf("it waited for %s", time.Since(began))
		}
	})
}

// Writes that never come back, as when the watch is broken for long, do not pile up.
func TestFreshnessForgetsWhatNeverComesBack(t *testing.T) {
	var f freshness
	first := f.sends()
	for range 3 * maxAway {
		f.answered(f.sends(), "1", "9")
		if len(f.away) > maxAway {
			t.Fatalf("%d writes are remembered", len(f.away))
		}
	}
	f.answered(first, "1", "2")
	if f.shows("2"); f.known != 0 {
		t.Error("a forgotten write tells something")
	}
}

// When etcd was restored from a backup, new versions are older than what the cache has shown. They tell nothing until the cache
// shows them, too.
func TestFreshnessWhenVersionsGoBack(t *testing.T) {
	var f freshness
	f.shows("1000")
	asked := f.tick()
	other := f.sends()
	f.answered(f.sends(), "400", "500")
	f.answered(other, "401", "501")
	if f.known != 0 {
		t.Error("a write from after the backup tells something before it has come back")
	}
	f.shows("502")
	if f.known != 0 {
		t.Error("a forgotten write tells something")
	}
	sent := f.sends()
	f.answered(sent, "500", "503")
	if f.known != 0 {
		t.Error("it has not come back yet")
	}
	f.shows("503")
	if f.known != sent || f.known < asked {
		t.Errorf("it has come back, and all is known up to %d, not %d", f.known, sent)
	}
}
