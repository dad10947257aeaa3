// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// outline is a plan in words, so that a case says what it expects in a line. Tokens are #1, #2 and so on, in the order in
// which the operator gives their ids.
type outline struct {
	phase       Phase
	problem     string // its reason
	reissue     bool
	token       string // the one that the kubeconfig carries
	mint        string // the one that would be made, if no id is taken
	repair      string
	deleteToken string
	dropConfig  bool
	verdicts    string // "name: Approved"
	misuse      string // the reason of the evidence that this pass found
	serving     string // "Wait AddressReserved", of the newest request for a serving certificate
	deleteCSR   string
}

func outlineOf(p *Plan) outline {
	o := outline{phase: p.Phase, reissue: p.Reissue, dropConfig: p.DeleteKubeconfig != nil}
	if p.Problem != nil {
		o.problem = p.Problem.Reason
	}
	if p.Misuse != nil {
		o.misuse = p.Misuse.Reason
	}
	if p.Serving != nil {
		o.serving = verdictNames[p.Serving.Verdict] + " " + p.Serving.Reason
	}
	if p.Token != nil {
		o.token = ordinal(p.Token.ID)
	}
	if p.MintAfter != nil {
		o.mint = ordinal(NextTokenID(testUID, *p.MintAfter))
	}
	names := func(secrets []*corev1.Secret) string {
		var out []string
		for _, s := range secrets {
			id, ok := strings.CutPrefix(s.Name, "bootstrap-token-")
			if !ok {
				id = s.Name
			}
			out = append(out, ordinal(id))
		}
		return strings.Join(out, " ")
	}
	o.repair, o.deleteToken = names(p.RepairTokens), names(p.DeleteTokens)
	var verdicts, requests []string
	for _, d := range p.Decisions {
		verdicts = append(verdicts, d.Request.Name+": "+verdictOf(d))
	}
	for _, r := range p.DeleteRequests {
		requests = append(requests, r.Name)
	}
	o.verdicts, o.deleteCSR = strings.Join(verdicts, ", "), strings.Join(requests, " ")
	return o
}

var verdictNames = map[csr.Verdict]string{csr.Leave: "Leave", csr.Approve: "Approve", csr.Deny: "Deny", csr.Wait: "Wait"}

// verdictOf is what is recorded of a decision; on a serving certificate, of which nothing is recorded before, what is done.
func verdictOf(d Decision) string {
	if d.Record.UID == "" {
		return verdictNames[d.Result.Verdict]
	}
	return string(d.Record.Verdict)
}

func ordinal(id string) string {
	for n := range 20 {
		if nthID(n) == id {
			return fmt.Sprintf("#%d", n)
		}
	}
	return id
}

// A planned case is facts that are spoiled from good ones, and the plan for them.
type planned struct {
	facts *Facts
	edit  func(*Facts)
	want  outline
}

func testPlans(t *testing.T, tests map[string]planned) {
	t.Helper()
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.edit != nil {
				tt.edit(tt.facts)
			}
			before := metav1.ObjectMeta{}
			if tt.facts.NodeBootstrap != nil {
				before = *tt.facts.NodeBootstrap.ObjectMeta.DeepCopy()
			}
			p := decide(tt.facts, now)
			if got := outlineOf(&p); got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
			if tt.facts.NodeBootstrap != nil && !reflect.DeepEqual(before, tt.facts.NodeBootstrap.ObjectMeta) {
				t.Error("the NodeBootstrap was changed")
			}
		})
	}
}
