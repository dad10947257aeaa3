// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestFactsAndPlansPrintWithoutSecretParts(t *testing.T) {
	f := awaited(1, young)
	p := decide(f, now)
	delete(f.TokenSecrets[0].Data, "auth-extra-groups")
	repairs := decide(f, now)
	deletes := Plan{DeleteTokens: []*corev1.Secret{tokenSecret(1, 0)}}
	for name, v := range map[string]any{"facts": f, "a plan": p, "a pointer to a plan": &p, "a plan that repairs": repairs, "a plan that deletes": deletes,
		"a struct": struct {
			F *Facts
			P Plan
		}{f, p}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			leaks(t, name+" with "+verb, fmt.Sprintf(verb, v))
		}
	}
}

// fmt calls no method of what is in a field that is not exported.
func TestTokenPrintsWithoutItsSecretPartWhereFmtMayNotCall(t *testing.T) {
	tok := token(1, 0)
	leaks(t, "a field that is not exported", fmt.Sprintf("%+v", struct{ t Token }{tok}))
	leaks(t, "a slice that is not exported", fmt.Sprintf("%+v", struct{ t []Token }{[]Token{tok}}))
	for _, verb := range []string{"%d", "%t"} {
		leaks(t, verb, fmt.Sprintf(verb, tok))
	}
	data, _ := json.Marshal(tok)
	leaks(t, "JSON", string(data)) // a structured logger writes what is no Stringer in this way
	data, _ = json.Marshal(Outcome{Token: &tok})
	leaks(t, "JSON of an outcome", string(data))
}

// A Secret travels as JSON, in which data is base64: a webhook that repeats what it was sent repeats that.
func TestRedactKnowsBase64(t *testing.T) {
	tok := token(1, 0)
	for _, around := range []string{"", "x", "xx", "xxx"} { // in a kubeconfig there is something in front of it
		b64 := base64.StdEncoding.EncodeToString([]byte(around + canary + around))
		got := RedactError(errors.New("webhook: denied {\"data\":\""+b64+"\"}"), &tok).Error()
		leaks(t, "the error", got)
		if !strings.Contains(got, "denied {") {
			t.Errorf("the error says nothing any more: %s", got)
		}
	}
}

// A webhook that refuses a deletion is shown what is to be deleted, and its answer went into the log and the status.
func TestSecretsAreRedactedFromTheRefusalOfADeletion(t *testing.T) {
	for _, secret := range []*corev1.Secret{tokenSecret(1, 0), kubeconfigSecret(1)} {
		refused := errors.New("a webhook refuses " + string(must(json.Marshal(secret))) + " with " + canary)
		leaks(t, secret.Name, RedactSecrets(refused, nil, secret).Error())
	}
}
