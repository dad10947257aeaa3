// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// A choice is one thing that may be so or so in a cluster.
type choice []func(*Facts)

func as(*Facts) {} // as it is

// choices make up the states that a cluster may be found in: after a crash, an edit, a restore from a backup, a theft.
var choices = []choice{
	{as, as, as, as, as, func(f *Facts) { f.NodeBootstrap = nil }},
	{ // tokens
		as,
		func(f *Facts) { f.addToken(1, young) },
		func(f *Facts) { f.addToken(1, due) },
		func(f *Facts) { f.addToken(1, old) },
		func(f *Facts) { f.addToken(2, young); f.addToken(1, due) },
		func(f *Facts) { f.addToken(2, due); f.addToken(1, old) },
		func(f *Facts) { f.addToken(3, young); f.addToken(1, 3*young); f.addToken(2, 2*young) },
		func(f *Facts) { f.addToken(1, young); f.TokenSecrets[0].Data["token-secret"] = nil },
		func(f *Facts) { f.addToken(1, young); f.TokenSecrets[0].OwnerReferences[0].UID = formerUID },
		func(f *Facts) { f.addToken(1, young); delete(f.TokenSecrets[0].Data, "auth-extra-groups") },
		func(f *Facts) { f.addToken(1, young); delete(f.TokenSecrets[0].Data, "expiration") },
	},
	{ // what the status says
		as,
		func(f *Facts) { setStatus(f, statusOf(1, young)) },
		func(f *Facts) { setStatus(f, statusOf(2, young)) },
		func(f *Facts) { setStatus(f, joinedBefore().NodeBootstrap.Status) },
	},
	{as, onNodeBootstrap(claimed("csr-a")), onNodeBootstrap(claimedWithSecond), onNodeBootstrap(longHistory), onNodeBootstrap(deniedAKey)},
	{as, onNodeBootstrap(raised(csr.ReasonSecondKey))},
	{as, noCluster},
	{as, func(f *Facts) { f.Kubeconfig = kubeconfigSecret(1) }, func(f *Facts) { f.Kubeconfig = foreignKubeconfig() }},
	{as, func(f *Facts) { f.Node = nodeMade(old) }, func(f *Facts) { f.Node = nodeMade(0) }},
	{as, func(f *Facts) { f.NodeReported = true }},
	{as, func(f *Facts) { f.LeaseRenewed = now }},
	{ // requests
		as,
		with(request("csr-a", 1, minutes(1))),
		with(request("csr-w", 1, minutes(1), forNode("worker-2")), request("csr-b", 1, 0), request("csr-c", 1, 0)),
		with(request("csr-a", 1, minutes(1), approved(minutes(1)))),
		with(request("csr-a", 1, minutes(1), approved(minutes(1)), withCertificate)),
		with(request("csr-a", 7, minutes(1), approved(minutes(1)))),
		with(request("csr-a", 7, minutes(1)), request("csr-b", 2, 0)),
		with(request("csr-a", 1, minutes(3)), request("csr-b", 1, minutes(2)), request("csr-c", 2, minutes(2))),
	},
	{ // and what else was asked with the tokens
		as,
		further(request("csr-s", 1, minutes(2), anotherSigner)),
		further(request("csr-s", 2, minutes(2), anotherSigner, approved(minutes(1)))),
		further(request("csr-o", 1, minutes(2), forNode("worker-9"), approved(minutes(1)), withCertificate)),
		further(request("csr-o", 2, 0, forNode("worker-9")), request("csr-a/2", 1, 0)),
		further(badRequests(1, 12)...),
		further(badRequests(2, 3)...),
	},
	{as, as, onNodeBootstrap(approval(v1alpha1.ApprovalManual)), onNodeBootstrap(approval(v1alpha1.ApprovalClusterWide))},
	{as, as, as, onNodeBootstrap(replacements(1)), onNodeBootstrap(replacements(7))},
	{as, as, as, onNodeBootstrap(deadlineAfter(time.Minute))},
	{as, onNodeBootstrap(askReissue), onNodeBootstrap(handledReissue)},
	{ // serving certificates
		as,
		onNodeBootstrap(declares()),
		serving(servingRequest("serving-a", minutes(1))),
		serving(servingRequest("serving-a", minutes(1), naming("192.0.2.8"))),
		serving(servingRequest("serving-a", minutes(2), naming("worker-2")), servingRequest("serving-b", minutes(1), naming())),
		serving(servingRequest("serving-a", minutes(2), approved(minutes(2))), servingRequest("serving-b", minutes(1))),
		serving(servingRequests(6, approved(minutes(1)))...),
		serving(append(servingRequests(20, decided(certificatesv1.CertificateDenied, minutes(1))), servingRequest("serving-b", minutes(1)))...),
	},
	{as, func(f *Facts) { f.Bypass = &Bypass{} }, func(f *Facts) { f.Bypass = &Bypass{Open: true, Why: []string{"a binding", "another"}} }},
}

func setStatus(f *Facts, s v1alpha1.NodeBootstrapStatus) {
	if f.NodeBootstrap != nil {
		f.NodeBootstrap.Status = s
	}
}

func onNodeBootstrap(edit func(*Facts)) func(*Facts) {
	return func(f *Facts) {
		if f.NodeBootstrap != nil {
			edit(f)
		}
	}
}

// raised has an alarm stand.
func raised(reason string) func(*Facts) {
	return func(f *Facts) {
		meta.SetStatusCondition(&f.NodeBootstrap.Status.Conditions, metav1.Condition{
			Type: v1alpha1.ConditionTokenMisused, Status: metav1.ConditionTrue, Reason: reason, Message: "as it was found first",
			ObservedGeneration: 3, LastTransitionTime: ago(minutes(30)),
		})
	}
}

func handledReissue(f *Facts) {
	askReissue(f)
	f.NodeBootstrap.Status.LastHandledReissueAt = reissueAt
}

func claimedWithSecond(f *Facts) {
	f.NodeBootstrap.Status.LastTokenID = nthID(2)
	f.NodeBootstrap.Status.Certificates = []v1alpha1.CertificateDecision{approvedDecision("csr-r", 2, minutes(50))}
}

// deniedAKey has a second key denied since the first one was approved.
func deniedAKey(f *Facts) {
	claimed("csr-q")(f)
	f.NodeBootstrap.Status.Certificates = append(f.NodeBootstrap.Status.Certificates, because(csr.ReasonKeyReplaced, deniedDecision("csr-r", 1, minutes(0))))
}

// longHistory leaves room for one decision more.
func longHistory(f *Facts) {
	f.NodeBootstrap.Status.LastTokenID = nthID(2)
	f.NodeBootstrap.Status.Certificates = history("addDAddDsxsDDxd")
}

// further adds requests.
func further(requests ...*certificatesv1.CertificateSigningRequest) func(*Facts) {
	return func(f *Facts) { f.Requests = slices.Concat(f.Requests, requests) }
}

func anotherSigner(r *certificatesv1.CertificateSigningRequest) {
	r.Spec.SignerName = certificatesv1.KubeAPIServerClientSignerName
}

func tooLong(r *certificatesv1.CertificateSigningRequest) {
	r.Spec.ExpirationSeconds = new(int32(10 * 365 * 24 * 60 * 60))
}

// badRequests were sent with the nth token, one each second, and have a defect that tells nothing of a theft. They have one
// key, since keys take time to make.
func badRequests(n, count int) []*certificatesv1.CertificateSigningRequest {
	var out []*certificatesv1.CertificateSigningRequest
	for i := range count {
		out = append(out, request(fmt.Sprintf("bad/%d-%04d", n, i), n, time.Duration(count-i)*time.Second, tooLong))
	}
	return out
}

// serving has addresses declared and these certificates asked for.
func serving(requests ...*certificatesv1.CertificateSigningRequest) func(*Facts) {
	return onNodeBootstrap(func(f *Facts) {
		declares()(f)
		serves(requests...)(f)
	})
}

// servingRequests were sent a minute ago, all in one second, with one key.
func servingRequests(count int, edit ...func(*certificatesv1.CertificateSigningRequest)) []*certificatesv1.CertificateSigningRequest {
	var out []*certificatesv1.CertificateSigningRequest
	for i := range count {
		out = append(out, servingRequest(fmt.Sprintf("serving/%02d", i), minutes(1), edit...))
	}
	return out
}

// states calls f with a seed for each of many of the states, of which there are thousands of millions.
func states(count int, f func(seed int, facts *Facts)) {
	for seed := range count {
		f(seed, state(seed))
	}
}

// state is the facts of a seed.
func state(seed int) *Facts {
	f, random := fresh(), rand.New(rand.NewPCG(uint64(seed), 0))
	for _, c := range choices {
		c[random.IntN(len(c))](f)
	}
	for _, requests := range []*[]*certificatesv1.CertificateSigningRequest{&f.Requests, &f.ServingRequests} {
		*requests = slices.Clone(*requests)
		for i, r := range *requests { // what carries out a plan writes to them
			(*requests)[i] = r.DeepCopy()
		}
	}
	return f
}
