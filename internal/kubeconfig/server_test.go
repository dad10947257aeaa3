// SPDX-License-Identifier: Apache-2.0

package kubeconfig_test

import (
	"strings"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/test/servers"
)

func TestValidateServer(t *testing.T) {
	for _, server := range servers.Good() {
		if err := kubeconfig.ValidateServer(server); err != nil {
			t.Errorf("%q: %v", server, err)
		}
	}
	for _, server := range servers.Bad() {
		if err := kubeconfig.ValidateServer(server); err == nil {
			t.Errorf("%q is accepted", server)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the password is in the error: %v", server, err)
		}
	}
}
