// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

// A moment is an event, with the expected state after it: the phase, the tokens, the Ready condition and the alarm in short, and the
// warning events.
type moment struct {
	happens  func(*lifecycle.Facts)
	phase    lifecycle.Phase
	tokens   string
	ready    string
	alarm    string
	warnings string
}

// play applies a story, with three reconciles after each of its moments.
func play(t *testing.T, f *lifecycle.Facts, story ...moment) {
	t.Helper()
	for i, m := range story {
		m.happens(f)
		for n, r := range f.Requests {
			f.Requests[n] = r.DeepCopy()
		}
		var p lifecycle.Plan
		var warnings, tokens []string
		for range 3 {
			var events []status.Event
			p, _, events = reconcile(f)
			for _, e := range events {
				if e.Type == "Warning" {
					warnings = append(warnings, e.Reason)
				}
			}
		}
		for _, s := range f.TokenSecrets {
			tokens = append(tokens, nodetest.Ordinal(strings.TrimPrefix(s.Name, "bootstrap-token-")))
		}
		s := &f.NodeBootstrap.Status
		got := moment{phase: p.Phase, tokens: strings.Join(tokens, " "), ready: nodetest.Short(s, v1alpha1.ConditionReady), warnings: strings.Join(warnings, " ")}
		if c := nodetest.AlarmOf(s); c != nil {
			got.alarm = c.Reason
		}
		m.happens = nil
		if got.phase != m.phase || got.tokens != m.tokens || got.ready != m.ready || got.alarm != m.alarm || got.warnings != m.warnings {
			t.Errorf("moment %d:\ngot  %+v\nwant %+v", i, got, m)
		}
		if (s.Token != nil) != (p.Token != nil) || (s.KubeconfigSecretRef != nil) != (f.Kubeconfig != nil) {
			t.Errorf("moment %d: the status names the token %v and the kubeconfig %v", i, s.Token, s.KubeconfigSecretRef)
		}
	}
}

const (
	waits, isWithdrawn, hasJoined = "True AwaitingNode", "False TokenMisused", "True Joined"
	denies                        = "CertificateDenied TokenMisused"
	approves                      = "CertificateApproved TokenMisused" // someone else does
	conflict                      = " SeveralKeys"
	outlives                      = " IssuedBeforeRevocation"
)

func TestTheftIsAnsweredByAReissue(t *testing.T) {
	play(t, nodetest.Fresh(),
		moment{nodetest.Unchanged, lifecycle.Awaited, "#1", waits, "", ""},
		moment{nodetest.Further(nodetest.Request("csr-a", 1, 0, nodetest.ForNode("worker-2"))), lifecycle.Withdrawn, "", isWithdrawn, "WrongSubject", denies},
		moment{nodetest.Unchanged, lifecycle.Withdrawn, "", isWithdrawn, "WrongSubject", ""},
		moment{nodetest.Further(nodetest.Request("csr-b", 1, 0)), lifecycle.Withdrawn, "", isWithdrawn, "WrongSubject", ""}, // sent just before the token was deleted
		moment{nodetest.NoCluster, lifecycle.Withdrawn, "", isWithdrawn, "WrongSubject", ""},
		moment{nodetest.AskReissue, lifecycle.Awaited, "", "False ServerUnknown", "WrongSubject", "ServerUnknown"},
		moment{func(f *lifecycle.Facts) { f.Cluster, f.ClusterProblem = nodetest.Fresh().Cluster, nil }, lifecycle.Awaited, "#2", waits, "", ""},
		moment{nodetest.Further(nodetest.Request("csr-c", 2, 0)), lifecycle.Awaited, "#2", waits, "", ""},
		moment{nodetest.Further(nodetest.Request("csr-d", 2, 0, nodetest.AnotherSigner)), lifecycle.Awaited, "#2", waits, "WrongSigner", denies + conflict},
		moment{func(f *lifecycle.Facts) {
			nodetest.WithCertificate(find(f, "csr-c"))
			nodetest.WorksSince(-time.Second)(f)
		}, lifecycle.Joined, "", hasJoined, "WrongSigner", ""},
		moment{func(f *lifecycle.Facts) { f.Node = nil }, lifecycle.Withdrawn, "", isWithdrawn, "WrongSigner", ""},
		moment{func(f *lifecycle.Facts) { f.NodeBootstrap.Annotations[v1alpha1.ReissueRequestedAtAnnotation] = "again" }, lifecycle.Awaited, "#3", waits, "", ""},
	)
}

// find is the CSR with a name.
func find(f *lifecycle.Facts, name string) *certificatesv1.CertificateSigningRequest {
	for _, r := range f.Requests {
		if r.Name == name {
			return r
		}
	}
	return nil
}

func TestNodeThatWasApprovedJoinsInSpiteOfAnAlarm(t *testing.T) {
	play(t, nodetest.Awaited(1, nodetest.Young),
		moment{nodetest.Further(nodetest.Request("csr-a", 1, nodetest.Minutes(1))), lifecycle.Awaited, "#1", waits, "", ""},
		moment{nodetest.Further(nodetest.Request("csr-b", 1, -time.Second, nodetest.ForNode("worker-2"))), lifecycle.Awaited, "#1", waits, "WrongSubject", denies + conflict},
		moment{nodetest.Further(nodetest.Request("csr-c", 1, -2*time.Second)), lifecycle.Awaited, "#1", isReplaced, "WrongSubject", "CertificateDenied KeyReplaced"},
		moment{func(f *lifecycle.Facts) { nodetest.WithCertificate(find(f, "csr-a")); nodetest.WorksSince(0)(f) }, lifecycle.Joined, "", hasJoined, "WrongSubject", ""},
		moment{func(f *lifecycle.Facts) {
			f.Requests, f.Node, f.NodeReported, f.LeaseRenewed = nil, nodetest.NodeMade(-time.Minute), false, time.Time{}
		}, lifecycle.Withdrawn, "", isWithdrawn, "WrongSubject", ""},
		moment{nodetest.AskReissue, lifecycle.Awaited, "#2", waits, "", ""},
	)
}

// ClusterWide leaves tokens alone. With approval Node the raised alarm means that they are not trusted.
func TestAlarmWithApprovalClusterWideWithdrawsWithApprovalNode(t *testing.T) {
	wide, node := nodetest.Approval(v1alpha1.ApprovalClusterWide), nodetest.Approval(v1alpha1.ApprovalNode)
	stolen := nodetest.Further(nodetest.Request("csr-a", 1, nodetest.Minutes(1), nodetest.ForNode("worker-2"), nodetest.Approved(0), nodetest.WithCertificate))
	play(t, nodetest.Awaited(1, nodetest.Young),
		moment{wide, lifecycle.Awaited, "#1", waits, "", "ApprovalClusterWide"},
		moment{stolen, lifecycle.Awaited, "#1", waits, "WrongSubject", approves + outlives},
		moment{node, lifecycle.Withdrawn, "", isWithdrawn, "WrongSubject", ""},
		moment{wide, lifecycle.Awaited, "#2", waits, "WrongSubject", "ApprovalClusterWide"},
		moment{nodetest.AskReissue, lifecycle.Awaited, "#3", waits, "", ""},
		moment{node, lifecycle.Awaited, "#3", waits, "", ""},
	)
	play(t, nodetest.Awaited(1, nodetest.Young), // the node's own key was approved too
		moment{nodetest.Edits(wide, stolen, nodetest.Further(nodetest.Request("csr-b", 1, nodetest.Minutes(1), nodetest.Approved(0), nodetest.WithCertificate))), lifecycle.Awaited, "#1", waits, "WrongSubject",
			approves + conflict + outlives + " ApprovalClusterWide"},
		moment{node, lifecycle.Awaited, "#1", waits, "WrongSubject", ""},
	)
}

func TestPersonWhoApprovesASecondKeyGetsAnEvent(t *testing.T) {
	approve := func(name string) func(*lifecycle.Facts) {
		return func(f *lifecycle.Facts) { nodetest.Approved(0)(find(f, name)); nodetest.WithCertificate(find(f, name)) }
	}
	const asked = "True AwaitingApproval"
	play(t, nodetest.Awaited(1, nodetest.Young),
		moment{nodetest.Edits(nodetest.Approval(v1alpha1.ApprovalManual), nodetest.Further(nodetest.Request("csr-a", 1, nodetest.Minutes(2)))), lifecycle.Awaited, "#1", asked, "", ""},
		moment{approve("csr-a"), lifecycle.Awaited, "#1", waits, "", ""},
		moment{nodetest.Further(nodetest.Request("csr-b", 1, -time.Second, nodetest.Approved(-2*time.Second))), lifecycle.Awaited, "#1", waits, "", "CertificateApproved SeveralKeys IssuedBeforeReplacement"},
		moment{approve("csr-b"), lifecycle.Awaited, "#1", waits, "", ""},
		moment{nodetest.Further(nodetest.Request("csr-c", 1, -3*time.Second)), lifecycle.Awaited, "#1", isReplaced, "", "CertificateDenied KeyReplaced"},
		moment{nodetest.NoRequests, lifecycle.Awaited, "#1", isReplaced, "", ""},
		moment{nodetest.Further(nodetest.Request("csr-a/2", 1, -3*time.Second)), lifecycle.Awaited, "#1", isReplaced, "", ""},
	)
	play(t, nodetest.Awaited(1, nodetest.Young), // someone else approves a second key when a machine works with the first one
		moment{nodetest.Edits(nodetest.Approval(v1alpha1.ApprovalManual), nodetest.Further(nodetest.Request("csr-a", 1, nodetest.Minutes(2)))), lifecycle.Awaited, "#1", asked, "", ""},
		moment{nodetest.Edits(approve("csr-a"), nodetest.Registered(0)), lifecycle.Awaited, "#1", waits, "", ""},
		moment{nodetest.Further(nodetest.Request("csr-b", 1, -time.Second, nodetest.Approved(-2*time.Second))), lifecycle.Awaited, "#1", waits, "SecondKey", approves + conflict},
		moment{approve("csr-b"), lifecycle.Awaited, "#1", waits, "SecondKey", "IssuedBeforeRevocation"},
	)
}

// After a theft with only the renewed token, the node continues with the older one, which its key was approved with.
func TestPredecessorWithAKeyOutlivesItsSuccessor(t *testing.T) {
	f := nodetest.Awaited(2, nodetest.Young)
	nodetest.Edits(func(f *lifecycle.Facts) { nodetest.AddToken(f, 1, nodetest.Due) }, nodetest.Records(nodetest.Because(csr.ReasonKubeletClient, nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(50)))))(f)
	play(t, f,
		moment{nodetest.Unchanged, lifecycle.Awaited, "#2 #1", waits, "", ""},
		moment{nodetest.Further(nodetest.Request("csr-b", 2, 0, nodetest.ForNode("worker-2"))), lifecycle.Awaited, "#1", waits, "WrongSubject", denies},
	)
	if !kubeconfig.Carries(f.Kubeconfig, nodetest.Token(1, nodetest.Due)) {
		t.Error("the kubeconfig does not contain the remaining token")
	}
	play(t, f, moment{func(f *lifecycle.Facts) {
		f.TokenSecrets[0] = nodetest.TokenSecret(1, nodetest.Old)
		f.NodeBootstrap.Status.Token.ExpirationTime = nodetest.Ago(0)
	},
		lifecycle.Withdrawn, "", isWithdrawn, "WrongSubject", ""})
}
