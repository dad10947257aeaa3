// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"reflect"
	"runtime"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

func (x *Facts) Alive(now time.Time) *metav1.Time { return x.alive(now) }

func (x *Facts) CertificateUsed() bool { return x.certificateUsed() }

const FirstLease = firstLease

func (x *Facts) Keep(now time.Time) []token.Token { return x.keep(now) }

var ClaimsOf = claimsOf

func (x *claimedKey) Key() string { return x.key }

func (x *claimedKey) At() time.Time { return x.at }

func (x *Facts) Misused() bool { return x.misused() }

var NewestUndecided = newestUndecided

func (x *Facts) ReissueDue() bool { return x.reissueDue() }

func (x *Plan) DeleteRequest(r *certificatesv1.CertificateSigningRequest, why csr.Result) {
	x.deleteRequest(r, why)
}

var TokenRevoked = tokenRevoked

// TokenRules are the names of the rules, in their order, with those of their functions.
func TokenRules() (names, functions []string) {
	for _, r := range tokenRules {
		names = append(names, r.name)
		full := runtime.FuncForPC(reflect.ValueOf(r.settles).Pointer()).Name()
		functions = append(functions, full[strings.LastIndexByte(full, '.')+1:])
	}
	return names, functions
}

const MisusedWithOthers = misusedWithOthers
