// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/log/zap"
)

// Invalid settings are rejected before anything starts, and the message names the flag.
func TestFlagsAreRefused(t *testing.T) {
	junk := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(junk, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ flag, says string }{
		"http":           {"--cluster-server=http://api.example.com", "--cluster-server"},
		"no host":        {"--cluster-server=https://", "--cluster-server"},
		"a placeholder":  {"--cluster-server=https://<LB_IP>:6443", "placeholders"},
		"no IP":          {"--cluster-server=https://10.0.0.300:6443", "IP address"},
		"no port":        {"--cluster-server=https://api.example.com:70000", "port"},
		"credentials":    {"--cluster-server=https://a:pass@api.example.com", "credentials"},
		"an argument":    {"argument", "all settings are flags"},
		"unknown":        {"--no-such-flag", "no-such-flag"},
		"no such level":  {"--zap-log-level=loud", "loud"},
		"no certificate": {"--metrics-cert-dir=" + filepath.Dir(junk), "--metrics-cert-dir"},
	} {
		t.Run(name, func(t *testing.T) {
			err := run(t.Context(), []string{c.flag})
			if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "pass@") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A CA file that is missing or not PEM is reported in conditions: the operator must still revoke and deny.
func TestCAFileDoesNotEndTheProcess(t *testing.T) {
	junk := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(junk, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{junk, junk + ".not"} {
		if _, err := parse([]string{"--cluster-ca-file=" + file}); err != nil {
			t.Error(err)
		}
	}
}

func TestFlagDefaults(t *testing.T) {
	o, err := parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	if o.Namespace != defaultNamespace || o.leaderElect || o.metrics != (metricsOptions{address: ":8443", secure: true}) || o.healthAddress != ":8081" {
		t.Errorf("got %+v", o)
	}
}

// client-go logs whole Secrets at verbosity 8 and above: whatever the flag says, the log stays below that.
func TestBodiesAreNotLogged(t *testing.T) {
	for level, want := range map[string]int{"10": bodyVerbosity - 1, "8": bodyVerbosity - 1, "5": 5, "debug": 1, "info": 0} {
		o, err := parse([]string{"--zap-log-level=" + level})
		if err != nil {
			t.Fatal(err)
		}
		log := zap.New(zap.UseFlagOptions(&o.zap), withoutBodies)
		if !log.V(want).Enabled() || log.V(want+1).Enabled() {
			t.Errorf("with --zap-log-level=%s the log is not up to %d", level, want)
		}
	}
}

// A certificate that would not be served is rejected, not ignored.
func TestMetricsCertificateWithoutTLS(t *testing.T) {
	if _, err := parse([]string{"--metrics-secure=false", "--metrics-cert-dir=" + t.TempDir()}); err == nil || !strings.Contains(err.Error(), "--metrics-secure=false") {
		t.Errorf("got %v", err)
	}
}
