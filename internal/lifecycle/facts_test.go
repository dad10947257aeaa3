// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// A long value that an earlier version has stored unchanged is not a new request.
func TestLongReissueOfAnEarlierVersion(t *testing.T) {
	long := strings.Repeat("x", 1000)
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.ReissueRequestedAtAnnotation: long}}}
	nb.Status.LastHandledReissueAt = long
	if f := (lifecycle.Facts{NodeBootstrap: nb}); f.ReissueDue() {
		t.Error("it counts as a new request")
	}
	secret := token.NewSecret(nb, "abcdef", "0123456789abcdef", time.Unix(1, 0))
	if got := secret.Annotations[v1alpha1.ReissueRequestedAtAnnotation]; got != token.NormalReissue(long) {
		t.Errorf("the token was created for %.100q", got)
	}
	secret.Annotations[v1alpha1.ReissueRequestedAtAnnotation] = long
	if tok, _ := token.Parse(secret); !tok.MadeFor(nb) {
		t.Error("its token is not accepted as the requested one")
	}
}

func TestConcerns(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	good := map[string]*certificatesv1.CertificateSigningRequest{
		"its own":          nodetest.Request("csr-a", 1, 0),
		"its own, wrongly": nodetest.Request("csr-a", 1, 0, nodetest.TooLong, inAnotherGroup),
		"of any token":     nodetest.Request("csr-a", 7, 0, nodetest.Approved(0), nodetest.WithCertificate),
	}
	for name, r := range good {
		if !f.Concerns(r) {
			t.Errorf("%s does not concern the node", name)
		}
		f.Requests = append(f.Requests, r)
	}
	for name, spoil := range nodetest.Spoilt {
		r := nodetest.Request("csr-b", 1, 0, spoil)
		if f.Concerns(r) {
			t.Errorf("%s concerns the node", name)
		}
		f.Requests = append(f.Requests, r)
	}
	if own, all := len(f.OwnRequests()), len(f.Requests); own != len(good) || all != len(good)+len(nodetest.Spoilt) {
		t.Errorf("%d of %d CSRs are its own", own, all)
	}
}

// A structured logger writes unknown types as JSON.
func TestFactsAndPlansMarshalWithoutSecretParts(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	f.NodeBootstrap = nil
	p := nodetest.Decide(f, nodetest.Now)
	for name, v := range map[string]any{"facts": f, "a plan": p, "a pointer to a plan": &p} {
		data, _ := json.Marshal(v)
		nodetest.Leaks(t, name, string(data))
	}
	nodetest.Leaks(t, "facts by value", fmt.Sprintf("%+v", *f))
}

func TestFactsAndPlansPrintWithoutSecretParts(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	p := nodetest.Decide(f, nodetest.Now)
	delete(f.TokenSecrets[0].Data, "auth-extra-groups")
	repairs := nodetest.Decide(f, nodetest.Now)
	deletes := lifecycle.Plan{DeleteTokens: []lifecycle.TokenDeletion{{Secret: nodetest.TokenSecret(1, 0)}}}
	for name, v := range map[string]any{"facts": f, "a plan": p, "a pointer to a plan": &p, "a plan that repairs": repairs, "a plan that deletes": deletes,
		"a struct": struct {
			F *lifecycle.Facts
			P lifecycle.Plan
		}{f, p}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			nodetest.Leaks(t, name+" with "+verb, fmt.Sprintf(verb, v))
		}
	}
}
