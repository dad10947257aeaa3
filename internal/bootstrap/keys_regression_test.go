// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// A cache that is behind shows the token from before a reissue, and its requests: that the keys differed was reported until then.
func TestKeysFromBeforeAReissueStayForgotten(t *testing.T) {
	f := awaited(1, young)
	edits(claimed("csr-a"), further(request("csr-b", 1, minutes(1))))(f)
	pass(f)
	if !meta.IsStatusConditionTrue(f.NodeBootstrap.Status.Conditions, v1alpha1.ConditionKeyConflict) {
		t.Fatalf("the conditions are %+v", f.NodeBootstrap.Status.Conditions)
	}
	secrets := f.TokenSecrets
	askReissue(f)
	pass(f)
	f.TokenSecrets = append(f.TokenSecrets, secrets...)
	pass(f)
	if s := f.NodeBootstrap.Status; meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionKeyConflict) != nil || len(s.Keys) > 0 {
		t.Errorf("the keys are %+v, the conditions are %+v", s.Keys, s.Conditions)
	}
}
