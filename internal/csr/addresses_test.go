// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"testing"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

func TestHostKey(t *testing.T) {
	for host, want := range map[string]string{
		"":                        "",
		"api.example.com":         "api.example.com",
		"API.Example.com.":        "api.example.com",
		"10.0.0.1":                "10.0.0.1",
		"10.0.0.1.":               "10.0.0.1",
		"::ffff:10.0.0.1":         "10.0.0.1",
		"2001:DB8:0:0::1":         "2001:db8::1",
		"fe80::1%eth0":            "fe80::1",
		"*.Wild.example":          "*.wild.example",
		"api.B\u00fccher.example": "api.xn--bcher-kva.example",
		"api\u3002example":        "api.example", // an ideographic full stop
		"\uff11\uff10.0.0.1":      "10.0.0.1",    // fullwidth digits
		"\u212aube.example":       "kube.example",
		"a_b.example":             "a_b.example",
		"192.000.002.007":         "192.000.002.007",
	} {
		if got := csr.HostKey(host); got != want {
			t.Errorf("the key of %q is %q, want %q", host, got, want)
		}
	}
}
