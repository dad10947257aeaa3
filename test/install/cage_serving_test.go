// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/test/adversarial"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

const approvals = "nodebootstrap-cage-approvals"

// askToServe sends a CSR for a serving certificate as a kubelet that has joined; nil if the API server refuses it. No
// NodeBootstrap has the node's name, so that the operator ignores the CSR.
func askToServe(t *testing.T, node string, spec certificatesv1.CertificateSigningRequestSpec) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	cfg, err := cluster.ConfigFor("system:node:"+node, "system:nodes")
	env.Must(t, err)
	c, err := client.New(cfg, client.Options{Scheme: cluster.Client.Scheme()})
	env.Must(t, err)
	request := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "serving-"}, Spec: spec}
	switch err := c.Create(t.Context(), request); {
	case apierrors.IsInvalid(err), apierrors.IsForbidden(err), apierrors.IsBadRequest(err):
		return nil
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() { cluster.DeleteAfter(t, request) })
	return request
}

// approve approves a CSR as the operator, in a dry run.
func approve(t *testing.T, request *certificatesv1.CertificateSigningRequest) func() error {
	return func() error {
		r := request.DeepCopy()
		r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{
			Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test",
		}}
		return asOperator.SubResource("approval").Update(t.Context(), r)
	}
}

// reservedIn is an address in a CSR, as the signer reads it, that belongs to no node in any cluster.
func reservedIn(spec certificatesv1.CertificateSigningRequestSpec) string {
	block, _ := pem.Decode(spec.Request)
	if block == nil {
		return ""
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return ""
	}
	for _, name := range parsed.DNSNames {
		switch lower := strings.TrimSuffix(strings.ToLower(name), "."); {
		case strings.Contains(lower, "*"), lower == "localhost", lower == "kubernetes", lower == "kubernetes.default",
			lower == "kubernetes.default.svc", strings.HasPrefix(lower, "kubernetes.default.svc."):
			return name
		}
	}
	for _, ip := range parsed.IPAddresses {
		if a, _ := netip.AddrFromSlice(ip); a.Unmap().IsLoopback() || a.Unmap().IsUnspecified() || a.Unmap().IsMulticast() {
			return a.String()
		}
	}
	return ""
}

// The policy reads a CSR as the signer does: it admits what a kubelet sends, and none of the adversarial CSRs that name an
// address reserved in every cluster, however it is written.
func TestCageOfServingCertificates(t *testing.T) {
	const node = "serving-caged"
	key := env.Key(t)
	good := func() certificatesv1.CertificateSigningRequestSpec {
		return adversarial.GoodServing(node, key, []string{node, node + ".example.com"}, []net.IP{net.ParseIP("192.0.2.7"), net.ParseIP("2001:db8::7")})
	}
	request := askToServe(t, node, good())
	allowed(t, approve(t, request))
	reserved := 0
	for _, c := range adversarial.Serving() {
		if c.Spoil == nil {
			continue // its defect is in the metadata
		}
		spec := good()
		c.Spoil(&spec, node, key)
		if reservedIn(spec) == "" || spec.SignerName != certificatesv1.KubeletServingSignerName {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			if request := askToServe(t, node, spec); request != nil {
				reserved++
				refused(t, approvals, approve(t, request))
			}
		})
	}
	if reserved < 15 {
		t.Errorf("only %d requests of the table name a reserved address", reserved)
	}
}

func TestCageReadsWhatKubeletsSend(t *testing.T) {
	const node = "serving-caged"
	small, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	env.Must(t, err)
	large, err := rsa.GenerateKey(rand.Reader, 4096)
	env.Must(t, err)
	long := strings.Repeat("a", 63) + "." + strings.Repeat("b", 63) + "." + strings.Repeat("c", 63)
	for name, c := range map[string]struct {
		key   crypto.Signer
		names []string
		ips   []string
	}{
		"one name":                       {small, []string{node}, nil},
		"one IP":                         {small, nil, []string{"192.0.2.7"}},
		"what looks like a loopback IP":  {small, []string{node}, []string{"10.135.4.127", "2001:db8::8704:7f00"}},
		"a length that is an asterisk's": {small, []string{strings.Repeat("a", '*')}, nil},
		"long names":                     {small, []string{long, long + ".example.com"}, nil},
		"what begins as reserved names":  {small, []string{"kubernetes-1", "kubernetes.example.com", "kubernetes.default.example.com", "localhost-1"}, nil},
		"RSA of 4096 bits":               {large, []string{node, node + ".example.com"}, []string{"192.0.2.7", "2001:db8::7"}},
	} {
		t.Run(name, func(t *testing.T) {
			var ips []net.IP
			for _, ip := range c.ips {
				ips = append(ips, net.ParseIP(ip))
			}
			allowed(t, approve(t, askToServe(t, node, adversarial.GoodServing(node, c.key, c.names, ips))))
		})
	}
	// The largest CSR that the operator approves is within the API server's CEL budget, and a larger one is refused.
	for _, size := range []int{8192, 8195} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			act := approve(t, askToServe(t, node, sized(t, node, large, size)))
			if size <= 8192 {
				allowed(t, act)
			} else {
				refused(t, approvals, act)
			}
		})
	}
}

// sized is a CSR of at most so many bytes, filled up with names.
func sized(t *testing.T, node string, key crypto.Signer, size int) certificatesv1.CertificateSigningRequestSpec {
	t.Helper()
	var last certificatesv1.CertificateSigningRequestSpec
	name := strings.Repeat("a", 60)
	var names []string
	for {
		names = append(names, name+fmt.Sprintf("%03d", len(names)))
		spec := adversarial.GoodServing(node, key, names, nil)
		if len(spec.Request) > size {
			break
		}
		last = spec
	}
	for pad := 1; len(last.Request) < size-3; pad++ { // PEM grows by four bytes, or five with a new line
		spec := adversarial.GoodServing(node, key, append(names[:len(names)-1:len(names)-1], strings.Repeat("a", pad)), nil)
		if len(spec.Request) > size {
			break
		}
		last = spec
	}
	if len(last.Request) < size-8 {
		t.Fatalf("the request has %d bytes, want %d", len(last.Request), size)
	}
	t.Logf("the request has %d bytes", len(last.Request))
	return last
}

// A CSR that the operator would not accept as a kubelet's is not approved either, whatever it hides.
func TestCageRefusesWhatItCannotRead(t *testing.T) {
	const node = "serving-caged"
	key := env.Key(t)
	good := adversarial.GoodServing(node, key, []string{node}, nil)
	bad := adversarial.GoodServing(node, key, []string{"kubernetes.default.svc"}, nil)
	block, _ := pem.Decode(bad.Request)
	headers := pem.EncodeToMemory(&pem.Block{Type: block.Type, Headers: map[string]string{"a": "b"}, Bytes: block.Bytes})
	for name, request := range map[string][]byte{
		"headers":            headers,
		"text in front":      append([]byte("a\n"), bad.Request...),
		"text behind":        append(bytes.Clone(bad.Request), "a\n"...),
		"two blocks":         append(bytes.Clone(bad.Request), good.Request...),
		"two, the other way": append(bytes.Clone(good.Request), bad.Request...),
		"carriage returns":   bytes.ReplaceAll(bad.Request, []byte("\n"), []byte("\r\n")),
		"blanks":             bytes.Replace(bad.Request, []byte("\n"), []byte("\n "), 1),
	} {
		t.Run(name, func(t *testing.T) {
			spec := bad
			spec.Request = request
			if request := askToServe(t, node, spec); request != nil {
				refused(t, approvals, approve(t, request))
			} else {
				t.Skip("the API server does not take it")
			}
		})
	}
}
