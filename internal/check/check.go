// SPDX-License-Identifier: Apache-2.0

// Package check judges whether a cluster, and one node's way into it, are in order. It is pure: the plugin gathers the [Facts].
package check

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
)

// Status is the result of a check.
type Status string

const (
	// Passed means: this is in order.
	Passed Status = "Passed"
	// Failed means: this must be fixed.
	Failed Status = "Failed"
	// Warning means: this deserves attention, or could not be checked.
	Warning Status = "Warning"
	// Skipped means: this does not apply to the cluster, or nothing shows it yet.
	Skipped Status = "Skipped"
)

// Result is what one check has found.
type Result struct {
	// Name is one of Names. Several results can have it.
	Name string `json:"name"`
	// Status is the result.
	Status Status `json:"status"`
	// Message is what was found.
	Message string `json:"message"`
	// Fix is what to run or to do about it, in one line or more; empty if nothing is to be done.
	Fix string `json:"fix,omitempty"`
}

// Read is what was read from the cluster, or why it could not be read. What does not exist has the zero value.
type Read[T any] struct {
	Value T
	Err   error
}

// Facts are what the checks need to know.
type Facts struct {
	// Now is the time of this machine, and ServerTime that of the API server, in whole seconds.
	Now, ServerTime time.Time
	// Before reports that the operator is to be installed.
	Before bool
	// Plugin is the version of the plugin, and Kubernetes that of the API server.
	Plugin, Kubernetes string
	// Presented is the certificate chain of the API server to which the plugin is connected, the leaf first.
	Presented []*x509.Certificate

	// Namespace is the operator's.
	Namespace string
	// CRD is the CustomResourceDefinition.
	CRD        Read[map[string]any]
	Deployment Read[*appsv1.Deployment]
	Pods       Read[[]corev1.Pod]
	// Leader is the Lease of the operator's leader election, and Signer that of kube-controller-manager.
	Leader, Signer Read[*coordinationv1.Lease]

	NodeBootstraps Read[[]v1alpha1.NodeBootstrap]
	// APIServers are the Pods of kube-apiserver. Most clusters that are not kubeadm's have none.
	APIServers Read[[]corev1.Pod]
	// ClusterInfo is the kubeconfig in kube-public/cluster-info, and RootCA the CA in kube-root-ca.crt.
	ClusterInfo, RootCA Read[string]
	// Endpoints are the answers at the addresses of Targets, by URL.
	Endpoints map[string]Endpoint

	// Bypass is what else approves the CSRs of the operator's tokens.
	Bypass   Read[*lifecycle.Bypass]
	Bindings Read[[]rbacv1.ClusterRoleBinding]
	Requests Read[[]certificatesv1.CertificateSigningRequest]

	// IsKubeadm reports whether the cluster is kubeadm's, and KubeadmMissing which objects of the component are absent.
	IsKubeadm      Read[bool]
	KubeadmMissing Read[[]string]

	// Permissions are those that an installation needs. Only the checks before it use them.
	Permissions []Permission

	// Node are the facts about one node; nil without one.
	Node *NodeFacts
}

// Permission is whether the user may do something.
type Permission struct {
	What    string
	Allowed Read[bool]
}

// check is one check. A check without a result does not apply.
type check struct {
	name string
	run  func(*Facts) []Result
}

// before are the checks before the operator is installed.
var before = []check{
	{"kubernetes-version", kubernetesVersion},
	{"clock", clock},
	{"permissions", permissions},
	{"token-authentication", tokenAuthentication},
	{"server-known", serverKnown},
	{"server-reachable", serverReachable},
	{"server-certificate", serverCertificate},
	{"ca-lifetime", caLifetime},
	{"approval", approval},
	{"renewal", renewal},
	{"signer", signer},
	{"static-tokens", staticTokens},
}

// installed are the checks of a cluster with the operator.
var installed = slices.Concat(before[:2:2], []check{
	{"crd", crd},
	{"operator-running", operatorRunning},
	{"operator-version", operatorVersion},
	{"operator-leading", operatorLeading},
}, before[3:], []check{
	{"kubeadm-join", kubeadmJoin},
})

// ofNode are the checks of one node.
var ofNode = []check{
	{"nodebootstrap", nodeBootstrap},
	{"conditions", conditions},
	{"lease", lease},
	{"certificate", certificate},
	{"requests", requests},
}

// Machine is the name of the result of the checks on a machine, which the plugin runs.
const Machine = "machine"

// Names are the names of all checks, in order.
func Names() []string {
	var names []string
	for _, c := range slices.Concat(before[:3:3], installed[2:], ofNode) {
		names = append(names, c.name)
	}
	return append(names, Machine)
}

// BeforeInstallation are the results of the checks of a cluster in which the operator is to be installed.
func BeforeInstallation(f *Facts) []Result { return run(before, f) }

// Cluster are the results of the checks of a cluster, and of a node if the facts have one.
func Cluster(f *Facts) []Result {
	results := run(installed, f)
	if f.Node != nil {
		results = append(results, run(ofNode, f)...)
	}
	return results
}

func run(checks []check, f *Facts) []Result {
	var out []Result
	for _, c := range checks {
		for _, r := range c.run(f) {
			r.Name = c.name
			out = append(out, r)
		}
	}
	return out
}

// Constructors of the results of one check. Its name is added later.

func passed(format string, args ...any) []Result {
	return []Result{{Status: Passed, Message: fmt.Sprintf(format, args...)}}
}

func skipped(format string, args ...any) []Result {
	return []Result{{Status: Skipped, Message: fmt.Sprintf(format, args...)}}
}

func warning(fix, format string, args ...any) []Result {
	return []Result{{Status: Warning, Message: fmt.Sprintf(format, args...), Fix: fix}}
}

func failed(fix, format string, args ...any) []Result {
	return []Result{{Status: Failed, Message: fmt.Sprintf(format, args...), Fix: fix}}
}

// unread is the result of a check whose facts could not be read. The API server's error names the permission.
func unread(err error) []Result {
	if apierrors.IsForbidden(err) {
		return warning("", "not checked, for lack of a permission: %v", err)
	}
	return warning("", "not checked: %v", err)
}

// first is the first of several errors.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
