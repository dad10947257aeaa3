// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	certutil "k8s.io/client-go/util/cert"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// kubeletRequest is created as a stock kubelet does.
func kubeletRequest(t *testing.T, key string, names []string, ips []net.IP) []byte {
	t.Helper()
	subject := pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + testNode}
	text, err := certutil.MakeCSR(testKey(t, key), &subject, names, ips)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// An oracle that approves nothing would agree with every denial: both must approve what a stock kubelet sends.
func TestBothApproveAStockKubelet(t *testing.T) {
	approved := 0
	for _, key := range goodKeys {
		_, isRSA := testKey(t, key).(*rsa.PrivateKey)
		if compareClient(t, clientRequest(kubeletRequest(t, key, nil, nil), isRSA)) {
			approved++
		}
		for _, names := range [][]string{nil, {testNode}} {
			text := kubeletRequest(t, key, names, []net.IP{net.ParseIP("192.0.2.10"), net.ParseIP("2001:db8::7")})
			if compareServing(t, servingRequest(text, isRSA)) {
				approved++
			}
		}
		if compareServing(t, servingRequest(kubeletRequest(t, key, []string{testNode}, nil), isRSA)) {
			approved++
		}
	}
	if want := 4 * len(goodKeys); approved != want {
		t.Errorf("%d of %d good CSRs are approved", approved, want)
	}
}

// The good seeds of the fuzz targets are good.
func TestTheOracleApprovesTheGoodSeeds(t *testing.T) {
	for _, key := range goodKeys {
		if err := oracleClient(facts{}.client(writePEM(goodClient(t, key)), testNode)); err != nil {
			t.Errorf("client, %s: %v", key, err)
		}
		if err := oracleServing(facts{}.serving(writePEM(goodServing(t, key)), testNode)); err != nil {
			t.Errorf("serving, %s: %v", key, err)
		}
	}
	signer := testKey(t, "p256")
	for _, list := range someNames[:6] {
		der := signed(t, signer, requestInfo(t, signer, testNode, alternativeNames(names([]byte(list))...)), 0)
		if err := oracleServing(facts{}.serving(writePEM(der), testNode)); err != nil {
			t.Errorf("the names %x: %v", list, err)
		}
	}
}

// The oracle finds each defect by itself, for the intended reason.
func TestTheOracleDeniesSpoiltRequests(t *testing.T) {
	signer := testKey(t, "p256")
	clientInfo := requestInfo(t, signer, testNode, nil)
	servingInfo := requestInfo(t, signer, testNode, alternativeNames(goodNames()...))
	for _, s := range infoSpoils {
		der := signed(t, signer, mutate(clientInfo, []byte(s.ops)), 0)
		wantError(t, s.name, oracleClient(facts{}.client(writePEM(der), testNode)), s.want)
	}
	for _, s := range attributeSpoils {
		der := signed(t, signer, mutate(servingInfo, []byte(s.ops)), 0)
		wantError(t, s.name, oracleServing(facts{}.serving(writePEM(der), testNode)), s.want)
	}
	for _, s := range outerSpoils {
		der := mutate(signed(t, signer, clientInfo, 0), []byte(s.ops))
		wantError(t, s.name, oracleClient(facts{}.client(writePEM(der), testNode)), s.want)
	}
	for _, bad := range badPEMs(writePEM(goodClient(t, "p256"))) {
		if err := oracleClient(facts{}.client(bad, testNode)); !errors.Is(err, errPEM) && !errors.Is(err, errSize) && !errors.Is(err, errDER) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestTheOracleDeniesBadKeysAndSignatures(t *testing.T) {
	for _, key := range badKeys {
		r := facts{}.client(writePEM(goodClient(t, key)), testNode)
		wantError(t, key, oracleClient(r), errKey)
		if _, isRSA := testKey(t, key).(*rsa.PrivateKey); isRSA != (len(r.CSR.Spec.Usages) == 3) {
			t.Errorf("%s: the usages %v hide the defect", key, r.CSR.Spec.Usages)
		}
	}
	for key, schemes := range map[string][]scheme{"p256": schemesECDSA, "rsa2048": schemesRSA} {
		signer := testKey(t, key)
		for i := range schemes {
			der := signed(t, signer, requestInfo(t, signer, testNode, nil), uint8(i))
			want := errSignature
			if i < 3 {
				want = nil
			}
			wantError(t, key+" "+schemes[i].algorithm, oracleClient(facts{}.client(writePEM(der), testNode)), want)
		}
	}
}

func TestTheOracleDeniesLargeRequests(t *testing.T) {
	signer := testKey(t, "p256")
	attributes := alternativeNames(names(bytes.Repeat([]byte{0}, maxNames))...)
	text := writePEM(signed(t, signer, requestInfo(t, signer, testNode, attributes), 0))
	wantError(t, "a large request", oracleServing(facts{}.serving(text, testNode)), errSize)
}

func TestTheOracleDeniesWrongFacts(t *testing.T) {
	text := writePEM(goodClient(t, "p256"))
	for i, want := range []error{errUsername, errUsername, errUID, errExtra, errSigner, errSigner, nil, errOlder, errExpired, nil, errExpired, errOlder, errGroups,
		nil, errUsername, errSigner} {
		wantError(t, "a client's fact", oracleClient(facts{spoil: 1 << i}.client(text, testNode)), want)
	}
	for i, groups := range clientGroups {
		want := errGroups
		if slices.Contains([]int{0, 1, 6}, i) {
			want = nil
		}
		wantError(t, "the groups "+strings.Join(groups, ", "), oracleClient(facts{groups: uint8(i)}.client(text, testNode)), want)
	}
	for i, want := range []error{nil, nil, errClaimed, errClaimed, errClaimed, errClaimed, nil, nil, errClaimed, errClaimed, errClaimed, nil, nil, errPinned, errPinned, errPinned} {
		wantError(t, "a claim", oracleClient(facts{claimed: uint8(i)}.client(text, testNode)), want)
	}
	for i := range otherNodes {
		want := errOtherNode
		if i == 0 {
			want = nil
		}
		wantError(t, "another node", oracleClient(facts{other: uint8(i)}.client(text, testNode)), want)
	}
	wantError(t, "usages", oracleClient(facts{usages: 7}.client(text, testNode)), errUsages)
	wantError(t, "no usages", oracleClient(facts{usages: 4}.client(text, testNode)), errUsages)
	wantError(t, "a usage twice", oracleClient(facts{usages: 0x45}.client(text, testNode)), errUsages)
	wantError(t, "a long life", oracleClient(facts{expiration: 366*86400 + 1}.client(text, testNode)), errDuration)
	wantError(t, "a leap year", oracleClient(facts{expiration: 366 * 86400}.client(text, testNode)), nil)
	wantError(t, "another node", oracleClient(facts{}.client(text, "worker-2.example.org")), errSubject)

	text = writePEM(goodServing(t, "p256"))
	for i, want := range []error{errUsername, errUsername, errUID, nil, errExtra, errExtra, errSigner, errSigner, errUndeclared, errAddress, nil, nil, errElsewhere,
		errReserved, errAddress, errAddress} {
		wantError(t, "a serving fact", oracleServing(facts{spoil: 1 << i}.serving(text, testNode)), want)
	}
	for i, groups := range servingGroups {
		want := errGroups
		if i < 2 {
			want = nil
		}
		wantError(t, "the groups "+strings.Join(groups, ", "), oracleServing(facts{groups: uint8(i)}.serving(text, testNode)), want)
	}
}

func TestTheOracleDeniesStrangeMetadata(t *testing.T) {
	client, serving := writePEM(goodClient(t, "p256")), writePEM(goodServing(t, "p256"))
	for i := range spoilMetadata {
		var want error
		if 1<<i&harmful != 0 {
			want = errMetadata
		}
		f := facts{metadata: 1 << i}
		wantError(t, fmt.Sprintf("a client's metadata %d", i), oracleClient(f.client(client, testNode)), want)
		wantError(t, fmt.Sprintf("serving metadata %d", i), oracleServing(f.serving(serving, testNode)), want)
		compareMetadata(t, facts{}, f.changeMetadata, client, testNode)
		compareMetadata(t, facts{}, f.changeMetadata, serving, testNode)
	}
}

func TestTheOracleDeniesWrongAddresses(t *testing.T) {
	for asked, want := range map[string]error{
		"worker.example": nil, "WORKER.example": nil, "10.0.0.1": nil, "10.0.255.255": nil, "2001:db8::1": nil, "192.0.2.1": nil, "192.0.2.129": nil,
		"worker.example.": errAddress, "10.1.0.0": errAddress, "dns:10.0.0.1": errAddress, "*.x.example": errAddress, "*.example": errReserved, "a_b": errAddress, "2001:db9::1": errAddress,
		"192.0.2.3": errAddress, "192.0.2.128": errAddress, "fe80::1": errAddress,
		"localhost": errReserved, "Kubernetes.default": errReserved, "kubernetes.default.svc.x": errReserved, "127.0.0.1": errReserved, "::1": errReserved,
		"224.0.0.1": errReserved, "ff02::1": errReserved, "0.0.0.0": errReserved, "api.example": errReserved, "10.0.0.10": errReserved,
		"dns:10.0.0.10": errReserved, "dns:10.0.0.10.": errReserved, "dns:::ffff:10.0.0.10": errReserved, "dns:127.1.1.1": errReserved, "fe80::9": errReserved,
		"dns:fe80::9%x": errReserved, "a.wild.example": errReserved, "*.wild.example": errReserved, "wild.example": errAddress, "b.a.wild.example": errAddress,
		"dns:10.0.0.20": errElsewhere, "dns:2001:DB8::20": errElsewhere,
		"other.example": errElsewhere, "10.0.0.20": errElsewhere, "2001:db8::20": errElsewhere,
	} {
		text, ok := standardRequest(t, []string{asked})
		if !ok {
			t.Fatalf("a CSR for %q cannot be created", asked)
		}
		r := servingRequest(text, false)
		r.Declared = []string{"worker.EXAMPLE", "10.0.1.1/16", "2001:db8::/32", "::ffff:192.0.2.1", "::ffff:192.0.2.129/128", "fe80::1%eth0", "api.example", "other.example", "*.example",
			"a_b", "localhost", "127.0.0.0/8", "kubernetes.default"}
		r.Reserved = reserve("API.example.", "::ffff:10.0.0.10", "*.Wild.example.", "fe80::9%eth0")
		r.Elsewhere = map[string]string{"other.example": "b", "10.0.0.20": "b", "2001:db8::20": "b"}
		wantError(t, asked, oracleServing(r), want)
		compareServing(t, r)
	}
}

// No bit of an approved CSR can be changed.
func TestNoFlippedBitIsApproved(t *testing.T) {
	r := clientRequest(writePEM(goodClient(t, "p256")), false)
	flipEach(t, r.CSR.Spec.Request, func() bool { return csr.Evaluate(r).Verdict == csr.Approve })
	s := servingRequest(writePEM(goodServing(t, "rsa2048")), true)
	flipEach(t, s.CSR.Spec.Request, func() bool { return csr.EvaluateServing(s).Verdict == csr.Approve })
}

func flipEach(t *testing.T, text []byte, isApproved func() bool) {
	t.Helper()
	if !isApproved() {
		t.Fatal("the good CSR is not approved")
	}
	for i := range text {
		for bit := range 8 {
			text[i] ^= 1 << bit
			if isApproved() {
				t.Errorf("approved with bit %d of byte %d changed", bit, i)
			}
			text[i] ^= 1 << bit
		}
	}
}

func wantError(t *testing.T, name string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: the oracle says %v, want %v", name, got, want)
	}
}
