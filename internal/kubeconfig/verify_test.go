// SPDX-License-Identifier: Apache-2.0

package kubeconfig_test

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
)

// pair is a certificate with its key.
type pair struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func (p pair) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw}))
}

// certified is a certificate for a name (up to a slash), self-signed without an issuer, valid for a while around now.
func certified(name string, issuer *pair, isCA bool, from, to time.Duration) pair {
	signer := nodetest.Key(name)
	name, _, _ = strings.Cut(name, "/")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: isCA, BasicConstraintsValid: true,
		NotBefore: nodetest.Now.Add(from), NotAfter: nodetest.Now.Add(to),
	}
	parent, parentKey := template, signer
	if issuer != nil {
		parent, parentKey = issuer.cert, issuer.key
	}
	der := nodetest.Must(x509.CreateCertificate(nil, template, parent, signer.Public(), parentKey))
	return pair{nodetest.Must(x509.ParseCertificate(der)), signer}
}

func TestDiscoveredCAHasToVerify(t *testing.T) {
	const hour = time.Hour
	root := certified("root", nil, true, -24*hour, 24*hour)
	intermediate := certified("intermediate", &root, true, -24*hour, 24*hour)
	theirs := certified("theirs", nil, true, -24*hour, 24*hour)
	samename := certified("root/theirs", nil, true, -24*hour, 24*hour)
	old := certified("old", nil, true, -24*hour, 24*hour)
	leaf := certified("leaf", &root, false, -hour, hour)
	below := certified("below", &intermediate, false, -hour, hour)
	expired := certified("expired", &root, false, -2*hour, -hour)
	future := certified("future", &root, false, hour, 2*hour)
	ofOld := certified("of-old", &old, false, -hour, hour)
	self := certified("self", nil, false, -hour, hour)
	type chains = [][]*x509.Certificate
	one := func(p ...pair) (out []*x509.Certificate) {
		for _, c := range p {
			out = append(out, c.cert)
		}
		return out
	}
	for name, tt := range map[string]struct {
		ca        string
		presented chains
		good      bool
	}{
		"unknown":                       {theirs.pem(), nil, true},
		"its CA":                        {root.pem(), chains{one(leaf)}, true},
		"another CA":                    {theirs.pem(), chains{one(leaf)}, false},
		"another CA of the same name":   {samename.pem(), chains{one(leaf)}, false},
		"a bundle":                      {theirs.pem() + root.pem(), chains{one(leaf)}, true},
		"through an intermediate one":   {root.pem(), chains{one(below, intermediate)}, true},
		"the intermediate one":          {intermediate.pem(), chains{one(below)}, true},
		"without the intermediate one":  {root.pem(), chains{one(below)}, false},
		"its own CA presented by them":  {theirs.pem(), chains{one(leaf, root)}, false},
		"expired":                       {root.pem(), chains{one(expired)}, true},
		"expired, and another CA":       {theirs.pem(), chains{one(expired)}, false},
		"not valid yet":                 {root.pem(), chains{one(future)}, true},
		"not valid yet, and another CA": {theirs.pem(), chains{one(future)}, false},
		"signed by itself":              {self.pem(), chains{one(self)}, true},
		"signed by itself, another CA":  {theirs.pem(), chains{one(self)}, false},
		"one of two API servers":        {root.pem(), chains{one(ofOld), one(leaf)}, true},
		"none of two":                   {theirs.pem(), chains{one(ofOld), one(leaf)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			flag := kubeconfig.Sources{FlagServer: nodetest.Server, FlagCA: []byte(tt.ca), Presented: tt.presented}
			for what, s := range map[string]struct {
				spec    v1alpha1.ClusterSpec
				sources kubeconfig.Sources
				checked bool
			}{
				kubeconfig.FromClusterInfo: {v1alpha1.ClusterSpec{}, kubeconfig.Sources{ClusterInfo: clusterInfoOf(nodetest.Server, []byte(tt.ca)), Presented: tt.presented}, true},
				kubeconfig.FromRootCA:      {v1alpha1.ClusterSpec{Server: nodetest.Server}, kubeconfig.Sources{RootCA: tt.ca, Presented: tt.presented}, true},
				kubeconfig.FromFlagCA:      {v1alpha1.ClusterSpec{}, flag, false},
				kubeconfig.FromSpecCA:      {v1alpha1.ClusterSpec{Server: nodetest.Server, CABundle: tt.ca}, kubeconfig.Sources{Presented: tt.presented}, false},
			} {
				cluster, problem := kubeconfig.Resolve(s.spec, s.sources, nodetest.Now)
				if cluster.Server != nodetest.Server {
					t.Errorf("%s: the server is not known", what)
				}
				if tt.good || !s.checked {
					if problem != nil || string(cluster.CA) != tt.ca || cluster.CAFingerprint != kubeconfig.Fingerprint([]byte(tt.ca)) {
						t.Errorf("%s: the problem is %+v, the fingerprint %s", what, problem, cluster.CAFingerprint)
					}
					continue
				}
				if problem == nil || problem.Reason != v1alpha1.ReasonCADoesNotVerify || len(cluster.CA) > 0 || cluster.CAFingerprint != "" {
					t.Errorf("%s: the problem is %+v, the CA %q", what, problem, cluster.CA)
				} else if !strings.HasPrefix(problem.Message, what) || !strings.Contains(problem.Message, kubeconfig.FromFlagCA) || len(problem.Message) > 1024 {
					t.Errorf("%s: the message is %s", what, problem.Message)
				}
			}
		})
	}
}
