// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"slices"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

func TestDecideOnServingCertificates(t *testing.T) {
	const isDenied, failed = certificatesv1.CertificateDenied, certificatesv1.CertificateFailed
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return servingRequest("serving-a", minutes(2), edit...)
	}
	b := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return servingRequest("serving-b", minutes(1), edit...)
	}
	c := func(age time.Duration, edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return servingRequest("serving-c", age, edit...)
	}
	asks := func(requests ...*certificatesv1.CertificateSigningRequest) func(*Facts) {
		return edits(declares(), serves(requests...))
	}
	joined := func(verdicts, serving string) outline {
		return outline{phase: Joined, verdicts: verdicts, serving: serving}
	}
	before := func(count int, conditionType certificatesv1.RequestConditionType) []*certificatesv1.CertificateSigningRequest {
		return servingRequests(count, sent(minutes(30)), decided(conditionType, 0))
	}
	undeclared, foreign, noAddress := naming(testNode, "192.0.2.8"), func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Groups = nil }, naming()
	const approves, denies = "Approve KubeletServingOfThisNode", "Deny NoAddress"
	const waits, tooMany, misused = "Wait AddressNotDeclared", "Wait TooManyRequests", "Wait TokenMisused"
	alarm := raised("SecondKey")
	noCA := func(f *Facts) { f.ClusterProblem, f.Cluster.CA = &Problem{v1alpha1.ReasonCAUnknown, "no CA"}, nil }
	testPlans(t, map[string]planned{
		"none":                      {joinedBefore(), asks(), joined("", "")},
		"declared":                  {joinedBefore(), asks(a()), joined("serving-a: Approve", approves)},
		"declared by a CIDR":        {joinedBefore(), edits(declares(testNode, "192.0.2.0/24"), serves(a(undeclared))), joined("serving-a: Approve", approves)},
		"nothing is declared":       {joinedBefore(), serves(a()), joined("", "")},
		"another is declared":       {joinedBefore(), asks(a(undeclared)), joined("", waits)},
		"bad":                       {joinedBefore(), asks(a(noAddress)), joined("serving-a: Deny", denies)},
		"not the kubelet's":         {joinedBefore(), asks(a(foreign)), joined("", "")},
		"reserved":                  {joinedBefore(), edits(asks(a()), func(f *Facts) { f.ReservedAddresses = []csr.Reservation{{Host: testAddress}} }), joined("", "Wait AddressReserved")},
		"another is reserved":       {joinedBefore(), edits(asks(a()), func(f *Facts) { f.ReservedAddresses = []csr.Reservation{{Host: "192.0.2.9"}} }), joined("serving-a: Approve", approves)},
		"declared elsewhere":        {joinedBefore(), edits(asks(a()), func(f *Facts) { f.DeclaredElsewhere = map[string]string{testAddress: "worker-2"} }), joined("", "Wait AddressDeclaredElsewhere")},
		"another declared there":    {joinedBefore(), edits(asks(a()), func(f *Facts) { f.DeclaredElsewhere = map[string]string{"192.0.2.9": "worker-2"} }), joined("serving-a: Approve", approves)},
		"approved":                  {joinedBefore(), asks(a(approved(0))), joined("", "")},
		"denied":                    {joinedBefore(), asks(a(decided(isDenied, 0))), joined("", "")},
		"failed":                    {joinedBefore(), asks(a(decided(failed, 0))), joined("", "")},
		"two":                       {joinedBefore(), asks(a(), b()), joined("serving-b: Approve, serving-a: Approve", approves)},
		"the newest is bad":         {joinedBefore(), asks(a(), b(noAddress)), joined("serving-b: Deny, serving-a: Approve", denies)},
		"the newest waits":          {joinedBefore(), asks(b(undeclared), a()), joined("serving-a: Approve", waits)},
		"the newest does not":       {joinedBefore(), asks(a(undeclared), b()), joined("serving-b: Approve", approves)},
		"the newest is another's":   {joinedBefore(), asks(a(), b(foreign)), joined("serving-a: Approve", approves)},
		"the newest is decided on":  {joinedBefore(), asks(a(), b(approved(0))), joined("", "")},
		"one of its second is not":  {joinedBefore(), asks(a(sent(minutes(1))), b(approved(0))), joined("serving-a: Approve", approves)},
		"of the second of another":  {joinedBefore(), asks(a(), servingRequest("serving-b", minutes(2), approved(0)), c(0, approved(0))), joined("", "")},
		"an older one is":           {joinedBefore(), asks(a(approved(0)), b()), joined("serving-b: Approve", approves)},
		"three":                     {joinedBefore(), asks(a(), b(), c(0)), joined("serving-c: Approve, serving-b: Approve, serving-a: Approve", approves)},
		"four":                      {joinedBefore(), asks(a(), b(), c(0), c(minutes(3))), joined("serving-c: Approve, serving-b: Approve, serving-a: Approve", approves)},
		"of four, three wait":       {joinedBefore(), asks(a(undeclared), b(undeclared), c(0, undeclared), c(minutes(3))), joined("", waits)},
		"by name within a second":   {joinedBefore(), asks(a(), servingRequest("serving-z", minutes(2), noAddress)), joined("serving-z: Deny, serving-a: Approve", denies)},
		"after nineteen":            {joinedBefore(), asks(append(before(19, isDenied), a(), b())...), joined("serving-b: Approve", approves)},
		"after eighteen":            {joinedBefore(), asks(append(before(18, isDenied), a(), b())...), joined("serving-b: Approve, serving-a: Approve", approves)},
		"after twenty":              {joinedBefore(), asks(append(before(20, isDenied), a())...), joined("", tooMany)},
		"after twenty approved":     {joinedBefore(), asks(append(before(20, certificatesv1.CertificateApproved), a())...), joined("", tooMany)},
		"after twenty that failed":  {joinedBefore(), asks(append(before(20, failed), a())...), joined("", tooMany)},
		"after thirty":              {joinedBefore(), asks(append(before(30, isDenied), a())...), joined("", tooMany)},
		"twenty, and none waits":    {joinedBefore(), asks(before(20, isDenied)...), joined("", "")},
		"after nineteen, one waits": {joinedBefore(), asks(append(before(19, isDenied), a(), b(undeclared))...), joined("", waits)},

		"the node is waited for":     {awaited(1, young), asks(a()), outline{phase: Awaited, token: "#1", verdicts: "serving-a: Approve", serving: approves}},
		"it asks for both":           {awaited(1, young), edits(asks(a()), with(request("csr-a", 1, 0))), outline{phase: Awaited, token: "#1", verdicts: "csr-a: Approved, serving-a: Approve", serving: approves}},
		"there is no cluster":        {awaited(1, young), edits(asks(a()), noCluster), outline{phase: Awaited, token: "#1", problem: "ServerUnknown", serving: "Wait ServerUnknown"}},
		"the same, joined":           {joinedBefore(), edits(asks(a()), noCluster), joined("", "Wait ServerUnknown")},
		"the same, undeclared":       {joinedBefore(), edits(asks(a(undeclared)), noCluster), joined("", waits)},
		"the same, bad":              {joinedBefore(), edits(asks(a(noAddress)), noCluster), joined("serving-a: Deny", denies)},
		"its CA alone is unknown":    {joinedBefore(), edits(asks(a()), noCA), joined("serving-a: Approve", approves)},
		"an alarm stands":            {awaited(1, young), edits(asks(a()), alarm), outline{phase: Withdrawn, deleteToken: "#1", dropConfig: true, serving: misused}},
		"an alarm is raised":         {awaited(1, young), edits(asks(a()), with(request("csr-a", 1, 0, forNode("worker-2")))), outline{phase: Withdrawn, deleteToken: "#1", dropConfig: true, verdicts: "csr-a: Denied", misuse: "WrongSubject", serving: misused}},
		"an alarm, and it is bad":    {joinedBefore(), edits(asks(a(noAddress)), alarm), joined("serving-a: Deny", denies)},
		"an alarm, undeclared":       {joinedBefore(), edits(asks(a(undeclared)), alarm), joined("", waits)},
		"an alarm, joined":           {joinedBefore(), edits(asks(a()), alarm), joined("", misused)},
		"an alarm, ClusterWide":      {joinedBefore(), edits(asks(a()), alarm, approval(v1alpha1.ApprovalClusterWide)), joined("", misused)},
		"a reissue is due since":     {awaited(1, young), edits(asks(a()), alarm, askReissue), outline{phase: Awaited, reissue: true, mint: "#2", deleteToken: "#1", verdicts: "serving-a: Approve", serving: approves}},
		"after the deadline":         {fresh(), edits(asks(a()), deadlineAfter(time.Minute)), outline{phase: DeadlineExceeded, verdicts: "serving-a: Approve", serving: approves}},
		"with approval Manual":       {joinedBefore(), edits(asks(a()), approval(v1alpha1.ApprovalManual)), joined("serving-a: Approve", approves)},
		"there is no NodeBootstrap":  {fresh(), func(f *Facts) { f.NodeBootstrap = nil }, outline{phase: Gone}},
		"it is a budget of its own":  {awaited(1, young), edits(asks(a()), records(denials(1, 8)...)), outline{phase: Awaited, token: "#1", verdicts: "serving-a: Approve", serving: approves}},
		"and takes nothing of a key": {awaited(1, young), edits(asks(before(20, isDenied)...), with(request("csr-a", 1, 0))), outline{phase: Awaited, token: "#1", verdicts: "csr-a: Approved"}},
	})
}

// What a verdict waits for is not watched: it is looked at again in a minute. What was decided on, or cannot be, is not.
func TestDecideLooksAgainForServingCertificates(t *testing.T) {
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) func(*Facts) {
		return edits(declares(), serves(servingRequest("serving-a", 0, edit...)))
	}
	tests := map[string]struct {
		edit func(*Facts)
		want time.Time
	}{
		"none":     {declares(), time.Time{}},
		"approved": {a(), time.Time{}},
		"denied":   {a(naming()), time.Time{}},
		"waits":    {a(naming("192.0.2.8")), now.Add(time.Minute)},
		"too many": {edits(declares(), serves(append(servingRequests(20, approved(0)), servingRequest("serving-a", 0))...)), time.Time{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := joinedBefore()
			tt.edit(f)
			if p := decide(f, now); !p.RequeueAt.Equal(tt.want) {
				t.Errorf("got %s, want %s", p.RequeueAt, tt.want)
			}
		})
	}
}

// An approval of a serving certificate binds no key: nothing is claimed before.
func TestServingCertificatesAreNotClaimed(t *testing.T) {
	f := joinedBefore()
	edits(declares(), serves(servingRequest("serving-a", 0), servingRequest("serving-b", 0, naming())))(f)
	p := decide(f, now)
	if len(p.Decisions) != 2 || p.Misuse != nil {
		t.Fatalf("got %+v", outlineOf(&p))
	}
	for _, d := range p.Decisions {
		if d.Record != (v1alpha1.CertificateDecision{}) || d.Result.Message == "" {
			t.Errorf("got %+v", d)
		}
	}
	if claimed := p.Claimed(f, now); claimed != nil {
		t.Errorf("got %s", asJSON(claimed))
	}
}

func TestAddressesToDecide(t *testing.T) {
	type requests = []*certificatesv1.CertificateSigningRequest
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return servingRequest("serving-a", minutes(1), edit...)
	}
	junk := func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = []byte("junk") }
	tests := map[string]struct {
		requests requests
		want     []string
	}{
		"none":                 {nil, nil},
		"one":                  {requests{a()}, []string{testNode, testAddress}},
		"two of the same":      {requests{a(), servingRequest("serving-b", 0)}, []string{testNode, testAddress}},
		"two of others":        {requests{a(), servingRequest("serving-b", 0, naming("x", "192.0.2.8"))}, []string{"x", "192.0.2.8", testNode, testAddress}},
		"in another spelling":  {requests{a(naming("Worker-1", "worker-1.", "worker-1", "::ffff:192.0.2.7", testAddress))}, []string{testNode, testAddress}},
		"decided on":           {requests{a(approved(0)), servingRequest("serving-b", 0, naming("x"))}, []string{"x"}},
		"before it":            {requests{a(), servingRequest("serving-b", 0, naming("x"), approved(0))}, nil},
		"the last three":       {append(requests{servingRequest("serving-z", 0, naming("x"))}, servingRequests(5)...), []string{"x", testNode, testAddress}},
		"of four":              {requests{a(naming("y")), servingRequest("b", 0, naming("x")), servingRequest("c", 0, naming("x")), servingRequest("d", 0, naming("x"))}, []string{"x"}},
		"it cannot be parsed":  {requests{a(junk)}, nil},
		"too many":             {append(servingRequests(20, approved(0)), a()), nil},
		"one may be decided":   {append(servingRequests(19, approved(0)), a(), servingRequest("serving-b", 0, naming("x"))), []string{"x"}},
		"none may, of several": {append(servingRequests(25, approved(0)), a(), servingRequest("serving-b", 0, naming("x"))), nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before := slices.Clone(tt.requests)
			if got := AddressesToDecide(tt.requests); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if !slices.Equal(before, tt.requests) {
				t.Error("the requests that were read are in another order")
			}
		})
	}
}

func TestAllDecided(t *testing.T) {
	type requests = []*certificatesv1.CertificateSigningRequest
	done := servingRequests(3, approved(0))
	for name, tt := range map[string]struct {
		requests requests
		want     bool
	}{
		"none":          {nil, true},
		"approved":      {done, true},
		"denied":        {servingRequests(1, decided(certificatesv1.CertificateDenied, 0)), true},
		"failed":        {servingRequests(1, decided(certificatesv1.CertificateFailed, 0)), true},
		"one waits":     {append(servingRequests(3, approved(0)), servingRequest("serving-a", 0)), false},
		"the first one": {append(requests{servingRequest("serving-a", 0)}, done...), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := AllDecided(tt.requests); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestSupportsServing(t *testing.T) {
	tests := map[string]struct {
		edit func(*Facts)
		want bool
	}{
		"all is as it was": {func(*Facts) {}, true},
		"another field":    {approval(v1alpha1.ApprovalManual), true},
		"another status":   {func(f *Facts) { f.NodeBootstrap.Status = statusOf(1, young) }, true},
		"a reissue is due": {askReissue, true},
		"one address more": {declaring(testNode, testAddress, "x"), true},
		"a larger network": {declaring(testNode, "192.0.2.0/24"), true},
		"another server":   {func(f *Facts) { f.NodeBootstrap.Spec.Cluster.Server = testServer }, true},
		"an alarm since":   {raised("SecondKey"), false},
		"another NodeBootstrap": {func(f *Facts) {
			f.NodeBootstrap.UID = formerUID
		}, false},
		"one address less": {declaring(testNode), false},
		"another address":  {declaring(testNode, "192.0.2.8"), false},
		"none":             {declaring(), false},
		"one is reserved":  {func(f *Facts) { f.ReservedAddresses = []csr.Reservation{{Host: testAddress}} }, false},
		"one is another's": {func(f *Facts) { f.DeclaredElsewhere = map[string]string{testAddress: "worker-2"} }, false},
		"no server is known": {func(f *Facts) {
			f.Cluster, f.ClusterProblem = Cluster{}, &Problem{Reason: v1alpha1.ReasonServerUnknown}
		}, false},
		"only the CA is wrong": {func(f *Facts) {
			f.Cluster, f.ClusterProblem = Cluster{Server: testServer}, &Problem{Reason: v1alpha1.ReasonCADoesNotVerify}
		}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := fresh()
			declares()(f)
			decided := f.NodeBootstrap.DeepCopy()
			tt.edit(f)
			if got := SupportsServing(decided, f, servingRequest("serving-a", 0)); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func declaring(addresses ...string) func(*Facts) {
	return func(f *Facts) { f.NodeBootstrap.Spec.ServingCertificate.Addresses = addresses }
}

// The hour for which requests are kept after they were decided on bounds how many there are.
func TestServingFloodsEnd(t *testing.T) {
	f := joinedBefore()
	edits(declares(), serves(servingRequests(200)...))(f)
	decisions := 0
	for n := range 12 {
		before := f.NodeBootstrap.Status.DeepCopy()
		p, _, events := pass(f)
		decisions += len(p.Decisions)
		if n > 9 && (len(events) > 0 || asJSON(before) != asJSON(f.NodeBootstrap.Status)) {
			t.Errorf("pass %d: told %v, and the status is\n%s and was\n%s", n, events, asJSON(f.NodeBootstrap.Status), asJSON(before))
		}
	}
	if served := short(&f.NodeBootstrap.Status, v1alpha1.ConditionServingCertificateApproved); decisions != maxServingDecisions || served != "True "+csr.ReasonKubeletServing {
		t.Errorf("%d decisions, and then %s", decisions, served)
	}
	if n := len(f.NodeBootstrap.Status.Certificates) - 1; n < 3 || n > 4 { // one is the client certificate
		t.Errorf("recorded are %d", n)
	}
	f.ServingRequests = append(f.ServingRequests, servingRequest("serving-z", 0))
	p, _, _ := pass(f)
	if served := short(&f.NodeBootstrap.Status, v1alpha1.ConditionServingCertificateApproved); len(p.Decisions) > 0 || served != "False "+ReasonTooManyRequests {
		t.Errorf("one more: %+v, and then %s", outlineOf(&p), served)
	}
	for _, d := range f.NodeBootstrap.Status.Certificates[1:] {
		if d.SignerName != certificatesv1.KubeletServingSignerName || d.Reason != csr.ReasonKubeletServing {
			t.Errorf("got %+v", d)
		}
	}
}
