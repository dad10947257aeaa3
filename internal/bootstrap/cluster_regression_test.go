// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"slices"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// pem.Decode leaves out what is in front of a block, and a block that is damaged, without a word.
func TestResolveClusterRefusesTextAroundTheCA(t *testing.T) {
	damaged := slices.Concat([]byte("-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n"), goodCA())
	for name, ca := range map[string][]byte{
		"text before":           append([]byte("the CA:\n"), goodCA()...),
		"text between":          slices.Concat(goodCA(), []byte("another:\n"), goodCA()),
		"a damaged certificate": damaged,
		"PEM headers":           []byte("-----BEGIN CERTIFICATE-----\nA: b\n\n" + string(goodCA())[len("-----BEGIN CERTIFICATE-----\n"):]),
	} {
		if _, problem := ResolveCluster(v1alpha1.ClusterSpec{Server: testServer, CABundle: string(ca)}, ClusterSources{}, now); problem == nil || problem.Reason != v1alpha1.ReasonCAInvalid {
			t.Errorf("%s: got %v", name, problem)
		}
	}
}

// A map has no order: with two clusters in cluster-info the kubeconfig would change from pass to pass.
func TestResolveClusterIsTheSameEachTime(t *testing.T) {
	info := "apiVersion: v1\nkind: Config\nclusters:\n" +
		"- {name: a, cluster: {server: \"https://a:6443\"}}\n- {name: b, cluster: {server: \"https://b:6443\"}}\n"
	seen := map[string]bool{}
	for range 100 {
		c, _ := ResolveCluster(v1alpha1.ClusterSpec{CABundle: string(goodCA())}, ClusterSources{ClusterInfo: info}, now)
		seen[c.Server] = true
	}
	if len(seen) != 1 {
		t.Errorf("got %v", seen)
	}
}

// A flag that is given counts, be it right or wrong: an empty file is wrong.
func TestResolveClusterRefusesAnEmptyCAFile(t *testing.T) {
	c, problem := ResolveCluster(v1alpha1.ClusterSpec{Server: testServer}, ClusterSources{FlagCA: []byte{}, RootCA: string(goodCA())}, now)
	if problem == nil || problem.Reason != v1alpha1.ReasonCAInvalid {
		t.Errorf("got %v and %s", problem, fmt.Sprint(len(c.CA)))
	}
}

// A cluster-info that cannot be read is a source too: its CA must not be replaced by that of another source unseen.
func TestResolveClusterDoesNotPassOverABrokenClusterInfo(t *testing.T) {
	_, problem := ResolveCluster(v1alpha1.ClusterSpec{Server: testServer}, ClusterSources{ClusterInfo: "\tjunk", RootCA: string(goodCA())}, now)
	if problem == nil {
		t.Error("the CA of kube-root-ca.crt was taken, although cluster-info comes first")
	}
}
