// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
)

func TestDecideRequeues(t *testing.T) {
	renewal := nodetest.Token(1, nodetest.Young).RenewAt(nodetest.NodeBootstrap())
	tests := map[string]struct {
		facts *lifecycle.Facts
		edit  func(*lifecycle.Facts)
		want  time.Time
	}{
		"at the renewal":               {nodetest.Awaited(1, nodetest.Young), nil, renewal},
		"at the CA's end":              {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) { f.Cluster.CAExpires = nodetest.Now.Add(time.Hour) }, nodetest.Now.Add(time.Hour)},
		"at the deadline":              {nodetest.Awaited(1, nodetest.Young), nodetest.DeadlineAfter(90 * time.Minute), nodetest.Now.Add(30 * time.Minute)},
		"past the deadline, its end":   {nodetest.Awaited(1, nodetest.Due), nodetest.DeadlineAfter(30 * time.Minute), nodetest.Token(1, nodetest.Due).Expires},
		"no cluster, its end":          {nodetest.Awaited(1, nodetest.Young), nodetest.NoCluster, nodetest.Token(1, nodetest.Young).Expires},
		"the predecessor's end":        {nodetest.Awaited(2, nodetest.Young), func(f *lifecycle.Facts) { nodetest.AddToken(f, 1, 22*time.Hour) }, nodetest.Token(1, 22*time.Hour).Expires},
		"never, once joined":           {nodetest.JoinedBefore(), nil, time.Time{}},
		"never, without NodeBootstrap": {nodetest.Fresh(), func(f *lifecycle.Facts) { f.NodeBootstrap = nil }, time.Time{}},
		"a minute after an approval": {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) {
			f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, nodetest.Minutes(1), nodetest.Approved(10*time.Second))}
		}, nodetest.Now.Add(50 * time.Second)},
		"for its Node once it is issued": {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) {
			f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, nodetest.Minutes(1), nodetest.Approved(10*time.Second), nodetest.WithCertificate)}
		}, nodetest.Now.Add(5 * time.Second)},
		"not long after it is issued": {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) {
			f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, nodetest.Minutes(1), nodetest.Approved(20*time.Second), nodetest.WithCertificate)}
		}, renewal},
		"nor long after an approval": {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) {
			f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, nodetest.Minutes(3), nodetest.Approved(nodetest.Minutes(2)))}
		}, renewal},
		"a young Node, in a second":   {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) { f.Node = nodetest.NodeMade(time.Second) }, nodetest.Now.Add(time.Second)},
		"a Node of 100 s, in 10":      {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) { f.Node = nodetest.NodeMade(100 * time.Second) }, nodetest.Now.Add(10 * time.Second)},
		"an old Node, in ten minutes": {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) { f.Node = nodetest.NodeMade(nodetest.Old) }, nodetest.Now.Add(10 * time.Minute)},
		"the same, issued 100 s ago":  {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) { f.Node = nodetest.NodeMade(nodetest.Old); recorded(101*time.Second, 1)(f) }, nodetest.Now.Add(10 * time.Second)},
		"an old Node, the deadline nears": {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) {
			f.Node = nodetest.NodeMade(nodetest.Old)
			nodetest.DeadlineAfter(61 * time.Minute)(f)
		}, nodetest.Now.Add(time.Minute)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.edit != nil {
				tt.edit(tt.facts)
			}
			if p := nodetest.Decide(tt.facts, nodetest.Now); !p.RequeueAt.Equal(tt.want) {
				t.Errorf("got %s, want %s", p.RequeueAt, tt.want)
			}
		})
	}
}

func TestPlanSince(t *testing.T) {
	tests := map[string]struct {
		facts *lifecycle.Facts
		edit  func(*lifecycle.Facts)
		want  time.Time
	}{
		"never seen before": {nodetest.Fresh(), nil, nodetest.Now.Add(-time.Hour)},
		"awaited": {nodetest.Awaited(1, nodetest.Young), func(f *lifecycle.Facts) {
			f.NodeBootstrap.Status.AwaitingSince = new(nodetest.Ago(nodetest.Minutes(7)))
		}, nodetest.Now.Add(-nodetest.Minutes(7))},
		"a reissue is due":        {nodetest.Awaited(1, nodetest.Young), nodetest.AskReissue, nodetest.Now},
		"deleted after it joined": {nodetest.JoinedBefore(), func(f *lifecycle.Facts) { f.Node = nil }, nodetest.Now},
		"joined":                  {nodetest.JoinedBefore(), nil, time.Time{}},
		"no NodeBootstrap":        {nodetest.Fresh(), func(f *lifecycle.Facts) { f.NodeBootstrap = nil }, time.Time{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.edit != nil {
				tt.edit(tt.facts)
			}
			if p := nodetest.Decide(tt.facts, nodetest.Now); !p.Since.Equal(tt.want) {
				t.Errorf("got %s, want %s", p.Since, tt.want)
			}
		})
	}
}

func TestRequeueByTakesTheEarliest(t *testing.T) {
	var p lifecycle.Plan
	for _, at := range []time.Duration{2 * time.Hour, time.Hour, 3 * time.Hour} {
		p.RequeueBy(nodetest.Now.Add(at))
	}
	if want := nodetest.Now.Add(time.Hour); !p.RequeueAt.Equal(want) {
		t.Errorf("got %s, want %s", p.RequeueAt, want)
	}
}

func TestDecideWithoutNodeBootstrap(t *testing.T) {
	gone := func(f *lifecycle.Facts) { f.NodeBootstrap = nil }
	nodetest.Plans(t, map[string]nodetest.Planned{
		"no objects":          {Facts: nodetest.Fresh(), Edit: gone, Want: nodetest.Outline{Phase: lifecycle.Gone}},
		"leftovers":           {Facts: nodetest.Awaited(1, nodetest.Young), Edit: gone, Want: nodetest.Outline{Phase: lifecycle.Gone, DeleteToken: "#1", DropConfig: true}},
		"two tokens":          {Facts: nodetest.Awaited(1, nodetest.Due), Edit: func(f *lifecycle.Facts) { gone(f); nodetest.AddToken(f, 2, nodetest.Young) }, Want: nodetest.Outline{Phase: lifecycle.Gone, DeleteToken: "#1 #2", DropConfig: true}},
		"a token, malformed":  {Facts: nodetest.Awaited(1, nodetest.Young), Edit: func(f *lifecycle.Facts) { gone(f); f.TokenSecrets[0].Data = nil }, Want: nodetest.Outline{Phase: lifecycle.Gone, DeleteToken: "#1", DropConfig: true}},
		"another's Secret":    {Facts: nodetest.Fresh(), Edit: func(f *lifecycle.Facts) { gone(f); f.Kubeconfig = nodetest.ForeignKubeconfig() }, Want: nodetest.Outline{Phase: lifecycle.Gone}},
		"a Node that is left": {Facts: nodetest.Fresh(), Edit: func(f *lifecycle.Facts) { gone(f); f.Node = nodetest.NodeMade(nodetest.Young) }, Want: nodetest.Outline{Phase: lifecycle.Gone}},
	})
}

func TestDecideMintsAMissingToken(t *testing.T) {
	first := nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#1"}
	nodetest.Plans(t, map[string]nodetest.Planned{
		"fresh":                      {Facts: nodetest.Fresh(), Edit: nil, Want: first},
		"bindings are pending":       {Facts: nodetest.Fresh(), Edit: func(f *lifecycle.Facts) { f.BindingsProblem = &problem.Problem{Reason: v1alpha1.ReasonBindingsPending} }, Want: first},
		"before the deadline":        {Facts: nodetest.Fresh(), Edit: nodetest.DeadlineAfter(2 * time.Hour), Want: first},
		"a Node created in advance":  {Facts: nodetest.Fresh(), Edit: func(f *lifecycle.Facts) { f.Node = nodetest.NodeMade(nodetest.Young) }, Want: first},
		"a reissue from the start":   {Facts: nodetest.Fresh(), Edit: nodetest.AskReissue, Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Mint: "#1"}},
		"no cluster":                 {Facts: nodetest.Fresh(), Edit: nodetest.NoCluster, Want: nodetest.Outline{Phase: lifecycle.Awaited, Problem: v1alpha1.ReasonServerUnknown}},
		"another's binding":          {Facts: nodetest.Fresh(), Edit: func(f *lifecycle.Facts) { f.BindingsProblem = &problem.Problem{Reason: v1alpha1.ReasonObjectNotOurs} }, Want: nodetest.Outline{Phase: lifecycle.Awaited, Problem: v1alpha1.ReasonObjectNotOurs}},
		"another's Secret":           {Facts: nodetest.Fresh(), Edit: func(f *lifecycle.Facts) { f.Kubeconfig = nodetest.ForeignKubeconfig() }, Want: nodetest.Outline{Phase: lifecycle.Awaited, Problem: v1alpha1.ReasonObjectNotOurs}},
		"a kubeconfig without token": {Facts: nodetest.Fresh(), Edit: func(f *lifecycle.Facts) { f.Kubeconfig = nodetest.KubeconfigSecret(1) }, Want: first},
		"the same and no cluster": {Facts: nodetest.Fresh(), Edit: func(f *lifecycle.Facts) { nodetest.NoCluster(f); f.Kubeconfig = nodetest.KubeconfigSecret(1) },
			Want: nodetest.Outline{Phase: lifecycle.Awaited, Problem: v1alpha1.ReasonServerUnknown, DropConfig: true}},
		"the token deleted by hand": {Facts: nodetest.Awaited(2, nodetest.Young), Edit: func(f *lifecycle.Facts) { f.TokenSecrets = nil }, Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#3"}},
		"the token expired":         {Facts: nodetest.Awaited(2, nodetest.Old), Edit: nil, Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#3", DeleteToken: "#2"}},
		"expired and no cluster":    {Facts: nodetest.Awaited(2, nodetest.Old), Edit: nodetest.NoCluster, Want: nodetest.Outline{Phase: lifecycle.Awaited, Problem: v1alpha1.ReasonServerUnknown, DeleteToken: "#2", DropConfig: true}},
		"the status names no token": {Facts: nodetest.Awaited(2, nodetest.Young), Edit: func(f *lifecycle.Facts) { f.TokenSecrets, f.NodeBootstrap.Status.LastTokenID = nil, "" }, Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#3"}},
		"one long ago":              {Facts: nodetest.Fresh(), Edit: func(f *lifecycle.Facts) { f.NodeBootstrap.Status.LastTokenID = nodetest.NthID(4) }, Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#5"}},
		"the token malformed": {Facts: nodetest.Awaited(2, nodetest.Young), Edit: func(f *lifecycle.Facts) { f.TokenSecrets[0].Data["token-secret"] = []byte("x") },
			Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#3", DeleteToken: "#2"}},
		"the token being deleted": {Facts: nodetest.Awaited(2, nodetest.Young), Edit: func(f *lifecycle.Facts) { f.TokenSecrets[0].DeletionTimestamp = new(nodetest.Ago(0)) },
			Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#3", DeleteToken: "#2"}},
		"a token of a former NodeBootstrap": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: func(f *lifecycle.Facts) {
			f.TokenSecrets[0].OwnerReferences[0].UID = nodetest.FormerUID
			f.NodeBootstrap.Status = v1alpha1.NodeBootstrapStatus{}
		}, Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#1", DeleteToken: "#1"}},
		"a token that was orphaned": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: func(f *lifecycle.Facts) {
			f.TokenSecrets[0].OwnerReferences = nil
			f.NodeBootstrap.Status = v1alpha1.NodeBootstrapStatus{}
		}, Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#1", DeleteToken: "#1"}},
	})
}

func TestDecideKeepsTheLiveToken(t *testing.T) {
	second := nodetest.Outline{Phase: lifecycle.Awaited, Token: "#2"}
	ttl := func(d time.Duration) func(*lifecycle.Facts) {
		return func(f *lifecycle.Facts) { f.NodeBootstrap.Spec.Token.TTL = &metav1.Duration{Duration: d} }
	}
	repaired := nodetest.Outline{Phase: lifecycle.Awaited, Token: "#2", Repair: "#2"}
	data := func(k, v string) func(*lifecycle.Facts) {
		return func(f *lifecycle.Facts) { f.TokenSecrets[0].Data[k] = []byte(v) }
	}
	nodetest.Plans(t, map[string]nodetest.Planned{
		"live":                    {Facts: nodetest.Awaited(2, nodetest.Young), Edit: nil, Want: second},
		"live, not in the status": {Facts: nodetest.Awaited(2, nodetest.Young), Edit: func(f *lifecycle.Facts) { f.NodeBootstrap.Status = v1alpha1.NodeBootstrapStatus{} }, Want: second},
		"live, no kubeconfig yet": {Facts: nodetest.Awaited(2, nodetest.Young), Edit: func(f *lifecycle.Facts) { f.Kubeconfig = nil }, Want: second},
		"live and no cluster":     {Facts: nodetest.Awaited(2, nodetest.Young), Edit: nodetest.NoCluster, Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#2", Problem: v1alpha1.ReasonServerUnknown}},
		"groups edited":           {Facts: nodetest.Awaited(2, nodetest.Young), Edit: data("auth-extra-groups", "system:bootstrappers:x"), Want: repaired},
		"put off":                 {Facts: nodetest.Awaited(2, nodetest.Young), Edit: data("expiration", "2046-03-04T05:06:07Z"), Want: repaired},
		"expired by an edit":      {Facts: nodetest.Awaited(2, nodetest.Young), Edit: data("expiration", "2006-03-04T05:06:07Z"), Want: repaired},
		"no end":                  {Facts: nodetest.Awaited(2, nodetest.Young), Edit: func(f *lifecycle.Facts) { delete(f.TokenSecrets[0].Data, "expiration") }, Want: repaired},
		"may sign":                {Facts: nodetest.Awaited(2, nodetest.Young), Edit: data("usage-bootstrap-signing", "true"), Want: repaired},
		"may not authenticate":    {Facts: nodetest.Awaited(2, nodetest.Young), Edit: data("usage-bootstrap-authentication", "false"), Want: repaired},
		"edited and no cluster": {Facts: nodetest.Awaited(2, nodetest.Young), Edit: func(f *lifecycle.Facts) { nodetest.NoCluster(f); data("auth-extra-groups", "")(f) },
			Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#2", Repair: "#2", Problem: v1alpha1.ReasonServerUnknown}},
		"a longer ttl requested":  {Facts: nodetest.Awaited(2, nodetest.Young), Edit: ttl(48 * time.Hour), Want: second},
		"a shorter ttl requested": {Facts: nodetest.Awaited(2, nodetest.Young), Edit: ttl(2 * time.Hour), Want: repaired},
		"a ttl that has passed":   {Facts: nodetest.Awaited(2, nodetest.Young), Edit: ttl(30 * time.Minute), Want: repaired},
		"after the deadline":      {Facts: nodetest.Awaited(2, nodetest.Young), Edit: nodetest.DeadlineAfter(30 * time.Minute), Want: second},
		"put off and expired": {Facts: nodetest.Awaited(2, nodetest.Old), Edit: data("expiration", "2046-03-04T05:06:07Z"),
			Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#3", DeleteToken: "#2"}},
	})
}

func TestDecideRenews(t *testing.T) {
	renewed := func(n int, age, before time.Duration) *lifecycle.Facts {
		f := nodetest.Awaited(n, age)
		nodetest.AddToken(f, n-1, before)
		return f
	}
	nodetest.Plans(t, map[string]nodetest.Planned{
		"due":                     {Facts: nodetest.Awaited(2, nodetest.Due), Edit: nil, Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#2", Mint: "#3"}},
		"due and no cluster":      {Facts: nodetest.Awaited(2, nodetest.Due), Edit: nodetest.NoCluster, Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#2", Problem: v1alpha1.ReasonServerUnknown}},
		"due after the deadline":  {Facts: nodetest.Awaited(2, nodetest.Due), Edit: nodetest.DeadlineAfter(30 * time.Minute), Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#2"}},
		"due at the deadline":     {Facts: nodetest.Awaited(2, nodetest.Due), Edit: nodetest.DeadlineAfter(time.Hour), Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#2"}},
		"due before the deadline": {Facts: nodetest.Awaited(2, nodetest.Due), Edit: nodetest.DeadlineAfter(time.Hour + time.Second), Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#2", Mint: "#3"}},
		"renewed":                 {Facts: renewed(3, nodetest.Young, nodetest.Due), Edit: nil, Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#3"}},
		"renewed in the same second": {Facts: renewed(3, nodetest.Young, nodetest.Young), Edit: func(f *lifecycle.Facts) { f.TokenSecrets[0], f.TokenSecrets[1] = f.TokenSecrets[1], f.TokenSecrets[0] },
			Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#3"}},
		"renewed, a crash before the status": {Facts: renewed(3, nodetest.Young, nodetest.Due), Edit: func(f *lifecycle.Facts) { f.NodeBootstrap.Status = nodetest.StatusOf(2, nodetest.Due) }, Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#3"}},
		"renewed, the old one expired":       {Facts: renewed(3, nodetest.Young, nodetest.Old), Edit: nil, Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#3", DeleteToken: "#2"}},
		"renewed, then deleted by hand": {Facts: nodetest.Awaited(2, nodetest.Due), Edit: func(f *lifecycle.Facts) { f.NodeBootstrap.Status = nodetest.StatusOf(3, nodetest.Young) },
			Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#2", Mint: "#4"}},
		"three live": {Facts: renewed(3, nodetest.Young, 2*time.Hour), Edit: func(f *lifecycle.Facts) { nodetest.AddToken(f, 1, 3*time.Hour) }, Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#3", DeleteToken: "#1"}},
		"three live in another order": {Facts: nodetest.Awaited(1, 3*time.Hour), Edit: func(f *lifecycle.Facts) {
			nodetest.AddToken(f, 3, nodetest.Young)
			nodetest.AddToken(f, 2, 2*time.Hour)
		},
			Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#3", DeleteToken: "#1"}},
		"both edited": {Facts: renewed(3, nodetest.Young, nodetest.Due), Edit: func(f *lifecycle.Facts) {
			for _, s := range f.TokenSecrets {
				delete(s.Data, "auth-extra-groups")
			}
		}, Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#3", Repair: "#3 #2"}},
	})
}

func TestDecideAfterTheDeadline(t *testing.T) {
	after := nodetest.DeadlineAfter(30 * time.Minute)
	nodetest.Plans(t, map[string]nodetest.Planned{
		"no token":             {Facts: nodetest.Fresh(), Edit: after, Want: nodetest.Outline{Phase: lifecycle.DeadlineExceeded}},
		"at the deadline":      {Facts: nodetest.Fresh(), Edit: nodetest.DeadlineAfter(time.Hour), Want: nodetest.Outline{Phase: lifecycle.DeadlineExceeded}},
		"the token expired":    {Facts: nodetest.Awaited(1, nodetest.Old), Edit: after, Want: nodetest.Outline{Phase: lifecycle.DeadlineExceeded, DeleteToken: "#1", DropConfig: true}},
		"no token, no cluster": {Facts: nodetest.Fresh(), Edit: func(f *lifecycle.Facts) { after(f); nodetest.NoCluster(f) }, Want: nodetest.Outline{Phase: lifecycle.DeadlineExceeded, Problem: v1alpha1.ReasonServerUnknown}},
		"another's Secret":     {Facts: nodetest.Fresh(), Edit: func(f *lifecycle.Facts) { after(f); f.Kubeconfig = nodetest.ForeignKubeconfig() }, Want: nodetest.Outline{Phase: lifecycle.DeadlineExceeded, Problem: v1alpha1.ReasonObjectNotOurs}},
		"reissued since":       {Facts: nodetest.Awaited(1, nodetest.Old), Edit: func(f *lifecycle.Facts) { after(f); nodetest.AskReissue(f) }, Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Mint: "#2", DeleteToken: "#1"}},
		"awaited since late": {Facts: nodetest.Awaited(1, nodetest.Old), Edit: func(f *lifecycle.Facts) {
			after(f)
			f.NodeBootstrap.Status.AwaitingSince = new(nodetest.Ago(time.Minute))
		}, Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#2", DeleteToken: "#1"}},
	})
}

func TestDecideReissues(t *testing.T) {
	handled := func(f *lifecycle.Facts) {
		nodetest.AskReissue(f)
		f.NodeBootstrap.Status.LastHandledReissueAt = nodetest.ReissueAt
	}
	nodetest.Plans(t, map[string]nodetest.Planned{
		"due":                {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.AskReissue, Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Mint: "#2", DeleteToken: "#1"}},
		"due and no cluster": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: func(f *lifecycle.Facts) { nodetest.AskReissue(f); nodetest.NoCluster(f) }, Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Problem: v1alpha1.ReasonServerUnknown, DeleteToken: "#1", DropConfig: true}},
		"another one due": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: func(f *lifecycle.Facts) {
			nodetest.AskReissue(f)
			f.NodeBootstrap.Status.LastHandledReissueAt = "before"
		}, Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Mint: "#2", DeleteToken: "#1"}},
		"handled":              {Facts: nodetest.Awaited(1, nodetest.Young), Edit: handled, Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1"}},
		"of a joined node":     {Facts: nodetest.JoinedBefore(), Edit: nodetest.AskReissue, Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Mint: "#2"}},
		"crashed after mint":   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: func(f *lifecycle.Facts) { nodetest.AskReissue(f); f.TokenSecrets = nil; nodetest.AddToken(f, 2, 0) }, Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Token: "#2"}},
		"crashed in between":   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: func(f *lifecycle.Facts) { nodetest.AskReissue(f); f.TokenSecrets = nil }, Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Mint: "#2"}},
		"deleted by a stale":   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: func(f *lifecycle.Facts) { nodetest.AskReissue(f); nodetest.AddToken(f, 2, 0) }, Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Token: "#2", DeleteToken: "#1"}},
		"joined, then crashed": {Facts: nodetest.JoinedBefore(), Edit: func(f *lifecycle.Facts) { nodetest.AskReissue(f); nodetest.AddToken(f, 2, 0) }, Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Token: "#2"}},
		"annotation taken out": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: func(f *lifecycle.Facts) { handled(f); f.NodeBootstrap.Annotations = nil }, Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1"}},
	})
}

// A reissue means that the credential is no longer trusted. The token that was renewed is just as old.
func TestReissueRevokesThePredecessorToo(t *testing.T) {
	f := nodetest.Awaited(2, nodetest.Young)
	nodetest.AddToken(f, 1, nodetest.Due)
	nodetest.AskReissue(f)
	nodetest.Plans(t, map[string]nodetest.Planned{
		"due, the predecessor lives": {Facts: f, Edit: nil, Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Mint: "#3", DeleteToken: "#2 #1"}},
	})
}

// The first token was published, and the operator crashed before the status named it. Then it leaked, and a reissue was requested: it
// must not pass for the token that was created for the reissue.
func TestReissueRevokesATokenThatTheStatusDoesNotTellOf(t *testing.T) {
	for name, lastTold := range map[string]string{"the first": "", "a later one": nodetest.NthID(1)} {
		f := nodetest.Fresh()
		n := 1
		if lastTold != "" {
			n = 2
		}
		nodetest.AddToken(f, n, nodetest.Young)
		f.Kubeconfig = nodetest.KubeconfigSecret(n)
		f.NodeBootstrap.Status.LastTokenID = lastTold
		nodetest.AskReissue(f)
		p := nodetest.Decide(f, nodetest.Now)
		if o := nodetest.OutlineOf(&p); o.Token != "" || o.Mint == "" || o.DeleteToken == "" {
			t.Errorf("%s: it lives on: %+v", name, o)
		}
	}
}

func TestRevokes(t *testing.T) {
	decide := func(v csr.Verdict) []lifecycle.Decision {
		return []lifecycle.Decision{{Result: csr.Result{Verdict: v}}}
	}
	for name, tt := range map[string]struct {
		p    lifecycle.Plan
		want bool
	}{
		"nothing":             {lifecycle.Plan{}, false},
		"an approval":         {lifecycle.Plan{Decisions: decide(csr.Approve)}, false},
		"a token is created":  {lifecycle.Plan{MintReason: lifecycle.ReasonRenewed}, false},
		"a denial":            {lifecycle.Plan{Decisions: decide(csr.Deny)}, true},
		"a token goes":        {lifecycle.Plan{DeleteTokens: []lifecycle.TokenDeletion{{}}}, true},
		"a request goes":      {lifecycle.Plan{DeleteRequests: []lifecycle.RequestDeletion{{}}}, true},
		"the kubeconfig goes": {lifecycle.Plan{DeleteKubeconfig: &corev1.Secret{}}, true},
	} {
		if got := tt.p.Revokes(); got != tt.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	for name, f := range nodetest.Situations() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				nodetest.Decide(f, nodetest.Now)
			}
		})
	}
}
