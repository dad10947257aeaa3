// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// A kubelet without a disk asks with a new key at each start, and with approval ClusterWide each gets its certificate. The
// cache lists the requests in any order.
func TestReportDoesNotRotateALongHistory(t *testing.T) {
	f := awaited(1, young)
	for i := range 12 {
		f.Requests = append(f.Requests, request(fmt.Sprintf("csr-%d", i), 1, time.Duration(60-i)*time.Minute, approved(time.Duration(59-i)*time.Minute), withCertificate))
	}
	p, o := decide(f, now), published(1, young)
	first := Report(f, &p, &o, now)
	f.NodeBootstrap.Status = *first
	slices.Reverse(f.Requests)
	again := Report(f, &p, &o, now)
	if asJSON(first) != asJSON(again) {
		t.Error("the status changes with the order in which requests are listed")
	}
	if events := Events(first, again); len(events) > 0 {
		t.Errorf("%d events are told again, such as %+v", len(events), events[0])
	}
}
