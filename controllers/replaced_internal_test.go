// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"strconv"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestReplacedVersions(t *testing.T) {
	request := func(uid, version string) *certificatesv1.CertificateSigningRequest {
		return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), ResourceVersion: version}}
	}
	var r replacedVersions
	begin := time.Unix(1, 0)
	r.add(versionOf(request("a", "1")), begin)
	r.add(versionOf(request("a", "2")), begin)
	for name, tt := range map[string]struct {
		o     *certificatesv1.CertificateSigningRequest
		after time.Duration
		want  bool
	}{
		"the last":              {request("a", "2"), 0, true},
		"the one before":        {request("a", "1"), 0, true},
		"one that came after":   {request("a", "3"), 0, false},
		"another's":             {request("b", "1"), 0, false},
		"a moment later":        {request("a", "2"), time.Second, true},
		"when the cache stands": {request("a", "2"), replacedLag, false},
		"by a clock set back":   {request("a", "2"), -time.Hour, false},
	} {
		if got := r.has(tt.o, begin.Add(tt.after)); got != tt.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
	for i := range 2 * maxReplaced {
		r.add(objectVersion{resourceVersion: strconv.Itoa(i)}, begin)
	}
	if len(r.at) > maxReplaced {
		t.Errorf("%d are remembered", len(r.at))
	}
}
