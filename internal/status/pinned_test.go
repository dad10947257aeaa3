// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

// Nothing is stored before the approval of a pinned key; the denial of another one is.
func TestPinnedKeyIsNotClaimed(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	nodetest.Edits(nodetest.Pins("pin"), nodetest.Further(nodetest.Request("pin", 1, nodetest.Minutes(1))))(f)
	f.NodeBootstrap.Status.Tokens = []v1alpha1.LiveToken{{ID: nodetest.NthID(1)}}
	p := nodetest.Decide(f, nodetest.Now)
	if s := status.Claimed(&p, f, nodetest.Now); len(p.Decisions) != 1 || s != nil {
		t.Errorf("of %d decisions this is stored first: %s", len(p.Decisions), nodetest.AsJSON(s))
	}
	nodetest.Further(nodetest.Request("thief", 1, nodetest.Minutes(1)))(f)
	p = nodetest.Decide(f, nodetest.Now)
	if s := status.Claimed(&p, f, nodetest.Now); s == nil || len(s.Certificates) != 1 || s.Certificates[0].Name != "thief" {
		t.Errorf("this is stored first: %s", nodetest.AsJSON(s))
	}
}

// Ready stays True and names the pinned key, whatever others have sent.
func TestReadyWithAPinnedKey(t *testing.T) {
	delayed := func(f *lifecycle.Facts) {
		f.NodeBootstrap.Spec.ClientCertificate.ApprovalDelay = &metav1.Duration{Duration: time.Minute}
	}
	conflict := func(f *lifecycle.Facts) {
		f.NodeBootstrap.Status.Keys = []v1alpha1.SentKey{{TokenID: nodetest.NthID(1), Name: "pin"}, {TokenID: nodetest.NthID(1), Name: "thief"}}
	}
	waits := nodetest.Further(nodetest.Request("pin", 1, 0))
	denied := nodetest.Records(nodetest.ApprovedDecision("first", 1, nodetest.Minutes(2)), nodetest.Because(csr.ReasonKeyReplaced, nodetest.DeniedDecision("second", 1, nodetest.Minutes(1))))
	for name, c := range map[string]struct {
		edit func(*lifecycle.Facts)
		says string
	}{
		"nothing was sent":          {nodetest.Unchanged, "only the pinned key SHA256:"},
		"after an alarm":            {nodetest.Raised(csr.ReasonKeyNotPinned), "Only the pinned key SHA256:"},
		"several keys were held":    {nodetest.Edits(delayed, conflict, waits), "only the pinned key SHA256:"},
		"several keys are sent":     {nodetest.Edits(delayed, waits, nodetest.Further(nodetest.Request("thief", 1, 0))), "Only the pinned key SHA256:"},
		"a key was replaced before": {denied, ""},
	} {
		f := nodetest.Awaited(1, nodetest.Young)
		nodetest.Edits(nodetest.Pins("pin"), c.edit)(f)
		s := reported(f, published(1, nodetest.Young))
		if got := nodetest.Short(s, v1alpha1.ConditionReady); got != "True AwaitingNode" || !strings.Contains(readyMessage(s), c.says) {
			t.Errorf("%s: Ready is %s: %s", name, got, readyMessage(s))
		}
	}
}
