// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	certLifetime = 365 * 24 * time.Hour
	// backdate is how long before now a certificate becomes valid.
	backdate = time.Hour
)

// authority is the cluster's CA: kube-apiserver trusts it for clients and
// kube-controller-manager signs with it.
type authority struct {
	cert     *x509.Certificate
	key      *ecdsa.PrivateKey
	certPEM  []byte
	certFile string
	keyFile  string
}

// The API server takes its client CA, and envtest its users, from the authority.
var _ envtest.Authn = (*authority)(nil)

// newAuthority creates a CA and stores it as ca.crt and ca.key in dir.
func newAuthority(dir string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("creating the CA's key: %w", err)
	}
	template, err := certTemplate(pkix.Name{CommonName: "localcluster-ca"}, caLifetime)
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the CA's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading the CA's certificate: %w", err)
	}
	a := &authority{
		cert: cert, key: key, certPEM: encodeCert(der),
		certFile: filepath.Join(dir, "ca.crt"), keyFile: filepath.Join(dir, "ca.key"),
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return a, writePair(a.certFile, a.certPEM, a.keyFile, keyPEM)
}

// Configure passes the CA to kube-apiserver. envtest calls it before the start.
func (a *authority) Configure(_ string, args *envtest.Arguments) error {
	args.Set("client-ca-file", a.certFile)
	return nil
}

// Start does nothing: the CA is already on disk.
func (a *authority) Start() error { return nil }

// Stop does nothing: the CA's files are deleted with the cluster's directory.
func (a *authority) Stop() error { return nil }

// AddUser returns a copy of base with a client certificate for user, valid for
// a year.
func (a *authority) AddUser(user envtest.User, base *rest.Config) (*rest.Config, error) {
	template, err := certTemplate(pkix.Name{CommonName: user.Name, Organization: user.Groups}, certLifetime)
	if err != nil {
		return nil, err
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	certPEM, keyPEM, err := a.issue(template)
	if err != nil {
		return nil, err
	}
	cfg := rest.CopyConfig(base)
	cfg.CertData, cfg.KeyData = certPEM, keyPEM
	return cfg, nil
}

// issueServing stores a certificate for a server on 127.0.0.1, valid for a year.
func (a *authority) issueServing(name, certFile, keyFile string) error {
	template, err := certTemplate(pkix.Name{CommonName: name}, certLifetime)
	if err != nil {
		return err
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	certPEM, keyPEM, err := a.issue(template)
	if err != nil {
		return err
	}
	return writePair(certFile, certPEM, keyFile, keyPEM)
}

// issue signs a template for a new key and returns both in PEM.
func (a *authority) issue(template *x509.Certificate) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("creating a key for %q: %w", template.Subject.CommonName, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("signing a certificate for %q: %w", template.Subject.CommonName, err)
	}
	keyPEM, err = encodeKey(key)
	return encodeCert(der), keyPEM, err
}

func certTemplate(subject pkix.Name, lifetime time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("choosing a serial number: %w", err)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(lifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}, nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func writePair(certFile string, certPEM []byte, keyFile string, keyPEM []byte) error {
	if err := os.WriteFile(certFile, certPEM, 0o644); err != nil {
		return fmt.Errorf("storing a certificate: %w", err)
	}
	if err := os.WriteFile(keyFile, keyPEM, 0o600); err != nil {
		return fmt.Errorf("storing a private key: %w", err)
	}
	return nil
}
