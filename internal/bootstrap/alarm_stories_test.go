// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// A moment is something that happens, and what is so once it was seen to: the phase, the tokens, the Ready condition and the
// alarm in short, and the warnings that people are told, all at once.
type moment struct {
	happens  func(*Facts)
	phase    Phase
	tokens   string
	ready    string
	alarm    string
	warnings string
}

// tell has a story happen, and three passes after each of its moments.
func tell(t *testing.T, f *Facts, story ...moment) {
	t.Helper()
	for i, m := range story {
		m.happens(f)
		for n, r := range f.Requests {
			f.Requests[n] = r.DeepCopy()
		}
		var p Plan
		var warnings, tokens []string
		for range 3 {
			var events []Event
			p, _, events = pass(f)
			for _, e := range events {
				if e.Type == "Warning" {
					warnings = append(warnings, e.Reason)
				}
			}
		}
		for _, s := range f.TokenSecrets {
			tokens = append(tokens, ordinal(strings.TrimPrefix(s.Name, "bootstrap-token-")))
		}
		s := &f.NodeBootstrap.Status
		got := moment{phase: p.Phase, tokens: strings.Join(tokens, " "), ready: short(s, v1alpha1.ConditionReady), warnings: strings.Join(warnings, " ")}
		if c := alarmOf(s); c != nil {
			got.alarm = c.Reason
		}
		m.happens = nil
		if got.phase != m.phase || got.tokens != m.tokens || got.ready != m.ready || got.alarm != m.alarm || got.warnings != m.warnings {
			t.Errorf("moment %d:\ngot  %+v\nwant %+v", i, got, m)
		}
		if (s.Token != nil) != (p.Token != nil) || (s.KubeconfigSecretRef != nil) != (f.Kubeconfig != nil) {
			t.Errorf("moment %d: the status has the token %v and the kubeconfig %v", i, s.Token, s.KubeconfigSecretRef)
		}
	}
}

// short is a condition in short: "True Published"; empty when it is absent.
func short(s *v1alpha1.NodeBootstrapStatus, conditionType string) string {
	c := meta.FindStatusCondition(s.Conditions, conditionType)
	if c == nil {
		return ""
	}
	return string(c.Status) + " " + c.Reason
}

const (
	waits, isWithdrawn, hasJoined = "True AwaitingNode", "False TokenMisused", "True Joined"
	denies                        = "CertificateDenied TokenMisused"
	approves                      = "CertificateApproved TokenMisused" // someone else does
	conflict                      = " SeveralKeys"
	outlives                      = " IssuedBeforeRevocation"
)

func TestTheftIsAnsweredByAReissue(t *testing.T) {
	tell(t, fresh(),
		moment{as, Awaited, "#1", waits, "", ""},
		moment{further(request("csr-a", 1, 0, forNode("worker-2"))), Withdrawn, "", isWithdrawn, "WrongSubject", denies},
		moment{as, Withdrawn, "", isWithdrawn, "WrongSubject", ""},
		moment{further(request("csr-b", 1, 0)), Withdrawn, "", isWithdrawn, "WrongSubject", ""}, // sent just before the token went
		moment{noCluster, Withdrawn, "", isWithdrawn, "WrongSubject", ""},
		moment{askReissue, Awaited, "", "False ServerUnknown", "WrongSubject", "ServerUnknown"},
		moment{func(f *Facts) { f.Cluster, f.ClusterProblem = fresh().Cluster, nil }, Awaited, "#2", waits, "", ""},
		moment{further(request("csr-c", 2, 0)), Awaited, "#2", waits, "", ""},
		moment{further(request("csr-d", 2, 0, anotherSigner)), Awaited, "#2", waits, "WrongSigner", denies + conflict},
		moment{func(f *Facts) {
			withCertificate(f.find("csr-c"))
			worksSince(-time.Second)(f)
		}, Joined, "", hasJoined, "WrongSigner", ""},
		moment{func(f *Facts) { f.Node = nil }, Withdrawn, "", isWithdrawn, "WrongSigner", ""},
		moment{func(f *Facts) { f.NodeBootstrap.Annotations[v1alpha1.ReissueRequestedAtAnnotation] = "again" }, Awaited, "#3", waits, "", ""},
	)
}

// find is the request of a name.
func (f *Facts) find(name string) *certificatesv1.CertificateSigningRequest {
	for _, r := range f.Requests {
		if r.Name == name {
			return r
		}
	}
	return nil
}

func TestNodeThatWasApprovedJoinsInSpiteOfAnAlarm(t *testing.T) {
	tell(t, awaited(1, young),
		moment{further(request("csr-a", 1, minutes(1))), Awaited, "#1", waits, "", ""},
		moment{further(request("csr-b", 1, -time.Second, forNode("worker-2"))), Awaited, "#1", waits, "WrongSubject", denies + conflict},
		moment{further(request("csr-c", 1, -2*time.Second)), Awaited, "#1", isReplaced, "WrongSubject", "CertificateDenied KeyReplaced"},
		moment{func(f *Facts) { withCertificate(f.find("csr-a")); worksSince(0)(f) }, Joined, "", hasJoined, "WrongSubject", ""},
		moment{func(f *Facts) {
			f.Requests, f.Node, f.NodeReported, f.LeaseRenewed = nil, nodeMade(-time.Minute), false, time.Time{}
		}, Withdrawn, "", isWithdrawn, "WrongSubject", ""},
		moment{askReissue, Awaited, "#2", waits, "", ""},
	)
}

// ClusterWide leaves tokens alone. With approval Node the alarm that stands says that they are not to be trusted.
func TestAlarmWithApprovalClusterWideWithdrawsWithApprovalNode(t *testing.T) {
	wide, node := approval(v1alpha1.ApprovalClusterWide), approval(v1alpha1.ApprovalNode)
	stolen := further(request("csr-a", 1, minutes(1), forNode("worker-2"), approved(0), withCertificate))
	tell(t, awaited(1, young),
		moment{wide, Awaited, "#1", waits, "", "ApprovalClusterWide"},
		moment{stolen, Awaited, "#1", waits, "WrongSubject", approves + outlives},
		moment{node, Withdrawn, "", isWithdrawn, "WrongSubject", ""},
		moment{wide, Awaited, "#2", waits, "WrongSubject", "ApprovalClusterWide"},
		moment{askReissue, Awaited, "#3", waits, "", ""},
		moment{node, Awaited, "#3", waits, "", ""},
	)
	tell(t, awaited(1, young), // the node's own key was approved too
		moment{edits(wide, stolen, further(request("csr-b", 1, minutes(1), approved(0), withCertificate))), Awaited, "#1", waits, "WrongSubject",
			approves + conflict + outlives + " ApprovalClusterWide"},
		moment{node, Awaited, "#1", waits, "WrongSubject", ""},
	)
}

func TestPersonWhoApprovesASecondKeyIsTold(t *testing.T) {
	approve := func(name string) func(*Facts) {
		return func(f *Facts) { approved(0)(f.find(name)); withCertificate(f.find(name)) }
	}
	const asked = "True AwaitingApproval"
	tell(t, awaited(1, young),
		moment{edits(approval(v1alpha1.ApprovalManual), further(request("csr-a", 1, minutes(2)))), Awaited, "#1", asked, "", ""},
		moment{approve("csr-a"), Awaited, "#1", waits, "", ""},
		moment{further(request("csr-b", 1, -time.Second, approved(-2*time.Second))), Awaited, "#1", waits, "", "CertificateApproved SeveralKeys IssuedBeforeReplacement"},
		moment{approve("csr-b"), Awaited, "#1", waits, "", ""},
		moment{further(request("csr-c", 1, -3*time.Second)), Awaited, "#1", isReplaced, "", "CertificateDenied KeyReplaced"},
		moment{noRequests, Awaited, "#1", isReplaced, "", ""},
		moment{further(request("csr-a/2", 1, -3*time.Second)), Awaited, "#1", isReplaced, "", ""},
	)
	tell(t, awaited(1, young), // someone else approves a second key when a machine works with the first one
		moment{edits(approval(v1alpha1.ApprovalManual), further(request("csr-a", 1, minutes(2)))), Awaited, "#1", asked, "", ""},
		moment{edits(approve("csr-a"), registered(0)), Awaited, "#1", waits, "", ""},
		moment{further(request("csr-b", 1, -time.Second, approved(-2*time.Second))), Awaited, "#1", waits, "SecondKey", approves + conflict},
		moment{approve("csr-b"), Awaited, "#1", waits, "SecondKey", "IssuedBeforeRevocation"},
	)
}

// After a theft with the renewed token alone the node goes on with the older one, which its key was approved with.
func TestPredecessorWithAKeyOutlivesItsSuccessor(t *testing.T) {
	f := awaited(2, young)
	edits(func(f *Facts) { f.addToken(1, due) }, records(because(csr.ReasonKubeletClient, approvedDecision("csr-a", 1, minutes(50)))))(f)
	tell(t, f,
		moment{as, Awaited, "#2 #1", waits, "", ""},
		moment{further(request("csr-b", 2, 0, forNode("worker-2"))), Awaited, "#1", waits, "WrongSubject", denies},
	)
	if !Carries(f.Kubeconfig, token(1, due)) {
		t.Error("the kubeconfig does not carry the token that is left")
	}
	tell(t, f, moment{func(f *Facts) {
		f.TokenSecrets[0] = tokenSecret(1, old)
		f.NodeBootstrap.Status.Token.ExpirationTime = ago(0)
	},
		Withdrawn, "", isWithdrawn, "WrongSubject", ""})
}
