// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"strings"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

func TestKubeconfigChanged(t *testing.T) {
	published := func(edit ...func(*v1alpha1.NodeBootstrapStatus)) *v1alpha1.NodeBootstrapStatus {
		s := statusOf(1, young)
		s.KubeconfigSecretRef = &v1alpha1.SecretReference{Namespace: testNamespace, Name: KubeconfigSecretName(testNode)}
		s.Server, s.CAFingerprint = testServer, "SHA256:a"
		for _, e := range edit {
			e(&s)
		}
		return &s
	}
	server := func(s *v1alpha1.NodeBootstrapStatus) { s.Server = "https://theirs.example" }
	ca := func(s *v1alpha1.NodeBootstrapStatus) { s.CAFingerprint = "SHA256:b" }
	renewed := func(s *v1alpha1.NodeBootstrapStatus) { s.Token.ID = nthID(2) }
	reissued := func(s *v1alpha1.NodeBootstrapStatus) { s.LastHandledReissueAt = "again" }
	fromBefore := func(s *v1alpha1.NodeBootstrapStatus) { s.CAFingerprint = "" }
	gone := func(s *v1alpha1.NodeBootstrapStatus) {
		s.Token, s.KubeconfigSecretRef, s.Server, s.CAFingerprint = nil, nil, "", ""
	}
	for name, tt := range map[string]struct {
		old, new *v1alpha1.NodeBootstrapStatus
		want     KubeconfigChange
	}{
		"nothing":                      {published(), published(), KubeconfigChange{}},
		"the server":                   {published(), published(server), KubeconfigChange{Server: true}},
		"the CA":                       {published(), published(ca), KubeconfigChange{CA: true}},
		"both":                         {published(), published(server, ca), KubeconfigChange{Server: true, CA: true}},
		"published for the first time": {published(gone), published(), KubeconfigChange{}},
		"no longer published":          {published(), published(gone), KubeconfigChange{}},
		"renewed":                      {published(), published(renewed), KubeconfigChange{}},
		"renewed with another server":  {published(), published(renewed, server), KubeconfigChange{Server: true}},
		"reissued":                     {published(), published(renewed, reissued), KubeconfigChange{}},
		"reissued elsewhere":           {published(), published(renewed, reissued, server, ca), KubeconfigChange{}},
		"an earlier version's status":  {published(fromBefore), published(), KubeconfigChange{}},
		"and another server":           {published(fromBefore), published(server), KubeconfigChange{Server: true}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := KubeconfigChanged(tt.old, tt.new); got != tt.want {
				t.Errorf("got %+v", got)
			}
			var notes []string
			for _, e := range Events(tt.old, tt.new) {
				if e.Reason == v1alpha1.ReasonKubeconfigChanged {
					notes = append(notes, e.Type+" "+e.Note)
				}
			}
			if told := len(notes) == 1; told != (tt.want != KubeconfigChange{}) {
				t.Errorf("told is %q", notes)
			}
			for _, note := range notes {
				for _, word := range []string{"Warning", tt.old.Server, tt.new.Server, tt.old.CAFingerprint, tt.new.CAFingerprint} {
					if !strings.Contains(note, word) {
						t.Errorf("%q does not say %s", note, word)
					}
				}
			}
		})
	}
}
