// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/rest"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/check"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/internal/version"
)

// probeLimit bounds the time for the answer of one address.
const probeLimit = 5 * time.Second

// operatorPods selects the operator's Deployment and Pods, as config/ and the chart label them.
var operatorPods = client.MatchingLabels{version.NameLabel: version.AppName}

// gatherer reads the facts of the checks. It writes nothing, except reviews of access, which are not stored.
type gatherer struct {
	client client.Client
	config *rest.Config
}

// gather reads all facts. Only an API server that does not answer is an error: what may not be read is one of the facts.
func (g *gatherer) gather(ctx context.Context, before bool) (*check.Facts, error) {
	f := &check.Facts{Plugin: version.Name(), Before: before}
	if err := g.askServer(ctx, f); err != nil {
		return nil, fmt.Errorf("the API server does not answer, and nothing was checked: %w. kubectl config view --minify shows to which cluster you connect", err)
	}
	g.readOperator(ctx, f)
	g.readCluster(ctx, f)
	if before {
		g.reviewPermissions(ctx, f)
	}
	f.Endpoints = probeAll(ctx, check.Targets(f))
	return f, nil
}

// askServer asks for the version, and takes the time and the certificates of the API server from the answer.
func (g *gatherer) askServer(ctx context.Context, f *check.Facts) error {
	httpClient, err := rest.HTTPClientFor(g.config)
	if err != nil {
		return err
	}
	base, _, err := rest.DefaultServerUrlFor(g.config)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("version").String(), http.NoBody)
	if err != nil {
		return err
	}
	response, err := httpClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	f.Now = time.Now()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", request.URL, response.Status)
	}
	var v apiversion.Info
	if err := json.NewDecoder(http.MaxBytesReader(nil, response.Body, 1<<20)).Decode(&v); err != nil {
		return err
	}
	f.Kubernetes = v.GitVersion
	if f.ServerTime, err = http.ParseTime(response.Header.Get("Date")); err != nil {
		f.ServerTime = f.Now
	}
	if response.TLS != nil {
		f.Presented = response.TLS.PeerCertificates
	}
	return nil
}

// find reads an object. One that does not exist, or whose kind does not, is the zero value.
func find[T client.Object](ctx context.Context, c client.Client, namespace, name string, into T) check.Read[T] {
	err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, into)
	if err != nil {
		var none T
		return check.Read[T]{Value: none, Err: ignoreAbsent(err)}
	}
	return check.Read[T]{Value: into}
}

func ignoreAbsent(err error) error {
	if meta.IsNoMatchError(err) {
		return nil
	}
	return client.IgnoreNotFound(err)
}

func (g *gatherer) readOperator(ctx context.Context, f *check.Facts) {
	crd := &unstructured.Unstructured{}
	crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	found := find(ctx, g.client, "", rbac.CRDName, crd)
	f.CRD.Err = found.Err
	if found.Value != nil {
		f.CRD.Value = found.Value.Object
	}
	f.Deployment = g.deployment(ctx)
	f.Namespace = version.Namespace
	if f.Deployment.Value != nil {
		f.Namespace = f.Deployment.Value.Namespace
		var pods corev1.PodList
		f.Pods.Err = g.client.List(ctx, &pods, client.InNamespace(f.Namespace), operatorPods)
		f.Pods.Value = pods.Items
	}
	f.Leader = find(ctx, g.client, f.Namespace, version.Lease, &coordinationv1.Lease{})
	f.Signer = find(ctx, g.client, metav1.NamespaceSystem, "kube-controller-manager", &coordinationv1.Lease{})
	var all v1alpha1.NodeBootstrapList
	f.NodeBootstraps.Err = ignoreAbsent(g.client.List(ctx, &all))
	f.NodeBootstraps.Value = all.Items
}

// deployment finds the operator's Deployment in its usual namespace, else anywhere.
func (g *gatherer) deployment(ctx context.Context) check.Read[*appsv1.Deployment] {
	var err error
	for _, namespace := range []string{version.Namespace, metav1.NamespaceAll} {
		var list appsv1.DeploymentList
		err = g.client.List(ctx, &list, client.InNamespace(namespace), operatorPods)
		if len(list.Items) > 0 {
			return check.Read[*appsv1.Deployment]{Value: &list.Items[0]}
		}
	}
	return check.Read[*appsv1.Deployment]{Err: err}
}

func (g *gatherer) readCluster(ctx context.Context, f *check.Facts) {
	var servers corev1.PodList
	f.APIServers.Err = g.client.List(ctx, &servers, client.InNamespace(metav1.NamespaceSystem), client.MatchingLabels{"component": "kube-apiserver"})
	f.APIServers.Value = servers.Items
	f.ClusterInfo = g.configMap(ctx, metav1.NamespacePublic, bootstrapapi.ConfigMapClusterInfo, bootstrapapi.KubeConfigKey)
	f.RootCA = g.configMap(ctx, f.Namespace, "kube-root-ca.crt", "ca.crt")
	if f.RootCA.Value == "" && f.RootCA.Err == nil { // before the installation, that of another namespace is the same
		f.RootCA = g.configMap(ctx, metav1.NamespaceSystem, "kube-root-ca.crt", "ca.crt")
	}
	f.Bypass.Value, f.Bypass.Err = lifecycle.AskBypass(lifecycle.AnyTokenUser, func(review *authorizationv1.SubjectAccessReview) error {
		return g.client.Create(ctx, review)
	})
	var bindings rbacv1.ClusterRoleBindingList
	f.Bindings.Err = g.client.List(ctx, &bindings)
	f.Bindings.Value = bindings.Items
	var requests certificatesv1.CertificateSigningRequestList
	f.Requests.Err = g.client.List(ctx, &requests)
	f.Requests.Value = requests.Items
	g.readKubeadm(ctx, f)
}

func (g *gatherer) configMap(ctx context.Context, namespace, name, key string) check.Read[string] {
	cm := find(ctx, g.client, namespace, name, &corev1.ConfigMap{})
	if cm.Value == nil {
		return check.Read[string]{Err: cm.Err}
	}
	return check.Read[string]{Value: cm.Value.Data[key]}
}

func (g *gatherer) readKubeadm(ctx context.Context, f *check.Facts) {
	_, err := kubeadmConfigMap(ctx, g.client, kubeadmConfig)
	f.IsKubeadm = check.Read[bool]{Value: err == nil, Err: ignoreAbsent(err)}
	if err != nil {
		return
	}
	for _, o := range check.KubeadmObjects {
		partial := &metav1.PartialObjectMetadata{}
		partial.SetGroupVersionKind(rbacv1.SchemeGroupVersion.WithKind(o.Kind))
		found := find(ctx, g.client, o.Namespace, check.KubeadmName, partial)
		switch {
		case found.Err != nil:
			f.KubeadmMissing.Err = found.Err
		case found.Value == nil && o.Namespace != "":
			f.KubeadmMissing.Value = append(f.KubeadmMissing.Value, o.Kind+" in "+o.Namespace)
		case found.Value == nil:
			f.KubeadmMissing.Value = append(f.KubeadmMissing.Value, o.Kind)
		}
	}
}

func (g *gatherer) reviewPermissions(ctx context.Context, f *check.Facts) {
	for _, v := range check.InstallVerbs {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: v.Verb, Group: v.Group, Resource: v.Resource, Namespace: v.Namespace},
		}}
		err := g.client.Create(ctx, review)
		f.Permissions = append(f.Permissions, check.NewPermission(v.Verb, v.Resource, v.Namespace, review.Status.Allowed, err))
	}
}

// probeAll probes the servers of the targets, all at the same time.
func probeAll(ctx context.Context, targets []check.Target) map[string]check.Endpoint {
	found := map[string]check.Endpoint{}
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, t := range targets {
		group.Go(func() {
			if t.Server == "" {
				return
			}
			e := probe(ctx, t.Server)
			mu.Lock()
			defer mu.Unlock()
			found[t.Server] = e
		})
	}
	group.Wait()
	return found
}

// probe connects to a URL as a machine would, except that it accepts any certificate, which the checks judge. It sends nothing.
func probe(ctx context.Context, server string) check.Endpoint {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	u, err := url.Parse(server)
	if err != nil {
		return check.Endpoint{Unresolved: err}
	}
	var e check.Endpoint
	if e.Addresses, e.Unresolved = net.DefaultResolver.LookupHost(ctx, u.Hostname()); e.Unresolved != nil {
		return e
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	dialer := tls.Dialer{Config: &tls.Config{
		ServerName: u.Hostname(),
		//nolint:gosec // the certificate is judged after the connection, and nothing is sent over it
		InsecureSkipVerify: true,
	}}
	connection, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		e.Unreachable = err
		return e
	}
	defer connection.Close()
	e.Chain = peers(connection)
	return e
}

func peers(connection net.Conn) []*x509.Certificate {
	if c, ok := connection.(*tls.Conn); ok {
		return c.ConnectionState().PeerCertificates
	}
	return nil
}
