// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/test/env"
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
	env.Must(t, os.Mkdir(dir, 0o755))
	env.Must(t, os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600))
	found, sizes, err := searchFiles(known, filepath.Dir(dir))
	if err != nil || sizes[file] != len(content) {
		t.Fatal(sizes, err)
	}
	return found
}

// echo returns the bytes that it receives, until ctx is done.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	env.Must(t, err)
	context.AfterFunc(t.Context(), func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				conn.Close()
			}()
		}
	}()
	return listener.Addr().String()
}

// exchange sends bytes through a proxy and returns how many came back, and how long that took.
func exchange(t *testing.T, p *proxy, size int) (int, time.Duration) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.address())
	if err != nil {
		return 0, 0
	}
	defer conn.Close()
	began := time.Now()
	go func() { _, _ = conn.Write(bytes.Repeat([]byte("x"), size)) }()
	env.Must(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	n, _ := io.ReadFull(conn, make([]byte, size))
	return n, time.Since(began)
}

func TestProxyBreaksWhatItShould(t *testing.T) {
	p, err := startProxy(t.Context(), echo(t), rand.New(rand.NewPCG(1, 1)))
	env.Must(t, err)
	const size = 200_000
	if n, _ := exchange(t, p, size); n != size {
		t.Errorf("without faults %d of %d bytes came back", n, size)
	}
	p.set(conditions{cutAfter: 1000})
	if n, _ := exchange(t, p, size); n >= 2000 || p.cut.Load() == 0 {
		t.Errorf("of a connection that is cut %d bytes came back", n)
	}
	p.set(conditions{refuse: true})
	if n, _ := exchange(t, p, size); n != 0 || p.refused.Load() == 0 {
		t.Errorf("of a connection that is refused %d bytes came back", n)
	}
	p.set(conditions{delay: time.Second})
	if n, took := exchange(t, p, 10); n != 10 || took < 10*time.Millisecond {
		t.Errorf("%d delayed bytes came back within %s", n, took)
	}
	exchangeDropped(t, p)
	p.set(conditions{})
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.address())
	env.Must(t, err)
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p.cutAll()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a connection still works after it was cut")
	}
	if got := p.sent.Load(); got < size {
		t.Errorf("%d bytes were counted", got)
	}
}

// exchangeDropped sends bytes that are lost, in one direction, until the connection is reset.
func exchangeDropped(t *testing.T, p *proxy) {
	t.Helper()
	for _, way := range []direction{toServer, toClient} {
		p.set(conditions{drop: way})
		sent := p.sent.Load()
		done := make(chan int)
		go func() {
			n, _ := exchange(t, p, 10)
			done <- n
		}()
		for p.sent.Load() == sent {
			wait(t.Context(), time.Millisecond)
		}
		select {
		case <-done:
			t.Errorf("a connection whose bytes are dropped %d did not wait", way)
			continue
		case <-time.After(100 * time.Millisecond):
		}
		p.set(conditions{})
		if n := <-done; n != 0 {
			t.Errorf("of what was dropped %d, %d bytes came back", way, n)
		}
	}
}
