// SPDX-License-Identifier: Apache-2.0

package status

import (
	"slices"

	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
)

// maxAPIServerHosts is how many hosts a status keeps.
const maxAPIServerHosts = 16

// addHosts adds the hosts of servers to the published ones, the newest last. The oldest are dropped first.
func addHosts(hosts []string, servers ...string) []string {
	for _, server := range servers {
		host := kubeconfig.ServerHost(server)
		if host == "" || len(hosts) > 0 && hosts[len(hosts)-1] == host {
			continue
		}
		hosts = append(slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return h == host }), host)
	}
	return hosts[max(0, len(hosts)-maxAPIServerHosts):]
}
