// SPDX-License-Identifier: Apache-2.0

package kubeconfig

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
)

// Cluster is the API server as a node sees it.
type Cluster struct {
	// Server is an https URL.
	Server string
	// CA is one or more certificates in PEM, each followed by a newline, and nothing else.
	CA []byte
	// CAExpires is when the last of the certificates expires.
	CAExpires time.Time
	// CAFingerprint is SHA256:<hex> of CA.
	CAFingerprint string

	template *template // nil if this is not from Resolve
}

// Sources are the places that may have the cluster's endpoint and CA; an absent one is empty.
type Sources struct {
	// FlagServer is the value of --cluster-server.
	FlagServer string
	// FlagCA is the content of the file that --cluster-ca-file names; FlagCAError is why it could not be read.
	FlagCA      []byte
	FlagCAError error
	// ClusterInfo is the kubeconfig in the ConfigMap kube-public/cluster-info, which kubeadm publishes.
	ClusterInfo string
	// RootCA is the certificate in the ConfigMap kube-root-ca.crt, which kube-controller-manager publishes.
	RootCA string
	// Presented are the certificate chains, each with the leaf first, that API servers recently presented to the operator; empty if
	// unknown. A CA from a ConfigMap must verify one of them.
	Presented [][]*x509.Certificate
}

const (
	fromSpecServer  = "spec.cluster.server"
	fromSpecCA      = "spec.cluster.caBundle"
	fromFlagServer  = "the operator's flag --cluster-server"
	fromFlagCA      = "the operator's flag --cluster-ca-file"
	fromClusterInfo = "the ConfigMap kube-public/cluster-info"
	fromRootCA      = "the ConfigMap kube-root-ca.crt in the operator's namespace"
)

// Resolve finds endpoint and CA for a NodeBootstrap at a time. The first source that has one is used, valid or not, so that a node never
// joins a cluster by surprise.
func Resolve(spec v1alpha1.ClusterSpec, sources Sources, now time.Time) (Cluster, *problem.Problem) {
	info, broken := parseClusterInfo(sources.ClusterInfo)
	server, from := firstOf(
		source{fromSpecServer, spec.Server}, source{fromFlagServer, sources.FlagServer}, source{fromClusterInfo, info.server})
	switch {
	case server == "" && broken != nil:
		return Cluster{}, broken
	case server == "":
		return Cluster{}, problem.New(v1alpha1.ReasonServerUnknown,
			"no API server URL is known: set %s, or %s, or publish %s", fromSpecServer, fromFlagServer, fromClusterInfo)
	}
	if err := ValidateServer(server); err != nil {
		return Cluster{}, problem.New(v1alpha1.ReasonServerInvalid, "%s: %v", from, err)
	}
	return resolveCA(Cluster{Server: server}, spec, sources, info, broken, now)
}

func resolveCA(cluster Cluster, spec v1alpha1.ClusterSpec, sources Sources, info clusterInfo, broken *problem.Problem, now time.Time) (Cluster, *problem.Problem) {
	ca, from := firstOf(source{fromSpecCA, spec.CABundle}, source{fromFlagCA, string(sources.FlagCA)},
		source{fromClusterInfo, info.ca}, source{fromRootCA, sources.RootCA})
	switch fromFlag := from != fromSpecCA; {
	case fromFlag && sources.FlagCAError != nil:
		return Cluster{}, problem.New(v1alpha1.ReasonCAInvalid,
			"%s: the file cannot be read: %v: put the cluster's ca.crt there. It is read again every few seconds", fromFlagCA, sources.FlagCAError)
	case fromFlag && sources.FlagCA != nil && len(sources.FlagCA) == 0:
		return Cluster{}, problem.New(v1alpha1.ReasonCAInvalid, "%s: the file is empty: put the cluster's ca.crt there. It is read again every few seconds", fromFlagCA)
	case broken != nil && from != fromSpecCA && from != fromFlagCA:
		return Cluster{}, broken
	case ca == "":
		return Cluster{}, problem.New(v1alpha1.ReasonCAUnknown,
			"no CA is known: set %s, or %s, or publish %s or %s", fromSpecCA, fromFlagCA, fromClusterInfo, fromRootCA)
	}
	var why *problem.Problem
	cluster.CA, cluster.CAExpires, why = parseCA([]byte(ca), from, now)
	if why == nil && (from == fromClusterInfo || from == fromRootCA) {
		why = doesNotVerify(cluster.CA, from, sources.Presented, now)
	}
	if why != nil {
		return Cluster{Server: cluster.Server}, why
	}
	cluster.CAFingerprint = fingerprint(cluster.CA)
	cluster.template = newTemplate(cluster)
	return cluster, nil
}

type source struct{ name, value string }

func firstOf(sources ...source) (value, name string) {
	for _, s := range sources {
		if s.value != "" {
			return s.value, s.name
		}
	}
	return "", ""
}

// clusterInfo is the content of the ConfigMap that nodes use: the first cluster; servers are those of all clusters.
type clusterInfo struct {
	server, ca string
	servers    []string
}

func parseClusterInfo(kubeconfig string) (clusterInfo, *problem.Problem) {
	if kubeconfig == "" {
		return clusterInfo{}, nil
	}
	if len(kubeconfig) > MaxClusterInfoBytes {
		return clusterInfo{}, problem.New(v1alpha1.ReasonServerInvalid,
			"%s holds a kubeconfig of more than %d KiB: fix it, or set %s", fromClusterInfo, MaxClusterInfoBytes>>10, fromSpecServer)
	}
	config, err := clientcmd.Load([]byte(kubeconfig))
	if err != nil {
		return clusterInfo{}, problem.New(v1alpha1.ReasonServerInvalid, "%s holds no kubeconfig (%v): fix it, or set %s", fromClusterInfo, err, fromSpecServer)
	}
	names := slices.Sorted(maps.Keys(config.Clusters)) // kubeadm writes one
	if len(names) == 0 {
		return clusterInfo{}, nil
	}
	cluster := config.Clusters[names[0]]
	info := clusterInfo{server: cluster.Server, ca: string(cluster.CertificateAuthorityData)}
	for _, name := range names {
		info.servers = append(info.servers, config.Clusters[name].Server)
	}
	return info, nil
}

// ValidateCA reports why PEM data cannot be the cluster's CA at a time.
func ValidateCA(data []byte, now time.Time) error {
	if _, _, problem := parseCA(data, "the CA", now); problem != nil {
		return fmt.Errorf("%s", problem.Message)
	}
	return nil
}

var pemBegin = []byte("-----BEGIN ")

// parseCA returns the certificates re-encoded, so that the same certificates always give the same kubeconfig. In a bundle, during a
// rotation, one certificate that has not expired is enough. A certificate that is not valid yet is accepted: on a new cluster a clock may
// be a moment behind, and the node has its own clock.
func parseCA(data []byte, from string, now time.Time) ([]byte, time.Time, *problem.Problem) {
	invalid := func(format string, args ...any) ([]byte, time.Time, *problem.Problem) {
		return nil, time.Time{}, &problem.Problem{Reason: v1alpha1.ReasonCAInvalid, Message: from + ": " + fmt.Sprintf(format, args...)}
	}
	if len(data) > MaxCABytes {
		return invalid("there are more than %d KiB: give only the cluster's CA certificates, without those of others", MaxCABytes>>10)
	}
	var out bytes.Buffer
	var last time.Time
	for rest := bytes.TrimSpace(data); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		block, tail := pem.Decode(rest)
		// Decode skips text, and damaged blocks.
		if block == nil || !bytes.HasPrefix(rest, pemBegin) || bytes.Count(rest[:len(rest)-len(tail)], pemBegin) != 1 || len(block.Headers) > 0 {
			return invalid("this is not only PEM: give the content of the cluster's ca.crt, from -----BEGIN CERTIFICATE----- on")
		}
		if block.Type != "CERTIFICATE" {
			return invalid("there is a PEM block of type %q: give only certificates", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return invalid("a certificate cannot be parsed: %v", err)
		}
		if cert.NotAfter.After(last) {
			last = cert.NotAfter
		}
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}); err != nil {
			return invalid("a certificate cannot be encoded: %v", err)
		}
		rest = tail
	}
	if out.Len() == 0 {
		return invalid("there is no certificate in it")
	}
	if !now.Before(last) {
		return nil, time.Time{}, problem.New(v1alpha1.ReasonCAExpired,
			"%s: its certificates have expired, the last one at %s: give the cluster's current CA", from, last.UTC().Format(time.RFC3339))
	}
	return out.Bytes(), last, nil
}

const (
	// MaxCABytes is the maximum size of a CA from any source, in bytes, as in the schema of spec.cluster.caBundle. Every kubeconfig
	// contains it.
	MaxCABytes = 64 << 10
	// MaxClusterInfoBytes is the maximum size of the kubeconfig in the ConfigMap cluster-info, in bytes.
	MaxClusterInfoBytes = 256 << 10
)

// fingerprint identifies the certificates of a CA in the status: the SHA-256 of their PEM.
func fingerprint(pem []byte) string {
	return fmt.Sprintf("SHA256:%x", sha256.Sum256(pem))
}

// doesNotVerify is the problem of a discovered CA that verifies none of the chains that API servers present to the operator. Whoever can
// write the ConfigMap may have put another CA there, and nodes would send their tokens to any server with a certificate of that CA.
// Without chains nothing is checked, because the API server's certificate is unknown.
func doesNotVerify(ca []byte, from string, presented [][]*x509.Certificate, now time.Time) *problem.Problem {
	if len(presented) == 0 {
		return nil
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	var err error
	for _, chain := range presented {
		if err = verify(roots, chain, now); err == nil {
			return nil
		}
	}
	return problem.New(v1alpha1.ReasonCADoesNotVerify, "%s: the API server that the operator talks to does not verify with this CA (%.300s): see who changed it and fix it. If nodes reach the API server "+
		"through a load balancer that terminates TLS, set its CA explicitly, with %s or %s", from, err.Error(), fromSpecCA, fromFlagCA)
}

// verify checks a chain, the leaf first, as a client does, except for the host name. An expired or not yet valid leaf is no evidence
// against the CA.
func verify(roots *x509.CertPool, chain []*x509.Certificate, now time.Time) error {
	leaf := chain[0]
	switch {
	case now.After(leaf.NotAfter):
		now = leaf.NotAfter
	case now.Before(leaf.NotBefore):
		now = leaf.NotBefore
	}
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}
