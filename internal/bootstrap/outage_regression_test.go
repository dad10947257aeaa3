// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// While nobody decided, a kubelet gave up twice and asked again each time, with another key. It waits for the last request,
// in whatever order a cache lists them.
func TestKubeletThatGaveUpWaitsForItsNewestRequest(t *testing.T) {
	requests := []*certificatesv1.CertificateSigningRequest{
		request("csr-a", 1, minutes(50)), request("csr-b", 1, minutes(30)), request("csr-c", 1, minutes(10)),
	}
	for range requests {
		requests = append(requests[1:], requests[0])
		f := awaited(1, young)
		f.Requests = requests
		p := decide(f, now)
		i := slices.IndexFunc(p.Decisions, func(d Decision) bool { return d.Result.Verdict == csr.Approve })
		if i < 0 || p.Decisions[i].Request.Name != "csr-c" {
			t.Errorf("not the newest is approved, but %d", i)
		}
	}
}

// The operator approved, was away while the certificate was issued and used, and the request was deleted meanwhile.
func TestReissueEndsWhenTheRequestIsGone(t *testing.T) {
	f := awaited(1, 3*time.Hour)
	f.NodeBootstrap.Status.LastHandledReissueAt = "once"
	f.Node, f.NodeReported = nodeMade(24*time.Hour), true
	f.NodeBootstrap.Status.NodeUID = f.Node.UID
	d := approvedDecision("csr-a", 1, 2*time.Hour)
	d.IssuedTime = nil
	f.NodeBootstrap.Status.Certificates = []v1alpha1.CertificateDecision{d}
	for lease, want := range map[time.Duration]Phase{time.Second: Joined, minutes(70): Awaited, 3 * time.Hour: Awaited} {
		f.LeaseRenewed = now.Add(-lease)
		if p := decide(f, now); p.Phase != want {
			t.Errorf("with a Lease renewed %s ago: got %d, want %d", lease, p.Phase, want)
		}
	}
	f.LeaseRenewed = now
	f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, 2*time.Hour, approved(2*time.Hour))}
	if p := decide(f, now); p.Phase != Awaited {
		t.Errorf("the request is there and has no certificate: got %d", p.Phase)
	}
}

// An edited server that could not be written is not in the published kubeconfig; what works stays Ready, and says why.
func TestStatusTellsOfAFailedWrite(t *testing.T) {
	f := awaited(1, young)
	f.NodeBootstrap.Status.Server = "https://before:6443"
	p, o := decide(f, now), published(1, young)
	o.Err = errors.New("a quota")
	s := Report(f, &p, &o, now)
	ready := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady)
	if s.Server != "https://before:6443" || ready.Status != metav1.ConditionTrue || !strings.Contains(ready.Message, "a quota") {
		t.Errorf("got the server %s and %+v", s.Server, ready)
	}
}
