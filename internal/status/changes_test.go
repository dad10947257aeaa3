// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"strings"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

func TestKubeconfigChanged(t *testing.T) {
	published := func(edit ...func(*v1alpha1.NodeBootstrapStatus)) *v1alpha1.NodeBootstrapStatus {
		s := nodetest.StatusOf(1, nodetest.Young)
		s.KubeconfigSecretRef = &v1alpha1.SecretReference{Namespace: nodetest.Namespace, Name: owned.KubeconfigSecretName(nodetest.NodeName)}
		s.Server, s.CAFingerprint = nodetest.Server, "SHA256:a"
		for _, e := range edit {
			e(&s)
		}
		return &s
	}
	server := func(s *v1alpha1.NodeBootstrapStatus) { s.Server = "https://theirs.example" }
	ca := func(s *v1alpha1.NodeBootstrapStatus) { s.CAFingerprint = "SHA256:b" }
	renewed := func(s *v1alpha1.NodeBootstrapStatus) { s.Token.ID = nodetest.NthID(2) }
	reissued := func(s *v1alpha1.NodeBootstrapStatus) { s.LastHandledReissueAt = "again" }
	fromBefore := func(s *v1alpha1.NodeBootstrapStatus) { s.CAFingerprint = "" }
	gone := func(s *v1alpha1.NodeBootstrapStatus) {
		s.Token, s.KubeconfigSecretRef, s.Server, s.CAFingerprint = nil, nil, "", ""
	}
	for name, tt := range map[string]struct {
		old, new *v1alpha1.NodeBootstrapStatus
		want     status.KubeconfigChange
	}{
		"nothing":                      {published(), published(), status.KubeconfigChange{}},
		"the server":                   {published(), published(server), status.KubeconfigChange{Server: true}},
		"the CA":                       {published(), published(ca), status.KubeconfigChange{CA: true}},
		"both":                         {published(), published(server, ca), status.KubeconfigChange{Server: true, CA: true}},
		"published for the first time": {published(gone), published(), status.KubeconfigChange{}},
		"no longer published":          {published(), published(gone), status.KubeconfigChange{}},
		"renewed":                      {published(), published(renewed), status.KubeconfigChange{}},
		"renewed with another server":  {published(), published(renewed, server), status.KubeconfigChange{Server: true}},
		"reissued":                     {published(), published(renewed, reissued), status.KubeconfigChange{}},
		"reissued elsewhere":           {published(), published(renewed, reissued, server, ca), status.KubeconfigChange{}},
		"an earlier version's status":  {published(fromBefore), published(), status.KubeconfigChange{}},
		"and another server":           {published(fromBefore), published(server), status.KubeconfigChange{Server: true}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := status.KubeconfigChanged(tt.old, tt.new); got != tt.want {
				t.Errorf("got %+v", got)
			}
			var notes []string
			for _, e := range status.Events(tt.old, tt.new) {
				if e.Reason == v1alpha1.ReasonKubeconfigChanged {
					notes = append(notes, e.Type+" "+e.Note)
				}
			}
			if changed := len(notes) == 1; changed != (tt.want != status.KubeconfigChange{}) {
				t.Errorf("the notes are %q", notes)
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
