// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"math/rand/v2"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
)

// A choice is a set of alternatives for one part of a cluster's state.
type choice []func(*lifecycle.Facts)

// Unchanged leaves facts as they are.
func Unchanged(*lifecycle.Facts) {}

// choices are the states in which a cluster can be found: after a crash, an edit, a restore from a backup, a theft.
var choices = []choice{
	{Unchanged, Unchanged, Unchanged, Unchanged, Unchanged, func(f *lifecycle.Facts) { f.NodeBootstrap = nil }},
	{ // tokens
		Unchanged,
		func(f *lifecycle.Facts) { AddToken(f, 1, Young) },
		func(f *lifecycle.Facts) { AddToken(f, 1, Due) },
		func(f *lifecycle.Facts) { AddToken(f, 1, Old) },
		func(f *lifecycle.Facts) { AddToken(f, 2, Young); AddToken(f, 1, Due) },
		func(f *lifecycle.Facts) { AddToken(f, 2, Due); AddToken(f, 1, Old) },
		func(f *lifecycle.Facts) { AddToken(f, 3, Young); AddToken(f, 1, 3*Young); AddToken(f, 2, 2*Young) },
		func(f *lifecycle.Facts) { AddToken(f, 1, Young); f.TokenSecrets[0].Data["token-secret"] = nil },
		func(f *lifecycle.Facts) { AddToken(f, 1, Young); f.TokenSecrets[0].OwnerReferences[0].UID = FormerUID },
		func(f *lifecycle.Facts) { AddToken(f, 1, Young); delete(f.TokenSecrets[0].Data, "auth-extra-groups") },
		func(f *lifecycle.Facts) { AddToken(f, 1, Young); delete(f.TokenSecrets[0].Data, "expiration") },
	},
	{ // what the status says
		Unchanged,
		func(f *lifecycle.Facts) { setStatus(f, StatusOf(1, Young)) },
		func(f *lifecycle.Facts) { setStatus(f, StatusOf(2, Young)) },
		func(f *lifecycle.Facts) { setStatus(f, JoinedBefore().NodeBootstrap.Status) },
	},
	{Unchanged, onNodeBootstrap(Claimed("csr-a")), onNodeBootstrap(claimedWithSecond), onNodeBootstrap(longHistory), onNodeBootstrap(deniedAKey)},
	{Unchanged, onNodeBootstrap(Raised(csr.ReasonSecondKey))},
	{Unchanged, NoCluster},
	{Unchanged, func(f *lifecycle.Facts) { f.Kubeconfig = KubeconfigSecret(1) }, func(f *lifecycle.Facts) { f.Kubeconfig = ForeignKubeconfig() }},
	{Unchanged, func(f *lifecycle.Facts) { f.Node = NodeMade(Old) }, func(f *lifecycle.Facts) { f.Node = NodeMade(0) }},
	{Unchanged, func(f *lifecycle.Facts) { f.NodeReported = true }},
	{Unchanged, func(f *lifecycle.Facts) { f.LeaseRenewed = Now }},
	{ // CSRs
		Unchanged,
		With(Request("csr-a", 1, Minutes(1))),
		With(Request("csr-w", 1, Minutes(1), ForNode("worker-2")), Request("csr-b", 1, 0), Request("csr-c", 1, 0)),
		With(Request("csr-a", 1, Minutes(1), Approved(Minutes(1)))),
		With(Request("csr-a", 1, Minutes(1), Approved(Minutes(1)), WithCertificate)),
		With(Request("csr-a", 7, Minutes(1), Approved(Minutes(1)))),
		With(Request("csr-a", 7, Minutes(1)), Request("csr-b", 2, 0)),
		With(Request("csr-a", 1, Minutes(3)), Request("csr-b", 1, Minutes(2)), Request("csr-c", 2, Minutes(2))),
	},
	{ // further CSRs of the tokens
		Unchanged,
		Further(Request("csr-s", 1, Minutes(2), AnotherSigner)),
		Further(Request("csr-s", 2, Minutes(2), AnotherSigner, Approved(Minutes(1)))),
		Further(Request("csr-o", 1, Minutes(2), ForNode("worker-9"), Approved(Minutes(1)), WithCertificate)),
		Further(Request("csr-o", 2, 0, ForNode("worker-9")), Request("csr-a/2", 1, 0)),
		Further(BadRequests(1, 12)...),
		Further(BadRequests(2, 3)...),
	},
	{Unchanged, Unchanged, onNodeBootstrap(Approval(v1alpha1.ApprovalManual)), onNodeBootstrap(Approval(v1alpha1.ApprovalClusterWide))},
	{Unchanged, Unchanged, Unchanged, onNodeBootstrap(Replacements(1)), onNodeBootstrap(Replacements(7))},
	{Unchanged, Unchanged, Unchanged, onNodeBootstrap(DeadlineAfter(time.Minute))},
	{Unchanged, onNodeBootstrap(AskReissue), onNodeBootstrap(HandledReissue)},
	{ // serving certificates
		Unchanged,
		onNodeBootstrap(Declares()),
		serving(ServingRequest("serving-a", Minutes(1))),
		serving(ServingRequest("serving-a", Minutes(1), Naming("192.0.2.8"))),
		serving(ServingRequest("serving-a", Minutes(2), Naming("worker-2")), ServingRequest("serving-b", Minutes(1), Naming())),
		serving(ServingRequest("serving-a", Minutes(2), Approved(Minutes(2))), ServingRequest("serving-b", Minutes(1))),
		serving(ServingRequests(6, Approved(Minutes(1)))...),
		serving(append(ServingRequests(20, Decided(certificatesv1.CertificateDenied, Minutes(1))), ServingRequest("serving-b", Minutes(1)))...),
	},
	{Unchanged, func(f *lifecycle.Facts) { f.Bypass = &lifecycle.Bypass{} }, func(f *lifecycle.Facts) {
		f.Bypass = &lifecycle.Bypass{Open: true, Why: []string{"a binding", "another"}}
	}},
	{ // the pinned key
		Unchanged, Unchanged, Unchanged, Unchanged,
		onNodeBootstrap(Pins("csr-a")),
		onNodeBootstrap(Pins("csr-b")),
		onNodeBootstrap(Pins("bad")),
		onNodeBootstrap(Pins("nobody")),
		onNodeBootstrap(PinnedTwice("csr-a")),
	},
	{Unchanged, Unchanged, func(f *lifecycle.Facts) { f.KeysElsewhere = map[string]string{KeyOf("csr-a"): "worker-2"} }},
}

func setStatus(f *lifecycle.Facts, s v1alpha1.NodeBootstrapStatus) {
	if f.NodeBootstrap != nil {
		f.NodeBootstrap.Status = s
	}
}

func onNodeBootstrap(edit func(*lifecycle.Facts)) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) {
		if f.NodeBootstrap != nil {
			edit(f)
		}
	}
}

func claimedWithSecond(f *lifecycle.Facts) {
	f.NodeBootstrap.Status.LastTokenID = NthID(2)
	f.NodeBootstrap.Status.Certificates = []v1alpha1.CertificateDecision{ApprovedDecision("csr-r", 2, Minutes(50))}
}

// deniedAKey denies a second key after the first one was approved.
func deniedAKey(f *lifecycle.Facts) {
	Claimed("csr-q")(f)
	f.NodeBootstrap.Status.Certificates = append(f.NodeBootstrap.Status.Certificates, Because(csr.ReasonKeyReplaced, DeniedDecision("csr-r", 1, Minutes(0))))
}

// longHistory leaves room for one more decision.
func longHistory(f *lifecycle.Facts) {
	f.NodeBootstrap.Status.LastTokenID = NthID(2)
	f.NodeBootstrap.Status.Certificates = History("addDAddDsxsDDxd")
}

// serving declares addresses and adds these CSRs for serving certificates.
func serving(requests ...*certificatesv1.CertificateSigningRequest) func(*lifecycle.Facts) {
	return onNodeBootstrap(func(f *lifecycle.Facts) {
		Declares()(f)
		Serves(requests...)(f)
	})
}

// States calls f with a seed for each of count states; thousands of millions exist.
func States(count int, f func(seed int, facts *lifecycle.Facts)) {
	for seed := range count {
		f(seed, State(seed))
	}
}

// State is the facts for a seed.
func State(seed int) *lifecycle.Facts {
	f, random := Fresh(), rand.New(rand.NewPCG(uint64(seed), 0))
	for _, c := range choices {
		c[random.IntN(len(c))](f)
	}
	for _, requests := range []*[]*certificatesv1.CertificateSigningRequest{&f.Requests, &f.ServingRequests} {
		*requests = slices.Clone(*requests)
		for i, r := range *requests { // carrying out a plan changes them
			(*requests)[i] = r.DeepCopy()
		}
	}
	return f
}
