// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
)

// parseRecipients parses values of --recipient. Each is one or more public keys, one a line, as in a recipients file of age.
func parseRecipients(values []string) ([]age.Recipient, error) {
	var out []age.Recipient
	for _, value := range values {
		before := len(out)
		for line := range strings.Lines(value) {
			line = strings.TrimSpace(line)
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			recipient, err := parseRecipient(line)
			if err != nil {
				return nil, err
			}
			out = append(out, recipient)
		}
		if len(out) == before {
			return nil, errors.New("--recipient is empty: it takes a public key of age or ssh")
		}
	}
	return out, nil
}

// parseRecipient parses a public key. Errors do not quote it, since it could be a private key by mistake.
func parseRecipient(key string) (age.Recipient, error) {
	kind, _, _ := strings.Cut(key, " ")
	var recipient age.Recipient
	var err error
	switch {
	case strings.HasPrefix(key, "AGE-SECRET-KEY-"), strings.HasPrefix(key, "-----BEGIN"):
		return nil, errors.New("--recipient takes a public key, and this is a private one, or a PEM file. " +
			"Print the public key with age-keygen -y FILE, or use the file with .pub at the end")
	case strings.HasPrefix(key, "age1pq1"):
		recipient, err = age.ParseHybridRecipient(key)
	case strings.HasPrefix(key, "age1") && strings.Count(key, "1") > 1:
		return nil, errors.New("--recipient takes no keys of age plugins")
	case strings.HasPrefix(key, "age1"):
		recipient, err = age.ParseX25519Recipient(key)
	case kind == "ssh-ed25519", kind == "ssh-rsa":
		recipient, err = agessh.ParseRecipient(key)
	case strings.HasPrefix(kind, "ssh-"), strings.HasPrefix(kind, "ecdsa-"), strings.HasPrefix(kind, "sk-"):
		return nil, errors.New("--recipient takes ssh keys of the types ssh-ed25519 and ssh-rsa only: nothing can be encrypted for others")
	default:
		return nil, errors.New("--recipient takes a public key that begins with age1, ssh-ed25519 or ssh-rsa, not the name of a file: " +
			`write --recipient "$(cat FILE)" for a file of them`)
	}
	if err != nil { // it quotes the key
		return nil, fmt.Errorf("--recipient has a malformed key: a key of the type %s is damaged, or is an RSA key of less than 2048 bits", keyType(key))
	}
	return recipient, nil
}

func keyType(key string) string {
	kind, _, isSSH := strings.Cut(key, " ")
	if isSSH {
		return kind
	}
	return "age1"
}

// encrypt returns the content, encrypted for each recipient, as armored text of age.
func encrypt(content []byte, recipients []age.Recipient) ([]byte, error) {
	var out bytes.Buffer
	armored := armor.NewWriter(&out)
	w, err := age.Encrypt(armored, recipients...)
	if err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	if _, err := w.Write(content); err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	if err := errors.Join(w.Close(), armored.Close()); err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	return out.Bytes(), nil
}
