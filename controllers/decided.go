// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/types"
)

// maxDecided bounds what is remembered. What is forgotten costs a conflict.
const maxDecided = 10_000

// decidedRequests are the versions of requests that this process has stored a verdict on. A cache that is behind shows them as
// undecided for a moment: to decide again is two live reads and a write that ends in a conflict.
type decidedRequests struct {
	mu       sync.Mutex
	versions map[types.UID]string
}

func (d *decidedRequests) has(r *certificatesv1.CertificateSigningRequest) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	version, ok := d.versions[r.UID]
	return ok && version == r.ResourceVersion
}

// add notes a version of a request that a verdict was stored on.
func (d *decidedRequests) add(r *certificatesv1.CertificateSigningRequest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.versions == nil || len(d.versions) >= maxDecided {
		d.versions = map[types.UID]string{}
	}
	d.versions[r.UID] = r.ResourceVersion
}
