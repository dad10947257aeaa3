// SPDX-License-Identifier: Apache-2.0

// Package localcluster runs a Kubernetes control plane, and stock kubelets, as
// plain processes of this machine: for tests and for the demo.
//
// envtest starts etcd and kube-apiserver. This package adds what envtest lacks:
// kube-controller-manager, which signs certificates with the CA that
// kube-apiserver trusts for clients, real kubelets on a fake container runtime,
// and a guard that stops everything if this process dies first. A Machine is more:
// a kubelet under its unit, on a machine of its own that is reached by ssh.
//
// Everything listens on loopback, on ports that were free, except the kubelets:
// they listen on all addresses, and need root and Linux.
package localcluster
