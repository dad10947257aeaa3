// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The API server rejects invalid values, and says what to write instead.
func TestAPIRefuses(t *testing.T) {
	pem := string(ca(t, time.Now().Add(time.Hour)))
	for name, c := range map[string]struct {
		node  string
		path  []string
		value any
		says  string
	}{
		"http":            {path: []string{"cluster", "server"}, value: "http://api.example.com:6443", says: "https://api.example.com:6443"},
		"no scheme":       {path: []string{"cluster", "server"}, value: "api.example.com:6443", says: "https://api.example.com:6443"},
		"no host":         {path: []string{"cluster", "server"}, value: "https://:6443", says: "https://api.example.com:6443"},
		"credentials":     {path: []string{"cluster", "server"}, value: "https://a:b@api.example.com", says: "without credentials"},
		"query":           {path: []string{"cluster", "server"}, value: "https://api.example.com/?a=b", says: "query"},
		"fragment":        {path: []string{"cluster", "server"}, value: "https://api.example.com/#a", says: "fragment"},
		"CA not PEM":      {path: []string{"cluster", "caBundle"}, value: "not PEM", says: "BEGIN CERTIFICATE"},
		"CA in base64":    {path: []string{"cluster", "caBundle"}, value: "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t", says: "not base64"},
		"private key":     {path: []string{"cluster", "caBundle"}, value: pem + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", says: "no private key"},
		"text around PEM": {path: []string{"cluster", "caBundle"}, value: "hello\n" + pem, says: "BEGIN CERTIFICATE"},
		"ttl too short":   {path: []string{"token", "ttl"}, value: "9m59s", says: "from 10m to 8760h"},
		"ttl too long":    {path: []string{"token", "ttl"}, value: "8761h", says: "from 10m to 8760h"},
		"ttl in days":     {path: []string{"token", "ttl"}, value: "1d", says: "write for example 24h"},
		"ttl negative":    {path: []string{"token", "ttl"}, value: "-24h", says: "write for example 24h"},
		"ttl empty":       {path: []string{"token", "ttl"}, value: "", says: "write for example 24h"},
		"deadline short":  {path: []string{"token", "joinDeadline"}, value: "1m", says: "from 10m to 8760h"},
		"approval":        {path: []string{"clientCertificate", "approval"}, value: "Always", says: "ClusterWide"},
		"too many keys":   {path: []string{"clientCertificate", "replacementKeys"}, value: int64(8), says: "less than or equal to 7"},
		"fewer than none": {path: []string{"clientCertificate", "replacementKeys"}, value: int64(-1), says: "greater than or equal to 0"},
		"keys, and everybody": {path: []string{"clientCertificate"}, value: map[string]any{"approval": "ClusterWide", "replacementKeys": int64(1)},
			says: "no meaning with approval ClusterWide"},
		"fingerprint short":     {path: []string{"clientCertificate", "keyFingerprint"}, value: "SHA256:" + strings.Repeat("0", 63), says: "sha256sum"},
		"fingerprint long":      {path: []string{"clientCertificate", "keyFingerprint"}, value: "SHA256:" + strings.Repeat("0", 65), says: "64 lower-case hex digits"},
		"fingerprint of ssh":    {path: []string{"clientCertificate", "keyFingerprint"}, value: "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU", says: "openssl req -in node.csr"},
		"fingerprint case":      {path: []string{"clientCertificate", "keyFingerprint"}, value: "SHA256:" + strings.Repeat("A", 64), says: "lower-case"},
		"fingerprint with line": {path: []string{"clientCertificate", "keyFingerprint"}, value: "SHA256:" + strings.Repeat("0", 64) + "\n", says: "lower-case"},
		"fingerprint bare":      {path: []string{"clientCertificate", "keyFingerprint"}, value: strings.Repeat("0", 64), says: "must be SHA256:"},
		"fingerprint empty":     {path: []string{"clientCertificate", "keyFingerprint"}, value: "", says: "openssl pkey -in node.key"},
		"fingerprint, and everybody": {path: []string{"clientCertificate"}, value: map[string]any{"approval": "ClusterWide", "keyFingerprint": "SHA256:" + strings.Repeat("0", 64)},
			says: "keyFingerprint has no effect with approval ClusterWide"},
		"address wildcard": {path: []string{"servingCertificate", "addresses"}, value: []any{"*.example.com"}, says: "without wildcards"},
		"address case":     {path: []string{"servingCertificate", "addresses"}, value: []any{"Worker.example.com"}, says: "lower-case"},
		"address URL":      {path: []string{"servingCertificate", "addresses"}, value: []any{"https://worker"}, says: "DNS name"},
		"253 characters":   {node: strings.Repeat("n", 253), says: "63 characters"},
		"64 characters":    {node: strings.Repeat("n", 64), says: "kubernetes.io/hostname"},
		"64 with dots":     {node: strings.Repeat("n", 31) + "." + strings.Repeat("n", 32), says: "--hostname-override"},
		"upper case":       {node: "Worker-1", says: "lower case"},
		"underscore":       {node: "worker_1", says: "lower case"},
	} {
		t.Run(name, func(t *testing.T) {
			err := cluster.Client.Create(t.Context(), nodeBootstrap(t, c.node, c.path, c.value), client.DryRunAll)
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("the error does not say %q: %v", c.says, err)
			}
		})
	}
}

func TestAPIAccepts(t *testing.T) {
	pem := string(ca(t, time.Now().Add(time.Hour)))
	for name, c := range map[string]struct {
		node  string
		path  []string
		value any
	}{
		"four lines":    {},
		"dots":          {node: "worker-1.rack-2.example.com"},
		"63 characters": {node: strings.Repeat("n", 63)},
		"seven keys":    {path: []string{"clientCertificate"}, value: map[string]any{"approval": "Manual", "replacementKeys": int64(7)}},
		"no keys":       {path: []string{"clientCertificate"}, value: map[string]any{"approval": "ClusterWide", "replacementKeys": int64(0)}},
		"server":        {path: []string{"cluster", "server"}, value: "https://api.example.com:6443"},
		"server IPv6":   {path: []string{"cluster", "server"}, value: "https://[2001:db8::1]:6443"},
		"server path":   {path: []string{"cluster", "server"}, value: "https://api.example.com/clusters/a"},
		"CA":            {path: []string{"cluster", "caBundle"}, value: pem},
		"two CAs":       {path: []string{"cluster", "caBundle"}, value: pem + "\n" + pem},
		"CA, CRLF":      {path: []string{"cluster", "caBundle"}, value: strings.ReplaceAll(pem, "\n", "\r\n")},
		"ttl least":     {path: []string{"token", "ttl"}, value: "10m"},
		"ttl most":      {path: []string{"token", "ttl"}, value: "8760h"},
		"ttl mixed":     {path: []string{"token", "ttl"}, value: "1h30m"},
		"ttl seconds":   {path: []string{"token", "ttl"}, value: "31536000s"},
		"deadline":      {path: []string{"token", "joinDeadline"}, value: "168h"},
		"addresses":     {path: []string{"servingCertificate", "addresses"}, value: []any{"worker-1.example.com", "192.0.2.7", "2001:db8::/64"}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := cluster.Client.Create(t.Context(), nodeBootstrap(t, c.node, c.path, c.value), client.DryRunAll); err != nil {
				t.Error(err)
			}
		})
	}
}

// nodeBootstrap returns a NodeBootstrap as a user writes it, with one field of its spec set.
func nodeBootstrap(t *testing.T, name string, path []string, value any) *unstructured.Unstructured {
	t.Helper()
	if name == "" {
		name = "refused"
	}
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "nodebootstrap.io/v1alpha1", "kind": "NodeBootstrap", "metadata": map[string]any{"name": name},
	}}
	if len(path) > 0 {
		setSpec(t, u, path, value)
	}
	return u
}

func setSpec(t *testing.T, u *unstructured.Unstructured, path []string, value any) {
	t.Helper()
	if err := unstructured.SetNestedField(u.Object, value, append([]string{"spec"}, path...)...); err != nil {
		t.Fatal(err)
	}
}

// Like Flux and Argo CD: the applied fields stay as they are and keep their field manager, and a second apply changes nothing.
// The operator updates the status from its cache, which does not even have labels and annotations.
func TestServerSideApplyShowsNoDrift(t *testing.T) {
	const name = "committed"
	apply := func() *unstructured.Unstructured {
		u := nodeBootstrap(t, name, []string{"cluster", "server"}, cluster.Server())
		u.SetLabels(map[string]string{"team": "a"})
		u.SetAnnotations(map[string]string{"commit": "1"})
		if err := cluster.Client.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(u), client.FieldOwner("pipeline"), client.ForceOwnership); err != nil {
			t.Fatal(err)
		}
		return u
	}
	first := apply()
	t.Cleanup(func() { cluster.DeleteAfter(t, nodeBootstrap(t, name, nil, nil)) })
	settled, _ := cluster.WaitAwaited(t, name)
	owned := ""
	for _, fields := range settled.ManagedFields {
		if fields.Manager == "pipeline" {
			owned += fields.FieldsV1.String()
		} else if fields.Subresource != "status" {
			t.Errorf("%s owns %s", fields.Manager, fields.FieldsV1)
		}
	}
	for _, field := range []string{"f:team", "f:commit", "f:server"} {
		if !strings.Contains(owned, field) {
			t.Errorf("the pipeline owns %s and not %s", owned, field)
		}
	}
	if settled.Labels["team"] != "a" || settled.Annotations["commit"] != "1" {
		t.Errorf("labels are %v, annotations %v", settled.Labels, settled.Annotations)
	}
	again := apply()
	if again.GetResourceVersion() != settled.ResourceVersion || again.GetGeneration() != first.GetGeneration() {
		t.Errorf("applied again, the resourceVersion went from %s to %s", settled.ResourceVersion, again.GetResourceVersion())
	}
}
