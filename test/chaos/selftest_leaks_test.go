// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

const plantedPart = "0123456789abcdef"

// The search finds a secret part that was planted in a file, in each encoding, and nothing else.
func TestSearchFindsPlantedSecrets(t *testing.T) {
	known := invariants.CanariesOf(map[string]string{plantedPart: "the planted one"})
	for shift := range 17 {
		text := []byte("a line\n" + strings.Repeat("-", shift) + plantedPart + "-and-more")
		for form, leak := range map[string]string{
			"plain": string(text), "hex": hex.EncodeToString(text), "hex dump": hex.Dump(text), "quoted hex dump": fmt.Sprintf("%q", hex.Dump(text)),
			"base64": base64.StdEncoding.EncodeToString(text), "base64 in URLs": base64.RawURLEncoding.EncodeToString(text),
		} {
			found := searchOne(t, known, "kubelet.log", leak)
			if len(found) == 0 || found[0].file != "kubelet.log" || !strings.HasPrefix(found[0].Name, "the planted one") {
				t.Errorf("%s, after %d bytes: found %v", form, shift, found)
			}
			if strings.Contains(fmt.Sprint(found), plantedPart) {
				t.Errorf("%s, after %d bytes: what was found repeats the secret: %v", form, shift, found)
			}
		}
	}
	if found := searchOne(t, known, "kubelet.log", strings.ReplaceAll(plantedPart, "9", "8")); len(found) > 0 {
		t.Errorf("found %v", found)
	}
}

// A token that was never stored is found in files that only the operator writes.
func TestSearchFindsWholeTokens(t *testing.T) {
	for text, want := range map[string]int{
		`{"token":"abcdef.` + plantedPart + `"}`: 1,
		`token: abcdefg.` + plantedPart:          0,
		`manager.` + plantedPart + `x`:           0,
	} {
		if found := searchOne(t, invariants.CanariesOf(nil), "manager-001.log", text); len(found) != want {
			t.Errorf("%s: found %v, want %d", text, found, want)
		}
	}
}

// searchOne searches a directory with one file.
func searchOne(t *testing.T, known *invariants.Canaries, file, content string) []finding {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	found, sizes, err := searchFiles(known, filepath.Dir(dir))
	if err != nil || sizes[file] != len(content) {
		t.Fatal(sizes, err)
	}
	return found
}
