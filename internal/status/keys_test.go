// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

func TestKeyConflict(t *testing.T) {
	a, b := nodetest.Request("csr-a", 1, 2*time.Minute), nodetest.Request("csr-b", 1, time.Minute)
	again := nodetest.Request("csr-a/2", 1, time.Minute)
	deniedB := nodetest.Request("csr-b", 1, time.Minute, nodetest.Decided(certificatesv1.CertificateDenied, 0))
	former := nodetest.Request("csr-c", 2, time.Minute)
	for name, c := range map[string]struct {
		facts *lifecycle.Facts
		want  int
	}{
		"one key":                {nodetest.Conflicting(v1alpha1.ApprovalManual, a), 0},
		"one key twice":          {nodetest.Conflicting(v1alpha1.ApprovalManual, a, again), 0},
		"two pending":            {nodetest.Conflicting(v1alpha1.ApprovalManual, a, b), 2},
		"two, the operator":      {nodetest.Conflicting(v1alpha1.ApprovalNode, b, a), 2},
		"two, ClusterWide":       {nodetest.Conflicting(v1alpha1.ApprovalClusterWide, a, b), 2},
		"one denied":             {nodetest.Conflicting(v1alpha1.ApprovalManual, a, deniedB), 2},
		"one of another token":   {nodetest.Conflicting(v1alpha1.ApprovalManual, a, former), 0},
		"one is only in the log": {edited(nodetest.Conflicting(v1alpha1.ApprovalManual, a), recordedKey("csr-b", "SHA256:11")), 2},
		"both are in the log": {edited(nodetest.Conflicting(v1alpha1.ApprovalManual), func(f *lifecycle.Facts) {
			recordedKey("csr-b", "SHA256:11")(f)
			recordedKey("csr-c", "SHA256:22")(f)
		}), 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := reported(c.facts, published(1, nodetest.Young))
			condition := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionKeyConflict)
			if len(s.Keys) != c.want || (condition != nil) != (c.want > 0) {
				t.Fatalf("the keys are %+v, the condition is %+v", s.Keys, condition)
			}
			for _, k := range s.Keys {
				if !strings.Contains(condition.Message, k.KeyFingerprint) || !strings.Contains(condition.Message, k.Name) {
					t.Errorf("the message does not name %+v: %s", k, condition.Message)
				}
			}
		})
	}
}

func edited(f *lifecycle.Facts, edit func(*lifecycle.Facts)) *lifecycle.Facts {
	edit(f)
	return f
}

// recordedKey is the log entry of a denied CSR with a key.
func recordedKey(name, fingerprint string) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) {
		d := nodetest.DeniedDecision(name, 1, time.Minute)
		d.KeyFingerprint = fingerprint
		f.NodeBootstrap.Status.Certificates = append(f.NodeBootstrap.Status.Certificates, d)
	}
}

// The keys are stored before CSRs are deleted, stay after that, and are bounded.
func TestKeysAreStoredFirstAndStay(t *testing.T) {
	f := nodetest.Conflicting(v1alpha1.ApprovalNode)
	for i := range 3 * status.MaxKeys {
		f.Requests = append(f.Requests, nodetest.Request("csr-"+string(rune('a'+i)), 1, time.Duration(i)*time.Second))
	}
	p := nodetest.Decide(f, nodetest.Now)
	stored := status.Claimed(&p, f, nodetest.Now)
	if len(stored.Keys) != status.MaxKeys {
		t.Fatalf("%d keys are stored first, want %d", len(stored.Keys), status.MaxKeys)
	}
	f.NodeBootstrap.Status, f.Requests = *stored, nil
	s := reported(f, published(1, nodetest.Young))
	if len(s.Keys) != status.MaxKeys || !meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionKeyConflict) {
		t.Errorf("afterwards the status is %+v", s)
	}
	f.NodeBootstrap.Status = *s
	nodetest.AskReissue(f)
	p = nodetest.Decide(f, nodetest.Now)
	o := published(2, 0)
	s = status.Report(f, &p, &o, nodetest.Now)
	if len(s.Keys) > 0 || meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionKeyConflict) != nil {
		t.Errorf("after the reissue the status is %+v", s)
	}
}

func TestApprovalDelayHolds(t *testing.T) {
	a, b := nodetest.Request("csr-a", 1, time.Minute), nodetest.Request("csr-b", 1, time.Minute)
	for name, c := range map[string]struct {
		requests []*certificatesv1.CertificateSigningRequest
		delay    time.Duration
		approves int
		again    time.Duration // from now
	}{
		"no delay":          {requests: []*certificatesv1.CertificateSigningRequest{a}, approves: 1},
		"not over":          {requests: []*certificatesv1.CertificateSigningRequest{a}, delay: 2 * time.Minute, again: time.Minute},
		"over":              {requests: []*certificatesv1.CertificateSigningRequest{a}, delay: time.Minute, approves: 1},
		"over, and two":     {requests: []*certificatesv1.CertificateSigningRequest{a, b}, delay: time.Second},
		"not over, and two": {requests: []*certificatesv1.CertificateSigningRequest{a, b}, delay: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Conflicting(v1alpha1.ApprovalNode, c.requests...)
			f.NodeBootstrap.Spec.ClientCertificate.ApprovalDelay = &metav1.Duration{Duration: c.delay}
			p := nodetest.Decide(f, nodetest.Now)
			if len(p.KeysToClaim()) != c.approves || len(p.Decisions) != c.approves {
				t.Errorf("the decisions are %+v, want %d approvals and nothing else", p.Decisions, c.approves)
			}
			if c.again > 0 && !p.RequeueAt.Equal(nodetest.Now.Add(c.again)) {
				t.Errorf("it requeues at %s, want in %s", p.RequeueAt, c.again)
			}
			s := reported(f, published(1, nodetest.Young))
			ready := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady)
			if held := c.delay > 0 && len(c.requests) > 1; (ready.Reason == v1alpha1.ReasonSeveralKeys) != held {
				t.Errorf("Ready is %+v", ready)
			}
		})
	}
}

// A stale cache shows the token from before a reissue, and its CSRs: until then different keys were reported.
func TestKeysFromBeforeAReissueStayForgotten(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	nodetest.Edits(nodetest.Claimed("csr-a"), nodetest.Further(nodetest.Request("csr-b", 1, nodetest.Minutes(1))))(f)
	reconcile(f)
	if !meta.IsStatusConditionTrue(f.NodeBootstrap.Status.Conditions, v1alpha1.ConditionKeyConflict) {
		t.Fatalf("the conditions are %+v", f.NodeBootstrap.Status.Conditions)
	}
	secrets := f.TokenSecrets
	nodetest.AskReissue(f)
	reconcile(f)
	f.TokenSecrets = append(f.TokenSecrets, secrets...)
	reconcile(f)
	if s := f.NodeBootstrap.Status; meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionKeyConflict) != nil || len(s.Keys) > 0 {
		t.Errorf("the keys are %+v, the conditions are %+v", s.Keys, s.Conditions)
	}
}
