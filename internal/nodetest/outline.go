// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// Outline is a plan in words, so that a test case fits on a line. Tokens are #1, #2 and so on, in the order of their ids.
type Outline struct {
	Phase       lifecycle.Phase
	Problem     string // its reason
	Reissue     bool
	Token       string // the one in the kubeconfig
	Mint        string // the one to be created, if no id is skipped
	Repair      string
	DeleteToken string
	DropConfig  bool
	Verdicts    string // "name: Approved"
	Misuse      string // the reason of the evidence that this reconcile found
	Serving     string // "Wait AddressReserved", for the newest CSR for a serving certificate
	DeleteCSR   string
}

func OutlineOf(p *lifecycle.Plan) Outline {
	o := Outline{Phase: p.Phase, Reissue: p.Reissue, DropConfig: p.DeleteKubeconfig != nil}
	if p.Problem != nil {
		o.Problem = p.Problem.Reason
	}
	if p.Misuse != nil {
		o.Misuse = p.Misuse.Reason
	}
	if p.Serving != nil {
		o.Serving = VerdictNames[p.Serving.Verdict] + " " + p.Serving.Reason
	}
	if p.Token != nil {
		o.Token = Ordinal(p.Token.ID)
	}
	if p.MintReason != "" {
		o.Mint = Ordinal(token.NextID(UID, p.LastTokenID))
	}
	ordinalOf := func(s *corev1.Secret) string { return Ordinal(strings.TrimPrefix(s.Name, "bootstrap-token-")) }
	var repairs, tokens, verdicts, requests []string
	for _, s := range p.RepairTokens {
		repairs = append(repairs, ordinalOf(s))
	}
	for _, d := range p.DeleteTokens {
		tokens = append(tokens, ordinalOf(d.Secret))
	}
	o.Repair, o.DeleteToken = strings.Join(repairs, " "), strings.Join(tokens, " ")
	for _, d := range p.Decisions {
		verdicts = append(verdicts, d.Request.Name+": "+verdictOf(d))
	}
	for _, d := range p.DeleteRequests {
		requests = append(requests, d.Request.Name)
	}
	o.Verdicts, o.DeleteCSR = strings.Join(verdicts, ", "), strings.Join(requests, " ")
	return o
}

var VerdictNames = map[csr.Verdict]string{csr.Leave: "Leave", csr.Approve: "Approve", csr.Deny: "Deny", csr.Wait: "Wait"}

// verdictOf is the recorded verdict of a decision; for a serving certificate, for which none is recorded first, the action.
func verdictOf(d lifecycle.Decision) string {
	if d.Record.UID == "" {
		return VerdictNames[d.Result.Verdict]
	}
	return string(d.Record.Verdict)
}

func Ordinal(id string) string {
	for n := range 20 {
		if NthID(n) == id {
			return fmt.Sprintf("#%d", n)
		}
	}
	return id
}

// A Planned case is facts, an edit of them, and the plan for the result.
type Planned struct {
	Facts *lifecycle.Facts
	Edit  func(*lifecycle.Facts)
	Want  Outline
}

func Plans(t *testing.T, tests map[string]Planned) {
	t.Helper()
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.Edit != nil {
				tt.Edit(tt.Facts)
			}
			before := metav1.ObjectMeta{}
			if tt.Facts.NodeBootstrap != nil {
				before = *tt.Facts.NodeBootstrap.ObjectMeta.DeepCopy()
			}
			p := Decide(tt.Facts, Now)
			if got := OutlineOf(&p); got != tt.Want {
				t.Errorf("got  %+v\nwant %+v", got, tt.Want)
			}
			if tt.Facts.NodeBootstrap != nil && !reflect.DeepEqual(before, tt.Facts.NodeBootstrap.ObjectMeta) {
				t.Error("the NodeBootstrap was changed")
			}
		})
	}
}
