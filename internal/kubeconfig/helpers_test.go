// SPDX-License-Identifier: Apache-2.0

package kubeconfig_test

import (
	"time"

	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
)

func goodCA() []byte {
	return nodetest.Certificate(nodetest.Now.Add(-time.Hour), nodetest.Now.Add(time.Hour))
}
