// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

func TestEvaluateApproves(t *testing.T) {
	tests := map[string]func(*Request){
		"what a kubelet sends":      func(*Request) {},
		"the same, created by hand": func(r *Request) { r.CSR.Spec.Request = raw{key: p256()}.pem() },
		"ECDSA on P-384":            func(r *Request) { r.CSR.Spec.Request = kubeletPEM(ecdsaKey(elliptic.P384()), testNode) },
		"ECDSA on P-521":            func(r *Request) { r.CSR.Spec.Request = kubeletPEM(ecdsaKey(elliptic.P521()), testNode) },
		"RSA of 2048 bits by hand":  func(r *Request) { useRSA(r, rsa2048()) },
		"RSA of 2048 bits": func(r *Request) {
			useRSA(r, rsa2048())
			r.CSR.Spec.Request = kubeletPEM(rsa2048(), testNode)
		},
		"usages in another order": func(r *Request) { slices.Reverse(r.CSR.Spec.Usages) },
		"groups in another order": func(r *Request) { slices.Reverse(r.CSR.Spec.Groups) },
		"a token that is also in the cluster-wide group": func(r *Request) {
			r.CSR.Spec.Groups = append(r.CSR.Spec.Groups, testClusterWide)
		},
		"the claimed key again": func(r *Request) { r.ClaimedKeys = []string{must(Fingerprint(r.CSR))} },
		"the pinned key":        func(r *Request) { r.PinnedKey = must(Fingerprint(r.CSR)) },
		"the pinned key, another one is in use": func(r *Request) {
			r.PinnedKey, r.ClaimedKeys, r.ClaimUsed = must(Fingerprint(r.CSR)), []string{must(Fingerprint(requestWith(otherKey()).CSR))}, true
		},
		"a year": func(r *Request) { r.CSR.Spec.ExpirationSeconds = new(int32(366 * 24 * 60 * 60)) },
		"a name with dots": func(r *Request) {
			r.NodeName = "worker-1.rack.example.com"
			r.CSR.Spec.Request = kubeletPEM(p256(), r.NodeName)
		},
		"the longest name": func(r *Request) {
			r.NodeName = strings.Repeat("n", 232)
			r.CSR.Spec.Request = kubeletPEM(p256(), r.NodeName)
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			r := goodRequest()
			change(&r)
			got := Evaluate(r)
			if got.Verdict != Approve || got.Reason != ReasonKubeletClient {
				t.Fatalf("got verdict %d, %s: %s", got.Verdict, got.Reason, got.Message)
			}
			if want := must(Fingerprint(r.CSR)); got.KeyFingerprint != want {
				t.Errorf("the key is %q, want %q", got.KeyFingerprint, want)
			}
			if !strings.Contains(got.Message, r.NodeName) || !strings.Contains(got.Message, testTokenID) {
				t.Errorf("the message names neither node nor token: %s", got.Message)
			}
		})
	}
}

// A finding is a verdict other than Approve.
type finding struct {
	spoil   func(*Request)
	verdict Verdict
	reason  string
}

func testFindings(t *testing.T, tests map[string]finding) {
	t.Helper()
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := goodRequest()
			tt.spoil(&r)
			got := Evaluate(r)
			if got.Verdict != tt.verdict || got.Reason != tt.reason {
				t.Fatalf("got verdict %d, %s: %s\nwant verdict %d, %s", got.Verdict, got.Reason, got.Message, tt.verdict, tt.reason)
			}
			if got.Message == "" {
				t.Error("no message")
			}
		})
	}
}

func TestEvaluateLooksAtTheRequester(t *testing.T) {
	username := func(name string) finding {
		return finding{func(r *Request) { r.CSR.Spec.Username = name }, Leave, ReasonNotOurs}
	}
	groups := func(change func([]string) []string) finding {
		return finding{func(r *Request) { r.CSR.Spec.Groups = change(r.CSR.Spec.Groups) }, Deny, ReasonWrongRequester}
	}
	without := func(group string) finding {
		return groups(func(g []string) []string {
			return slices.DeleteFunc(g, func(have string) bool { return have == group })
		})
	}
	with := func(group string) finding {
		return groups(func(g []string) []string { return append(g, group) })
	}
	testFindings(t, map[string]finding{
		"another token":               username("system:bootstrap:zzz999"),
		"a token that begins alike":   username("system:bootstrap:" + testTokenID + "4"),
		"a node":                      username("system:node:" + testNode),
		"a person":                    username("kubernetes-admin"),
		"nobody":                      username(""),
		"no groups":                   groups(func([]string) []string { return nil }),
		"not authenticated":           without("system:authenticated"),
		"not a bootstrapper":          without("system:bootstrappers"),
		"not in the operator's group": without(testGroup),
		"also an administrator":       with("system:masters"),
		"also a node":                 with("system:nodes"),
		"also another bootstrapper":   with("system:bootstrappers:kubeadm:default-node-token"),
		"a group that begins alike":   with(testGroup + ":x"),
		"only the cluster-wide group": groups(func([]string) []string { return []string{testClusterWide} }),
		"a uid":                       {func(r *Request) { r.CSR.Spec.UID = "1234" }, Deny, ReasonWrongRequester},
		"extra data": {func(r *Request) {
			r.CSR.Spec.Extra = map[string]certificatesv1.ExtraValue{"authentication.kubernetes.io/credential-id": {"X509SHA256=00"}}
		}, Deny, ReasonWrongRequester},
	})
}

func TestEvaluateLooksAtTheSpec(t *testing.T) {
	signer := func(name string) finding {
		return finding{func(r *Request) { r.CSR.Spec.SignerName = name }, Deny, ReasonWrongSigner}
	}
	usages := func(want ...certificatesv1.KeyUsage) finding {
		return finding{func(r *Request) { r.CSR.Spec.Usages = want }, Deny, ReasonWrongUsages}
	}
	const signature, clientAuth = certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth
	seconds := func(n int32) finding {
		return finding{func(r *Request) { r.CSR.Spec.ExpirationSeconds = &n }, Deny, ReasonWrongDuration}
	}
	testFindings(t, map[string]finding{
		"the signer of serving certificates":           signer(certificatesv1.KubeletServingSignerName),
		"the signer of any client certificates":        signer(certificatesv1.KubeAPIServerClientSignerName),
		"another client's own signer":                  signer("example.com/signer"),
		"no signer":                                    signer(""),
		"no usages":                                    usages(),
		"no client auth":                               usages(signature),
		"no digital signature":                         usages(clientAuth),
		"server auth too":                              usages(signature, clientAuth, certificatesv1.UsageServerAuth),
		"server auth instead":                          usages(signature, certificatesv1.UsageServerAuth),
		"any usage":                                    usages(signature, clientAuth, certificatesv1.UsageAny),
		"client auth twice":                            usages(signature, clientAuth, clientAuth),
		"digital signature twice and no other":         usages(signature, signature),
		"key encipherment with ECDSA":                  usages(signature, certificatesv1.UsageKeyEncipherment, clientAuth),
		"certificate signing":                          usages(signature, clientAuth, certificatesv1.UsageCertSign),
		"a second more than a year":                    seconds(366*24*60*60 + 1),
		"the longest duration that can be requested":   seconds(1<<31 - 1),
		"RSA without key encipherment":                 {func(r *Request) { r.CSR.Spec.Request = kubeletPEM(rsa2048(), testNode) }, Deny, ReasonWrongUsages},
		"RSA with key encipherment and no client auth": {func(r *Request) { useRSA(r, rsa2048()); r.CSR.Spec.Usages = slices.Delete(r.CSR.Spec.Usages, 1, 2) }, Deny, ReasonWrongUsages},
		"another key than the one that is claimed":     {func(r *Request) { r.ClaimedKeys = []string{must(Fingerprint(requestWith(otherKey()).CSR))} }, Deny, ReasonKeyReplaced},
		"another key of another kind than the one that is claimed": {func(r *Request) {
			r.ClaimedKeys = []string{must(Fingerprint(r.CSR))}
			useRSA(r, rsa2048())
		}, Deny, ReasonKeyReplaced},
		"another key than the pinned one": {func(r *Request) { r.PinnedKey = must(Fingerprint(requestWith(otherKey()).CSR)) }, Deny, ReasonKeyNotPinned},
		"the claimed key, another one is pinned": {func(r *Request) {
			r.ClaimedKeys, r.PinnedKey = []string{must(Fingerprint(r.CSR))}, must(Fingerprint(requestWith(otherKey()).CSR))
		}, Deny, ReasonKeyNotPinned},
		"another key than the pinned one, with usages that hide it": {func(r *Request) {
			r.PinnedKey, r.CSR.Spec.Usages = must(Fingerprint(requestWith(otherKey()).CSR)), nil
		}, Deny, ReasonKeyNotPinned},
		"the pinned key, for another node": {func(r *Request) {
			r.CSR.Spec.Request = kubeletPEM(p256(), "worker-2")
			r.PinnedKey = must(Fingerprint(r.CSR))
		}, Deny, ReasonWrongSubject},
		"a key that another node has": {func(r *Request) { r.OtherNode = "worker-2" }, Deny, ReasonKeyOfAnotherNode},
		"the claimed key, which another node has too": {func(r *Request) {
			r.ClaimedKeys, r.OtherNode = []string{must(Fingerprint(r.CSR))}, "worker-2"
		}, Deny, ReasonKeyOfAnotherNode},
	})
}

// A thief who has a node of their own can send its key: that is a second key for the token, and must raise the alarm.
func TestKeyOfAnotherNodeHidesNoEvidence(t *testing.T) {
	with := func(spoil func(*Request)) func(*Request) {
		return func(r *Request) {
			r.OtherNode = "worker-2"
			spoil(r)
		}
	}
	second := func(r *Request) { r.ClaimedKeys = []string{must(Fingerprint(requestWith(otherKey()).CSR))} }
	testFindings(t, map[string]finding{
		"another token":  {with(func(r *Request) { r.CSR.Spec.Username = "system:bootstrap:zzz999" }), Leave, ReasonNotOurs},
		"another signer": {with(func(r *Request) { r.CSR.Spec.SignerName = certificatesv1.KubeletServingSignerName }), Deny, ReasonWrongSigner},
		"another node":   {with(func(r *Request) { r.CSR.Spec.Request = kubeletPEM(p256(), "worker-2") }), Deny, ReasonWrongSubject},
		"a second key":   {with(second), Deny, ReasonKeyReplaced},
		"a second key, and the first is used": {with(func(r *Request) {
			second(r)
			r.ClaimUsed = true
		}), Deny, ReasonSecondKey},
		"a second key that was sent before": {with(func(r *Request) {
			second(r)
			r.ClaimedAt = testTime.Add(time.Second)
		}), Deny, ReasonSuperseded},
	})
}

func requestWith(key crypto.Signer) Request {
	r := goodRequest()
	r.CSR.Spec.Request = kubeletPEM(key, testNode)
	return r
}

// With any single bit changed, by an attacker or a disk, the CSR is not the one that a kubelet signed.
func TestEvaluateApprovesNoOtherByte(t *testing.T) {
	r := goodRequest()
	good := r.CSR.Spec.Request
	for i := range good {
		for bit := range 8 {
			r.CSR.Spec.Request = bytes.Clone(good)
			r.CSR.Spec.Request[i] ^= 1 << bit
			if got := Evaluate(r); got.Verdict != Deny {
				t.Errorf("byte %d, bit %d: got verdict %d, %s", i, bit, got.Verdict, got.Reason)
			}
		}
		r.CSR.Spec.Request = good[:i]
		if got := Evaluate(r); got.Verdict != Deny {
			t.Errorf("cut off at byte %d: got verdict %d, %s", i, got.Verdict, got.Reason)
		}
	}
}

// The message about a second key lets a person compare it with the first and request a reissue.
func TestSecondKeyMessageHelps(t *testing.T) {
	for reason, c := range map[string]struct {
		used bool
		says string
	}{ReasonSecondKey: {true, "two machines have the kubeconfig"}, ReasonKeyReplaced: {false, "the kubelet restarted before it received its certificate"}} {
		r := goodRequest()
		r.ClaimedKeys, r.ClaimUsed = []string{must(Fingerprint(requestWith(otherKey()).CSR))}, c.used
		got := Evaluate(r)
		if got.Reason != reason {
			t.Errorf("it is denied with %s, want %s", got.Reason, reason)
		}
		for _, want := range []string{c.says, strings.TrimPrefix(r.ClaimedKeys[0], "SHA256:"), "kubectl annotate nodebootstrap " + testNode, "nodebootstrap.io/reissue-requested-at"} {
			if !strings.Contains(got.Message, want) {
				t.Errorf("%q is not in the message: %s", want, got.Message)
			}
		}
		if got.KeyFingerprint != must(Fingerprint(r.CSR)) {
			t.Errorf("the key of the denied CSR is %q", got.KeyFingerprint)
		}
	}
}

// A restarted kubelet sends another key. While the earlier key is unused, that is no evidence of theft, and the allowed number of
// replacement keys is approved.
func TestKeysThatReplaceOthers(t *testing.T) {
	key := func(r *Request) string { return must(Fingerprint(r.CSR)) }
	before, another := must(Fingerprint(requestWith(otherKey()).CSR)), must(Fingerprint(requestWith(ecdsaKey(elliptic.P384())).CSR))
	approve := func(edit func(*Request)) finding { return finding{edit, Approve, ReasonKubeletClient} }
	set := func(replacements int, used bool, keys ...string) func(*Request) {
		return func(r *Request) {
			r.Replacements, r.ClaimUsed, r.ClaimedKeys, r.ClaimedAt = replacements, used, keys, r.CSR.CreationTimestamp.Time
		}
	}
	late := func(edit func(*Request)) func(*Request) {
		return func(r *Request) { edit(r); r.ClaimedAt = r.CSR.CreationTimestamp.Add(time.Second) }
	}
	testFindings(t, map[string]finding{
		"none is left":                      {set(0, false, before), Deny, ReasonKeyReplaced},
		"none is left, it is used":          {set(0, true, before), Deny, ReasonSecondKey},
		"one is left":                       approve(set(1, false, before)),
		"one is left, it is used":           {set(1, true, before), Deny, ReasonSecondKey},
		"one was taken":                     {set(1, false, before, another), Deny, ReasonKeyReplaced},
		"one of two was taken":              approve(set(2, false, before, another)),
		"one is left, it waited":            {late(set(1, false, before)), Deny, ReasonSuperseded},
		"none is left, it waited":           {late(set(0, false, before)), Deny, ReasonSuperseded},
		"it waited, and the key is used":    {late(set(0, true, before)), Deny, ReasonSuperseded},
		"it is the first one":               approve(func(r *Request) { set(0, true, key(r), before)(r) }),
		"it is the last one":                approve(func(r *Request) { set(0, true, before, key(r))(r) }),
		"another node has it, one is left":  {func(r *Request) { set(1, false, before)(r); r.OtherNode = "worker-2" }, Deny, ReasonKeyOfAnotherNode},
		"another node has it, none is left": {func(r *Request) { set(0, false, before)(r); r.OtherNode = "worker-2" }, Deny, ReasonKeyReplaced},
		"a wrong name, one is left":         {func(r *Request) { set(1, false, before)(r); r.CSR.Spec.Request = kubeletPEM(p256(), "worker-2") }, Deny, ReasonWrongSubject},
	})
}

// The message about another node's key names both nodes and the key, and what to do on the machine.
func TestKeyOfAnotherNodeMessageHelps(t *testing.T) {
	r := goodRequest()
	r.OtherNode = "worker-2"
	got := Evaluate(r)
	for _, want := range []string{got.KeyFingerprint, "the node worker-2,", "the node worker-1:", "/var/lib/kubelet/pki"} {
		if !strings.Contains(got.Message, want) {
			t.Errorf("%q is not in the message: %s", want, got.Message)
		}
	}
	if got.KeyFingerprint != must(Fingerprint(r.CSR)) {
		t.Errorf("the key of the denied CSR is %q", got.KeyFingerprint)
	}
}
