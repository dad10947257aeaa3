// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"golang.org/x/crypto/ssh"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// keyPair is a recipient with the private key.
type keyPair struct {
	recipient string
	identity  age.Identity
}

// keyPairs returns one of each type.
func keyPairs(t *testing.T) map[string]keyPair {
	t.Helper()
	x25519, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, err := agessh.NewEd25519Identity(edKey)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsa, err := agessh.NewRSAIdentity(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]keyPair{
		"age1":        {x25519.Recipient().String(), x25519},
		"age1pq1":     {hybrid.Recipient().String(), hybrid},
		"ssh-ed25519": {authorizedKey(t, edKey.Public()), ed},
		"ssh-rsa":     {authorizedKey(t, rsaKey.Public()), rsa},
	}
}

// authorizedKey is a public key as ssh-keygen writes it.
func authorizedKey(t *testing.T, key any) string {
	t.Helper()
	public, err := ssh.NewPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public))) + " alice@example.com"
}

func decrypt(t *testing.T, text string, identity age.Identity) string {
	t.Helper()
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(text)), identity)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestRecipient(t *testing.T) {
	cl := cluster{objects: []client.Object{awaiting(), publishedSecret()}}
	for name, pair := range keyPairs(t) {
		t.Run(name, func(t *testing.T) {
			r := cl.succeeds(t, "kubeconfig", node, "--recipient", pair.recipient)
			if !strings.HasPrefix(r.out, armor.Header) || decrypt(t, r.out, pair.identity) != kubeconfigText || r.errOut != "" {
				t.Errorf("got %q and %q", r.out, r.errOut)
			}
		})
	}
}

// Several keys can be one value, as in a file of recipients, or several.
func TestRecipients(t *testing.T) {
	cl := cluster{objects: []client.Object{awaiting(), publishedSecret()}}
	pairs := keyPairs(t)
	one, two, three := pairs["age1"], pairs["ssh-ed25519"], pairs["ssh-rsa"]
	r := cl.succeeds(t, "kubeconfig", node, "--recipient", "# the team\n"+one.recipient+"\r\n\n"+two.recipient+"\n", "--recipient", three.recipient)
	for _, pair := range []keyPair{one, two, three} {
		if decrypt(t, r.out, pair.identity) != kubeconfigText {
			t.Errorf("%s cannot decrypt it", pair.recipient)
		}
	}
	if _, err := age.Decrypt(armor.NewReader(strings.NewReader(r.out)), keyPairs(t)["age1"].identity); err == nil {
		t.Error("any key decrypts it")
	}
}

func TestRecipientWithFile(t *testing.T) {
	cl := cluster{objects: []client.Object{awaiting(), publishedSecret()}}
	pair := keyPairs(t)["age1"]
	path := filepath.Join(t.TempDir(), "file.age")
	r := cl.succeeds(t, "kubeconfig", node, "--recipient", pair.recipient, "--output-file", path)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, path, string(content))
	if decrypt(t, string(content), pair.identity) != kubeconfigText || r.out != "" {
		t.Errorf("got %q, and printed %q", content, r.out)
	}
	mention(t, "the error output", r.errOut, "Wrote "+path, "age -d -i KEY "+path)
}

// A bad recipient is refused before the command connects, and not repeated: it could be a private key.
func TestBadRecipient(t *testing.T) {
	secret, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	ecdsaKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	pairs := keyPairs(t)
	for name, tc := range map[string]struct{ recipient, want string }{
		"empty":           {"", "is empty"},
		"only a comment":  {"# nobody\n", "is empty"},
		"a file":          {"/home/alice/.ssh/id_ed25519.pub", `"$(cat FILE)"`},
		"private of age":  {secret.String(), "private"},
		"private of ssh":  {"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA", "private"},
		"ecdsa":           {authorizedKey(t, ecdsaKey.Public()), "ssh-ed25519 and ssh-rsa only"},
		"a small RSA key": {authorizedKey(t, small.Public()), "less than 2048 bits"},
		"a plugin":        {"age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t", "plugins"},
		"half a key":      {pairs["age1"].recipient[:40], "type age1 is damaged"},
		"half an ssh key": {pairs["ssh-ed25519"].recipient[:40], "type ssh-ed25519 is damaged"},
		"the second line": {pairs["age1"].recipient + "\nbob", "begins with age1"},
	} {
		t.Run(name, func(t *testing.T) {
			r := cluster{funcs: failing(errors.New("asked the cluster first"))}.execute(t, "kubeconfig", node, "--recipient", tc.recipient)
			if r.err == nil || r.out != "" {
				t.Fatalf("got %q and the error %v", r.out, r.err)
			}
			mention(t, "the error", r.err.Error(), "--recipient", tc.want, "See kubectl nodebootstrap kubeconfig --help")
			if len(tc.recipient) > 20 && strings.Contains(r.err.Error(), tc.recipient[10:20]) {
				t.Errorf("the error repeats the key: %v", r.err)
			}
		})
	}
	t.Run("mixed", func(t *testing.T) { // age refuses that, since the weaker key would decide
		r := cluster{objects: []client.Object{awaiting(), publishedSecret()}}.execute(t, "kubeconfig", node,
			"--recipient", pairs["age1"].recipient, "--recipient", pairs["age1pq1"].recipient)
		if r.err == nil || r.out != "" {
			t.Fatalf("got %q and the error %v", r.out, r.err)
		}
		mention(t, "the error", r.err.Error(), "encrypting")
	})
}
