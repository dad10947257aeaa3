// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
)

// refusedSecret is a value that the API server rejects, and the secret in it that the response must not contain.
type refusedSecret struct {
	path   []string
	value  any
	secret string
	// undecodable is set for a value of a wrong type. The API server rejects it before it evaluates the rules of the
	// CustomResourceDefinition, and for patches it repeats the value (structured-merge-diff, typed/validate.go): no rule can
	// prevent that.
	undecodable bool
}

func refusedSecrets(t *testing.T) map[string]refusedSecret {
	const password, secret = "hunter2", "c2VjcmV0LWtleS1pbi1iYXNlNjQtaHVudGVyMg"
	pem := string(ca(t, time.Now().Add(time.Hour)))
	key := "-----BEGIN PRIVATE KEY-----\n" + secret + "==\n-----END PRIVATE KEY-----\n"
	server, bundle, addresses := []string{"cluster", "server"}, []string{"cluster", "caBundle"}, []string{"servingCertificate", "addresses"}
	return map[string]refusedSecret{
		"a password in the server":            {server, "https://admin:" + password + "@api.example.com:6443", password, false},
		"a password, no URL":                  {server, "https://admin:" + password + "@api example.com", password, false},
		"a password, no URL by escapes":       {server, "https://admin:" + password + "%zz@api.example.com", password, false},
		"a password, a port too high":         {server, "https://admin:" + password + "@10.0.0.300:70000", password, false},
		"a password, no scheme":               {server, "admin:" + password + "@api.example.com", password, false},
		"a user that is a token":              {server, "https://" + password + "@api.example.com", password, false},
		"a token in the query":                {server, "https://api.example.com?token=" + password, password, false},
		"a token in the fragment":             {server, "https://api.example.com#" + password, password, false},
		"a password as port":                  {server, "https://api.example.com:" + password, password, false},
		"a server that is too long":           {server, "https://admin:" + password + "@" + strings.Repeat("a", 2048), password, false},
		"a key as server":                     {server, key, secret, false},
		"a private key in the CA":             {bundle, pem + key, secret, false},
		"a private key before the CA":         {bundle, key + pem, secret, false},
		"only a private key":                  {bundle, key, secret, false},
		"a private key in base64":             {bundle, base64.StdEncoding.EncodeToString([]byte(key)), base64.StdEncoding.EncodeToString([]byte(key))[40:60], false},
		"a kubeconfig as CA":                  {bundle, "users:\n- user: {token: " + password + "}\n", password, false},
		"a CA that is too long":               {bundle, strings.Repeat(pem, 65536/len(pem)) + key + strings.Repeat("\n", 65536), secret, false},
		"a key as address":                    {addresses, []any{"worker-1", key}, secret, false},
		"a URL with a password as address":    {addresses, []any{"https://admin:" + password + "@worker-1"}, password, false},
		"a password in capitals as address":   {addresses, []any{"HUNTER2"}, "HUNTER2", false},
		"an address that is too long":         {addresses, []any{password + strings.Repeat("a", 300)}, password, false},
		"a list where a text is expected":     {bundle, []any{key}, secret, true},
		"a map where a text is expected":      {server, map[string]any{"url": "https://" + password}, password, true},
		"a text where a list is expected":     {addresses, password, password, true},
		"a token where an object is expected": {[]string{"token"}, "abcdef." + password, password, true},
		"a field that does not exist":         {[]string{"cluster", "password"}, password, password, true},
	}
}

// The API server's errors go into terminals, logs of pipelines and the status of GitOps tools. A rejected value may be a secret
// that a user pasted, so the error must not repeat it. (kubectl apply without --server-side itself prints the rejected patch.)
func TestRefusalsRepeatNoSecret(t *testing.T) {
	t.Parallel()
	const name = "no-secrets"
	cluster.Create(t, cluster.NodeBootstrap(name))
	for what, c := range refusedSecrets(t) {
		t.Run(what, func(t *testing.T) {
			for way, err := range refusalsOf(t, name, c) {
				if err == nil {
					t.Errorf("%s: not refused", way)
				} else if strings.Contains(err.Error(), c.secret) {
					t.Errorf("%s: the secret is in the error: %.600v", way, err)
				}
			}
		})
	}
}

// refusalsOf sends a value in all ways, to an existing NodeBootstrap and to a new one.
func refusalsOf(t *testing.T, name string, c refusedSecret) map[string]error {
	t.Helper()
	strict := client.FieldValidation("Strict")
	fresh, changed, existing := nodeBootstrap(t, name+"-new", c.path, c.value), nodeBootstrap(t, name, c.path, c.value), nodeBootstrap(t, name, nil, nil)
	cluster.Get(t, "", name, existing)
	setSpec(t, existing, c.path, c.value)
	dir := t.TempDir()
	kubectl := func(u *unstructured.Unstructured, args ...string) error {
		file := filepath.Join(dir, u.GetName()+".json")
		if err := os.WriteFile(file, asJSON(t, u), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := operator.Kubectl(t.Context(), cluster.Cluster, append(args, "-f", file)...)
		return err
	}
	out := map[string]error{
		"create":           cluster.Client.Create(t.Context(), fresh.DeepCopy(), client.DryRunAll, strict),
		"update":           cluster.Client.Update(t.Context(), existing, strict),
		"kubectl create":   kubectl(fresh, "create"),
		"kubectl apply":    kubectl(fresh, "apply", "--dry-run=server"),
		"kubectl replace":  kubectl(changed, "replace"),
		"kubectl validate": kubectl(fresh, "create", "--dry-run=server", "--validate=strict"),
	}
	if !c.undecodable {
		out["patch"] = cluster.Client.Patch(t.Context(), changed.DeepCopy(), client.RawPatch(types.MergePatchType, asJSON(t, changed)), strict)
		out["server-side apply"] = cluster.Client.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(changed), client.FieldOwner("pipeline"), client.ForceOwnership)
		out["kubectl apply --server-side"] = kubectl(changed, "apply", "--server-side", "--force-conflicts")
		out["kubectl apply --server-side of a new one"] = kubectl(fresh, "apply", "--server-side")
	}
	return out
}

func asJSON(t *testing.T, u *unstructured.Unstructured) []byte {
	t.Helper()
	data, err := json.Marshal(u.Object)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
