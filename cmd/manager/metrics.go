// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"path/filepath"

	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// The file names of certificate and key in Secrets of type kubernetes.io/tls, which cert-manager uses, too.
const (
	metricsCertFile = "tls.crt"
	metricsKeyFile  = "tls.key"
)

// metricsOptions configure how metrics are served.
type metricsOptions struct {
	address string
	secure  bool
	certDir string
}

func (o *metricsOptions) bindFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.address, "metrics-bind-address", ":8443", "The address for metrics; 0 for none.")
	fs.BoolVar(&o.secure, "metrics-secure", true,
		"Serve metrics over HTTPS, only to clients that the API server authenticates and authorizes to get the path /metrics. "+
			"If false: over plain HTTP, to everybody.")
	fs.StringVar(&o.certDir, "metrics-cert-dir", "",
		"A directory with the certificate "+metricsCertFile+" and the key "+metricsKeyFile+" for metrics over HTTPS. They are read again when they change. "+
			"Defaults to a self-signed certificate, created at each start.")
}

// validate rejects a directory without a valid certificate: the server would use a self-signed one instead.
func (o *metricsOptions) validate() error {
	if o.certDir == "" {
		return nil
	}
	err := errors.New("it has no effect with --metrics-secure=false")
	if o.secure {
		_, err = tls.LoadX509KeyPair(filepath.Join(o.certDir, metricsCertFile), filepath.Join(o.certDir, metricsKeyFile))
	}
	if err != nil {
		return fmt.Errorf("flag --metrics-cert-dir: %w", err)
	}
	return nil
}

func (o *metricsOptions) server() metricsserver.Options {
	if !o.secure {
		return metricsserver.Options{BindAddress: o.address}
	}
	certDir := o.certDir
	if certDir == "" {
		certDir = "/nonexistent" // the default is below the temporary directory, where anyone can put files
	}
	return metricsserver.Options{
		BindAddress:    o.address,
		SecureServing:  true,
		FilterProvider: filters.WithAuthenticationAndAuthorization,
		CertDir:        certDir,
		CertName:       metricsCertFile,
		KeyName:        metricsKeyFile,
		// A scrape does not need HTTP/2, whose streams a client can reset faster than a server ends them (CVE-2023-44487).
		TLSOpts: []func(*tls.Config){func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }},
	}
}
