// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
)

func TestDecideOnServingCertificates(t *testing.T) {
	const isDenied, failed = certificatesv1.CertificateDenied, certificatesv1.CertificateFailed
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return nodetest.ServingRequest("serving-a", nodetest.Minutes(2), edit...)
	}
	b := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return nodetest.ServingRequest("serving-b", nodetest.Minutes(1), edit...)
	}
	c := func(age time.Duration, edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return nodetest.ServingRequest("serving-c", age, edit...)
	}
	asks := func(requests ...*certificatesv1.CertificateSigningRequest) func(*lifecycle.Facts) {
		return nodetest.Edits(nodetest.Declares(), nodetest.Serves(requests...))
	}
	joined := func(verdicts, serving string) nodetest.Outline {
		return nodetest.Outline{Phase: lifecycle.Joined, Verdicts: verdicts, Serving: serving}
	}
	before := func(count int, conditionType certificatesv1.RequestConditionType) []*certificatesv1.CertificateSigningRequest {
		return nodetest.ServingRequests(count, sent(nodetest.Minutes(30)), nodetest.Decided(conditionType, 0))
	}
	undeclared, foreign, noAddress := nodetest.Naming(nodetest.NodeName, "192.0.2.8"), func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Groups = nil }, nodetest.Naming()
	const approves, denies = "Approve KubeletServingOfThisNode", "Deny NoAddress"
	const waits, tooMany, misused = "Wait AddressNotDeclared", "Wait TooManyRequests", "Wait TokenMisused"
	alarm := nodetest.Raised("SecondKey")
	noCA := func(f *lifecycle.Facts) {
		f.ClusterProblem, f.Cluster.CA = &problem.Problem{Reason: v1alpha1.ReasonCAUnknown, Message: "no CA"}, nil
	}
	nodetest.Plans(t, map[string]nodetest.Planned{
		"none":                      {Facts: nodetest.JoinedBefore(), Edit: asks(), Want: joined("", "")},
		"declared":                  {Facts: nodetest.JoinedBefore(), Edit: asks(a()), Want: joined("serving-a: Approve", approves)},
		"declared by a CIDR":        {Facts: nodetest.JoinedBefore(), Edit: nodetest.Edits(nodetest.Declares(nodetest.NodeName, "192.0.2.0/24"), nodetest.Serves(a(undeclared))), Want: joined("serving-a: Approve", approves)},
		"nothing is declared":       {Facts: nodetest.JoinedBefore(), Edit: nodetest.Serves(a()), Want: joined("", "")},
		"another is declared":       {Facts: nodetest.JoinedBefore(), Edit: asks(a(undeclared)), Want: joined("", waits)},
		"bad":                       {Facts: nodetest.JoinedBefore(), Edit: asks(a(noAddress)), Want: joined("serving-a: Deny", denies)},
		"not the kubelet's":         {Facts: nodetest.JoinedBefore(), Edit: asks(a(foreign)), Want: joined("", "")},
		"reserved":                  {Facts: nodetest.JoinedBefore(), Edit: nodetest.Edits(asks(a()), func(f *lifecycle.Facts) { f.ReservedAddresses = []csr.Reservation{{Host: nodetest.Address}} }), Want: joined("", "Wait AddressReserved")},
		"another is reserved":       {Facts: nodetest.JoinedBefore(), Edit: nodetest.Edits(asks(a()), func(f *lifecycle.Facts) { f.ReservedAddresses = []csr.Reservation{{Host: "192.0.2.9"}} }), Want: joined("serving-a: Approve", approves)},
		"declared elsewhere":        {Facts: nodetest.JoinedBefore(), Edit: nodetest.Edits(asks(a()), func(f *lifecycle.Facts) { f.DeclaredElsewhere = map[string]string{nodetest.Address: "worker-2"} }), Want: joined("", "Wait AddressDeclaredElsewhere")},
		"another declared there":    {Facts: nodetest.JoinedBefore(), Edit: nodetest.Edits(asks(a()), func(f *lifecycle.Facts) { f.DeclaredElsewhere = map[string]string{"192.0.2.9": "worker-2"} }), Want: joined("serving-a: Approve", approves)},
		"approved":                  {Facts: nodetest.JoinedBefore(), Edit: asks(a(nodetest.Approved(0))), Want: joined("", "")},
		"denied":                    {Facts: nodetest.JoinedBefore(), Edit: asks(a(nodetest.Decided(isDenied, 0))), Want: joined("", "")},
		"failed":                    {Facts: nodetest.JoinedBefore(), Edit: asks(a(nodetest.Decided(failed, 0))), Want: joined("", "")},
		"two":                       {Facts: nodetest.JoinedBefore(), Edit: asks(a(), b()), Want: joined("serving-b: Approve, serving-a: Approve", approves)},
		"the newest is bad":         {Facts: nodetest.JoinedBefore(), Edit: asks(a(), b(noAddress)), Want: joined("serving-b: Deny, serving-a: Approve", denies)},
		"the newest waits":          {Facts: nodetest.JoinedBefore(), Edit: asks(b(undeclared), a()), Want: joined("serving-a: Approve", waits)},
		"the newest does not":       {Facts: nodetest.JoinedBefore(), Edit: asks(a(undeclared), b()), Want: joined("serving-b: Approve", approves)},
		"the newest is another's":   {Facts: nodetest.JoinedBefore(), Edit: asks(a(), b(foreign)), Want: joined("serving-a: Approve", approves)},
		"the newest is decided on":  {Facts: nodetest.JoinedBefore(), Edit: asks(a(), b(nodetest.Approved(0))), Want: joined("", "")},
		"one of its second is not":  {Facts: nodetest.JoinedBefore(), Edit: asks(a(sent(nodetest.Minutes(1))), b(nodetest.Approved(0))), Want: joined("serving-a: Approve", approves)},
		"of the second of another":  {Facts: nodetest.JoinedBefore(), Edit: asks(a(), nodetest.ServingRequest("serving-b", nodetest.Minutes(2), nodetest.Approved(0)), c(0, nodetest.Approved(0))), Want: joined("", "")},
		"an older one is":           {Facts: nodetest.JoinedBefore(), Edit: asks(a(nodetest.Approved(0)), b()), Want: joined("serving-b: Approve", approves)},
		"three":                     {Facts: nodetest.JoinedBefore(), Edit: asks(a(), b(), c(0)), Want: joined("serving-c: Approve, serving-b: Approve, serving-a: Approve", approves)},
		"four":                      {Facts: nodetest.JoinedBefore(), Edit: asks(a(), b(), c(0), c(nodetest.Minutes(3))), Want: joined("serving-c: Approve, serving-b: Approve, serving-a: Approve", approves)},
		"of four, three wait":       {Facts: nodetest.JoinedBefore(), Edit: asks(a(undeclared), b(undeclared), c(0, undeclared), c(nodetest.Minutes(3))), Want: joined("", waits)},
		"by name within a second":   {Facts: nodetest.JoinedBefore(), Edit: asks(a(), nodetest.ServingRequest("serving-z", nodetest.Minutes(2), noAddress)), Want: joined("serving-z: Deny, serving-a: Approve", denies)},
		"after nineteen":            {Facts: nodetest.JoinedBefore(), Edit: asks(append(before(19, isDenied), a(), b())...), Want: joined("serving-b: Approve", approves)},
		"after eighteen":            {Facts: nodetest.JoinedBefore(), Edit: asks(append(before(18, isDenied), a(), b())...), Want: joined("serving-b: Approve, serving-a: Approve", approves)},
		"after twenty":              {Facts: nodetest.JoinedBefore(), Edit: asks(append(before(20, isDenied), a())...), Want: joined("", tooMany)},
		"after twenty approved":     {Facts: nodetest.JoinedBefore(), Edit: asks(append(before(20, certificatesv1.CertificateApproved), a())...), Want: joined("", tooMany)},
		"after twenty that failed":  {Facts: nodetest.JoinedBefore(), Edit: asks(append(before(20, failed), a())...), Want: joined("", tooMany)},
		"after thirty":              {Facts: nodetest.JoinedBefore(), Edit: asks(append(before(30, isDenied), a())...), Want: joined("", tooMany)},
		"twenty, and none waits":    {Facts: nodetest.JoinedBefore(), Edit: asks(before(20, isDenied)...), Want: joined("", "")},
		"after nineteen, one waits": {Facts: nodetest.JoinedBefore(), Edit: asks(append(before(19, isDenied), a(), b(undeclared))...), Want: joined("", waits)},

		"the node is awaited":        {Facts: nodetest.Awaited(1, nodetest.Young), Edit: asks(a()), Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1", Verdicts: "serving-a: Approve", Serving: approves}},
		"it requests both":           {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(asks(a()), nodetest.With(nodetest.Request("csr-a", 1, 0))), Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1", Verdicts: "csr-a: Approved, serving-a: Approve", Serving: approves}},
		"no cluster":                 {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(asks(a()), nodetest.NoCluster), Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1", Problem: "ServerUnknown", Serving: "Wait ServerUnknown"}},
		"the same, joined":           {Facts: nodetest.JoinedBefore(), Edit: nodetest.Edits(asks(a()), nodetest.NoCluster), Want: joined("", "Wait ServerUnknown")},
		"the same, undeclared":       {Facts: nodetest.JoinedBefore(), Edit: nodetest.Edits(asks(a(undeclared)), nodetest.NoCluster), Want: joined("", waits)},
		"the same, bad":              {Facts: nodetest.JoinedBefore(), Edit: nodetest.Edits(asks(a(noAddress)), nodetest.NoCluster), Want: joined("serving-a: Deny", denies)},
		"only its CA is unknown":     {Facts: nodetest.JoinedBefore(), Edit: nodetest.Edits(asks(a()), noCA), Want: joined("serving-a: Approve", approves)},
		"an alarm was raised before": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(asks(a()), alarm), Want: nodetest.Outline{Phase: lifecycle.Withdrawn, DeleteToken: "#1", DropConfig: true, Serving: misused}},
		"an alarm is raised":         {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(asks(a()), nodetest.With(nodetest.Request("csr-a", 1, 0, nodetest.ForNode("worker-2")))), Want: nodetest.Outline{Phase: lifecycle.Withdrawn, DeleteToken: "#1", DropConfig: true, Verdicts: "csr-a: Denied", Misuse: "WrongSubject", Serving: misused}},
		"an alarm, and it is bad":    {Facts: nodetest.JoinedBefore(), Edit: nodetest.Edits(asks(a(noAddress)), alarm), Want: joined("serving-a: Deny", denies)},
		"an alarm, undeclared":       {Facts: nodetest.JoinedBefore(), Edit: nodetest.Edits(asks(a(undeclared)), alarm), Want: joined("", waits)},
		"an alarm, joined":           {Facts: nodetest.JoinedBefore(), Edit: nodetest.Edits(asks(a()), alarm), Want: joined("", misused)},
		"an alarm, ClusterWide":      {Facts: nodetest.JoinedBefore(), Edit: nodetest.Edits(asks(a()), alarm, nodetest.Approval(v1alpha1.ApprovalClusterWide)), Want: joined("", misused)},
		"a reissue is due since":     {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(asks(a()), alarm, nodetest.AskReissue), Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Mint: "#2", DeleteToken: "#1", Verdicts: "serving-a: Approve", Serving: approves}},
		"after the deadline":         {Facts: nodetest.Fresh(), Edit: nodetest.Edits(asks(a()), nodetest.DeadlineAfter(time.Minute)), Want: nodetest.Outline{Phase: lifecycle.DeadlineExceeded, Verdicts: "serving-a: Approve", Serving: approves}},
		"with approval Manual":       {Facts: nodetest.JoinedBefore(), Edit: nodetest.Edits(asks(a()), nodetest.Approval(v1alpha1.ApprovalManual)), Want: joined("serving-a: Approve", approves)},
		"no NodeBootstrap":           {Facts: nodetest.Fresh(), Edit: func(f *lifecycle.Facts) { f.NodeBootstrap = nil }, Want: nodetest.Outline{Phase: lifecycle.Gone}},
		"it is a budget of its own":  {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(asks(a()), nodetest.Records(nodetest.Denials(1, 8)...)), Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1", Verdicts: "serving-a: Approve", Serving: approves}},
		"and takes nothing of a key": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(asks(before(20, isDenied)...), nodetest.With(nodetest.Request("csr-a", 1, 0))), Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1", Verdicts: "csr-a: Approved"}},
	})
}

// A CSR waits for something unwatched, so it is evaluated again in a minute. A decided one, or one above the limit, is not.
func TestDecideRequeuesForServingCertificates(t *testing.T) {
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) func(*lifecycle.Facts) {
		return nodetest.Edits(nodetest.Declares(), nodetest.Serves(nodetest.ServingRequest("serving-a", 0, edit...)))
	}
	tests := map[string]struct {
		edit func(*lifecycle.Facts)
		want time.Time
	}{
		"none":     {nodetest.Declares(), time.Time{}},
		"approved": {a(), time.Time{}},
		"denied":   {a(nodetest.Naming()), time.Time{}},
		"waits":    {a(nodetest.Naming("192.0.2.8")), nodetest.Now.Add(time.Minute)},
		"too many": {nodetest.Edits(nodetest.Declares(), nodetest.Serves(append(nodetest.ServingRequests(20, nodetest.Approved(0)), nodetest.ServingRequest("serving-a", 0))...)), time.Time{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := nodetest.JoinedBefore()
			tt.edit(f)
			if p := nodetest.Decide(f, nodetest.Now); !p.RequeueAt.Equal(tt.want) {
				t.Errorf("got %s, want %s", p.RequeueAt, tt.want)
			}
		})
	}
}

func TestSupportsServing(t *testing.T) {
	tests := map[string]struct {
		edit func(*lifecycle.Facts)
		want bool
	}{
		"all is as it was": {func(*lifecycle.Facts) {}, true},
		"another field":    {nodetest.Approval(v1alpha1.ApprovalManual), true},
		"another status":   {func(f *lifecycle.Facts) { f.NodeBootstrap.Status = nodetest.StatusOf(1, nodetest.Young) }, true},
		"a reissue is due": {nodetest.AskReissue, true},
		"one address more": {declaring(nodetest.NodeName, nodetest.Address, "x"), true},
		"a larger network": {declaring(nodetest.NodeName, "192.0.2.0/24"), true},
		"another server":   {func(f *lifecycle.Facts) { f.NodeBootstrap.Spec.Cluster.Server = nodetest.Server }, true},
		"an alarm since":   {nodetest.Raised("SecondKey"), false},
		"another NodeBootstrap": {func(f *lifecycle.Facts) {
			f.NodeBootstrap.UID = nodetest.FormerUID
		}, false},
		"one address less": {declaring(nodetest.NodeName), false},
		"another address":  {declaring(nodetest.NodeName, "192.0.2.8"), false},
		"none":             {declaring(), false},
		"one is reserved":  {func(f *lifecycle.Facts) { f.ReservedAddresses = []csr.Reservation{{Host: nodetest.Address}} }, false},
		"one is another's": {func(f *lifecycle.Facts) { f.DeclaredElsewhere = map[string]string{nodetest.Address: "worker-2"} }, false},
		"no server is known": {func(f *lifecycle.Facts) {
			f.Cluster, f.ClusterProblem = kubeconfig.Cluster{}, &problem.Problem{Reason: v1alpha1.ReasonServerUnknown}
		}, false},
		"only the CA is wrong": {func(f *lifecycle.Facts) {
			f.Cluster, f.ClusterProblem = kubeconfig.Cluster{Server: nodetest.Server}, &problem.Problem{Reason: v1alpha1.ReasonCADoesNotVerify}
		}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Fresh()
			nodetest.Declares()(f)
			decided := f.NodeBootstrap.DeepCopy()
			tt.edit(f)
			if got := lifecycle.SupportsServing(decided, f, nodetest.ServingRequest("serving-a", 0)); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func declaring(addresses ...string) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) { f.NodeBootstrap.Spec.ServingCertificate.Addresses = addresses }
}

// sent makes a CSR sent a while ago.
func sent(age time.Duration) func(*certificatesv1.CertificateSigningRequest) {
	return func(r *certificatesv1.CertificateSigningRequest) { r.CreationTimestamp = nodetest.Ago(age) }
}
