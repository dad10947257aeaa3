// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// notHidden are the reasons of denials of CSRs for client certificates that come before the metadata check: evidence of theft, and
// unreadable CSRs.
var notHidden = []string{csr.ReasonWrongRequester, csr.ReasonWrongSigner, csr.ReasonTooLarge, csr.ReasonMalformed, csr.ReasonWrongSubject, csr.ReasonKeyNotPinned}

// compareMetadata compares a CSR as one for a client and as one for a serving certificate. It also compares the results with those of the
// same CSR without finalizers and owner references, and with only a kubelet's metadata.
func compareMetadata(t testing.TB, f facts, change func(*metav1.ObjectMeta), text []byte, node string) {
	t.Helper()
	client, serving := f.client(text, node), f.serving(text, node)
	plainClient, plainServing := csr.Evaluate(client), csr.EvaluateServing(serving)
	change(&client.CSR.ObjectMeta)
	change(&serving.CSR.ObjectMeta)
	compareClient(t, client)
	compareServing(t, serving)
	isStrange := len(client.CSR.Finalizers)+len(client.CSR.OwnerReferences) > 0
	changesAsItShould(t, plainClient, csr.Evaluate(client), isStrange && !slices.Contains(notHidden, plainClient.Reason))
	changesAsItShould(t, plainServing, csr.EvaluateServing(serving), isStrange)
}

// changesAsItShould fails a test if metadata changes a result, except for the denial that it causes.
func changesAsItShould(t testing.TB, plain, got csr.Result, denies bool) {
	t.Helper()
	want := plain
	if denies && plain.Verdict != csr.Leave {
		want.Verdict, want.Reason = csr.Deny, csr.ReasonUnexpectedAttributes
	} else if got.KeyFingerprint != plain.KeyFingerprint {
		t.Fatalf("the key is %q, and without the metadata %q", got.KeyFingerprint, plain.KeyFingerprint)
	}
	if got.Verdict != want.Verdict || got.Reason != want.Reason {
		t.Fatalf("the verdict is %v, %s: %s; want %v, %s", got.Verdict, got.Reason, got.Message, want.Verdict, want.Reason)
	}
}

// texts is metadata from the fuzzer: each is a list of lines.
type texts struct{ finalizers, owners, labels, annotations string }

func (x texts) change(m *metav1.ObjectMeta) {
	m.Finalizers = append(m.Finalizers, lines(x.finalizers)...)
	for _, line := range lines(x.owners) {
		kind, name, _ := strings.Cut(line, "/")
		m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: kind, Name: name})
	}
	m.Labels, m.Annotations = pairs(x.labels, m.Labels), pairs(x.annotations, m.Annotations)
}

// pairs adds the keys and values in a text to a map, one pair a line.
func pairs(text string, to map[string]string) map[string]string {
	for _, line := range lines(text) {
		if to == nil {
			to = map[string]string{}
		}
		key, value, _ := strings.Cut(line, "=")
		to[key] = value
	}
	return to
}

// FuzzMetadata varies the metadata of a good CSR, and what comes with it: by a set of known changes, and by texts.
func FuzzMetadata(f *testing.F) {
	add := func(key uint8, x texts, s facts) {
		f.Add(key, x.finalizers, x.owners, x.labels, x.annotations, testNode, s.metadata, s.other, s.claimed, s.groups, s.spoil)
	}
	for key := range uint8(len(allKeys)) {
		add(key, texts{}, facts{})
		add(key, texts{finalizers: "example.org/protect"}, facts{})
	}
	for i := range spoilMetadata {
		add(0, texts{}, facts{metadata: 1 << i})
		add(1, texts{labels: "a=b", annotations: "finalizers=x\n="}, facts{metadata: 1 << i})
		add(0, texts{}, facts{metadata: 1 << i, other: 1})
	}
	for i := range otherNodes {
		for claimed := range uint8(3) {
			add(0, texts{}, facts{other: uint8(i), claimed: claimed})
		}
	}
	for claimed := range uint8(16) {
		add(1, texts{owners: "Node/worker-2"}, facts{claimed: claimed})
	}
	for i := range 16 {
		add(0, texts{}, facts{metadata: 1, spoil: 1 << i})
		add(0, texts{owners: "Node/" + testNode + "\n/"}, facts{other: 1, spoil: 1 << i})
		add(0, texts{labels: "finalizers=x"}, facts{metadata: 0xffff &^ harmful, spoil: 1 << i})
	}
	f.Add(uint8(0), "", "Node/worker-2", "", "", "worker-2", uint16(0), uint8(0), uint8(0), uint8(0), uint16(0))
	f.Fuzz(func(t *testing.T, key uint8, finalizers, owners, labels, annotations, node string, metadata uint16, other, claimed, groups uint8, spoil uint16) {
		x, set := texts{finalizers, owners, labels, annotations}, facts{metadata: metadata}
		change := func(m *metav1.ObjectMeta) {
			set.changeMetadata(m)
			x.change(m)
		}
		name, s := pick(allKeys, key), facts{other: other, claimed: claimed, groups: groups, spoil: spoil}
		compareMetadata(t, s, change, writePEM(goodClient(t, name)), node)
		compareMetadata(t, s, change, writePEM(goodServing(t, name)), node)
	})
}
