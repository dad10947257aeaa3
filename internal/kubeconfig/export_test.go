// SPDX-License-Identifier: Apache-2.0

package kubeconfig

var Fingerprint = fingerprint

const FromClusterInfo = fromClusterInfo

const FromFlagCA = fromFlagCA

const FromFlagServer = fromFlagServer

const FromRootCA = fromRootCA

const FromSpecCA = fromSpecCA

const FromSpecServer = fromSpecServer

var Marshal = marshal

func (x *Cluster) Template() *template { return x.template }
