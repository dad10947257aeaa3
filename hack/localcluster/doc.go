// SPDX-License-Identifier: Apache-2.0

// Package localcluster runs a Kubernetes control plane, and stock kubelets, as
// plain processes of this machine: for tests and for the demo.
//
// etcd and kube-apiserver are started by envtest. What envtest lacks is added
// here: kube-controller-manager, which signs certificates with the CA that
// kube-apiserver trusts for clients, real kubelets on a fake container runtime,
// and a guard that stops all of it if this process dies without doing so.
//
// Everything listens on loopback, on ports that were free. The kubelets are the
// exception: they listen on all addresses, and they need root and Linux.
package localcluster
