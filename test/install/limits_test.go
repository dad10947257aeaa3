// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

const limits = "nodebootstrap-limits"

// owner can do everything by RBAC, and is not exempt from the limits by default.
const owner = "jane"

// as is a user who can do everything by RBAC. Its writes are not stored.
func as(t *testing.T, user string, groups ...string) client.Client {
	t.Helper()
	binding := env.Binding("", "cluster-admin", rbacv1.UserKind, user)
	binding.GenerateName = "limited-"
	cluster.Create(t, binding)
	cfg := cluster.AdminConfig()
	cfg.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	c, err := dryRun(cfg)
	env.Must(t, err)
	return c
}

// limit sets keys of the parameters until the test is over, and removes those in without. It waits until the API server, which
// reads the parameters from an informer, uses them.
func limit(t *testing.T, keys map[string]string, without ...string) {
	t.Helper()
	parameters := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: limits}}
	probe := strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	var before map[string]string
	env.Change(t, cluster, parameters, func(c *corev1.ConfigMap) {
		before = maps.Clone(c.Data)
		maps.Copy(c.Data, keys)
		for _, k := range without {
			delete(c.Data, k)
		}
		c.Data["exemptUsers"] += "\n" + probe
	})
	t.Cleanup(func() {
		parameters.Data = before
		env.Check(t, cluster.Client.Update(context.Background(), parameters))
	})
	probing := as(t, probe)
	longest := cluster.NodeBootstrap("probe")
	longest.Spec.Token.TTL = &metav1.Duration{Duration: 8760 * time.Hour}
	allowed(t, func() error { return probing.Create(t.Context(), longest.DeepCopy()) })
}

// limitCase is a NodeBootstrap of a user to whom the limits apply.
type limitCase struct {
	set map[string]string // keys of the parameters
	ask func(*v1alpha1.NodeBootstrap)
	// refusedFor is in the message; empty if it is allowed.
	refusedFor string
}

func addresses(list ...string) func(*v1alpha1.NodeBootstrap) {
	return func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ServingCertificate.Addresses = list }
}

func ttl(d time.Duration) func(*v1alpha1.NodeBootstrap) {
	return func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Token.TTL = &metav1.Duration{Duration: d} }
}

func deadline(d time.Duration) func(*v1alpha1.NodeBootstrap) {
	return func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Token.JoinDeadline = &metav1.Duration{Duration: d} }
}

func replacements(n int32) func(*v1alpha1.NodeBootstrap) {
	return func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.ReplacementKeys = n }
}

func server(url string) func(*v1alpha1.NodeBootstrap) {
	return func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Cluster.Server = url }
}

func clusterWide(nb *v1alpha1.NodeBootstrap) {
	nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide
}

func ownCA(nb *v1alpha1.NodeBootstrap) { nb.Spec.Cluster.CABundle = string(cluster.ServerCA()) }

func reissue(nb *v1alpha1.NodeBootstrap) {
	nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "now"}
}

// limited is a NodeBootstrap without any field that is limited.
func limited() *v1alpha1.NodeBootstrap {
	return &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "limited"}}
}

// The fields that a NodeBootstrap can have by default, and with each key changed.
func TestLimits(t *testing.T) {
	jane := as(t, owner)
	allow := func(keys ...string) map[string]string {
		set := map[string]string{}
		for i := 0; i < len(keys); i += 2 {
			set[keys[i]] = keys[i+1]
		}
		return set
	}
	byDefault := map[string]limitCase{
		"a replacement key":      {nil, replacements(1), "may be 0 at most"},
		"nothing":                {ask: func(*v1alpha1.NodeBootstrap) {}},
		"ClusterWide":            {ask: clusterWide, refusedFor: "allowClusterWide"},
		"a week":                 {ask: ttl(168 * time.Hour)},
		"a year":                 {ask: ttl(8760 * time.Hour), refusedFor: "8760h0m0s, and may be 168h at most"},
		"a year's deadline":      {ask: deadline(8760 * time.Hour)},
		"usual addresses":        {ask: addresses("limited", "limited.example.com", "192.0.2.7", "2001:db8::7", "192.0.2.0/24", "2001:db8::/64")},
		"all of IPv4":            {ask: addresses("0.0.0.0/0"), refusedFor: "names 0.0.0.0/0"},
		"all of IPv6":            {ask: addresses("192.0.2.7", "::/0"), refusedFor: "names ::/0"},
		"half of IPv4":           {ask: addresses("128.0.0.0/1"), refusedFor: "names 128.0.0.0/1"},
		"much of IPv4":           {ask: addresses("10.0.0.0/8"), refusedFor: "shortestIPv4Prefix"},
		"much of IPv6":           {ask: addresses("2001:db8::/32"), refusedFor: "shortestIPv6Prefix"},
		"localhost":              {ask: addresses("limited", "localhost"), refusedFor: "names localhost"},
		"kubernetes":             {ask: addresses("kubernetes"), refusedFor: "names kubernetes"},
		"kubernetes.default":     {ask: addresses("kubernetes.default"), refusedFor: "names kubernetes.default"},
		"kubernetes.default.svc": {ask: addresses("kubernetes.default.svc"), refusedFor: "names kubernetes.default.svc"},
		"the Service's domain":   {ask: addresses("kubernetes.default.svc.cluster.local"), refusedFor: "names kubernetes.default.svc.cluster.local"},
		"a name like it":         {ask: addresses("kubernetes.example.com", "kubernetes-1", "localhost-1")},
		"loopback":               {ask: addresses("127.0.0.53"), refusedFor: "names 127.0.0.53/32"},
		"loopback CIDR":          {ask: addresses("127.0.0.0/24"), refusedFor: "names 127.0.0.0/24"},
		"loopback of IPv6":       {ask: addresses("::1"), refusedFor: "names ::1/128"},
		"unspecified":            {ask: addresses("0.0.0.0"), refusedFor: "names 0.0.0.0/32"},
		"multicast":              {ask: addresses("224.0.0.1", "ff02::1"), refusedFor: "names 224.0.0.1/32, ff02::1/128"},
		"a server":               {ask: server("https://elsewhere.example:6443"), refusedFor: "the host elsewhere.example:6443"},
		"a CA":                   {ask: ownCA, refusedFor: "allowCABundle"},
		"a reissue at once":      {ask: reissue, refusedFor: "allowReissueOfMembers"},
	}
	for name, w := range byDefault {
		t.Run("default "+name, func(t *testing.T) { try(t, jane, w) })
	}
	t.Run("keys that are missing", func(t *testing.T) {
		limit(t, nil, "allowClusterWide", "maxReplacementKeys", "maxTokenTTL", "maxJoinDeadline", "allowedAddresses", "reservedAddresses", "shortestIPv4Prefix",
			"shortestIPv6Prefix", "allowedServers", "allowCABundle", "allowReissueOfMembers", "exemptGroups")
		for name, w := range byDefault {
			t.Run(name, func(t *testing.T) { try(t, jane, w) })
		}
	})
	lists := allow("allowedAddresses", ".rack1.example.com,NODE\nweb.example.com 192.0.2.0/24 2001:db8::/64 198.51.100.9", "reservedAddresses", "api.rack1.example.com 192.0.2.64/28")
	for name, w := range map[string]limitCase{
		"ClusterWide":                 {allow("allowClusterWide", "true"), clusterWide, ""},
		"a longer ttl":                {allow("maxTokenTTL", "8760h"), ttl(8760 * time.Hour), ""},
		"a shorter ttl":               {allow("maxTokenTTL", "12h"), ttl(12 * time.Hour), ""},
		"longer than that":            {allow("maxTokenTTL", "12h"), ttl(12*time.Hour + time.Second), "may be 12h at most"},
		"the default is longer":       {allow("maxTokenTTL", "12h"), func(*v1alpha1.NodeBootstrap) {}, "spec.token.ttl is 24h, and may be 12h at most"},
		"replacement keys":            {allow("maxReplacementKeys", "2"), replacements(2), ""},
		"more replacement keys":       {allow("maxReplacementKeys", "2"), replacements(3), "replacementKeys is 3, and may be 2 at most"},
		"a deadline":                  {allow("maxJoinDeadline", "24h"), deadline(24 * time.Hour), ""},
		"a later deadline":            {allow("maxJoinDeadline", "24h"), deadline(25 * time.Hour), "may be 24h at most"},
		"no deadline":                 {allow("maxJoinDeadline", "24h"), func(*v1alpha1.NodeBootstrap) {}, "joinDeadline is not set, and may be 24h at most"},
		"wide CIDRs":                  {allow("shortestIPv4Prefix", "8", "shortestIPv6Prefix", "32"), addresses("10.0.0.0/8", "2001:db8::/32"), ""},
		"CIDRs that are too wide yet": {allow("shortestIPv4Prefix", "0"), addresses("0.0.0.0/0"), "names 0.0.0.0/0"},
		"narrow CIDRs":                {allow("shortestIPv4Prefix", "26"), addresses("192.0.2.0/25"), "names 192.0.2.0/25"},
		"what is listed":              {lists, addresses("limited", "a.rack1.example.com", "web.example.com", "192.0.2.7", "192.0.2.0/26", "2001:db8::7", "198.51.100.9"), ""},
		"another name":                {lists, addresses("rack1.example.com", "limited.example.com", "a.rack1.example.com"), "names rack1.example.com, limited.example.com, which nodes"},
		"another IP":                  {lists, addresses("198.51.100.10", "192.0.2.7"), "names 198.51.100.10/32, which nodes"},
		"a wider CIDR":                {lists, addresses("198.51.100.8/29"), "names 198.51.100.8/29, which nodes"},
		"reserved here":               {lists, addresses("api.rack1.example.com"), "names api.rack1.example.com, which is reserved"},
		"an IP reserved here":         {lists, addresses("192.0.2.65"), "names 192.0.2.65/32, which is reserved"},
		"a CIDR with reserved IPs":    {lists, addresses("192.0.2.0/24"), "names 192.0.2.0/24, which is reserved"},
		"a server by its host":        {allow("allowedServers", "api.example.com other.example.com"), server("https://API.example.com:6443"), ""},
		"a server by its port":        {allow("allowedServers", "api.example.com:6443"), server("https://api.example.com:6443"), ""},
		"another port":                {allow("allowedServers", "api.example.com:6443"), server("https://api.example.com:7443"), "the host api.example.com:7443"},
		"a host that begins alike":    {allow("allowedServers", "api.example.com"), server("https://api.example.com.evil.example"), "the host api.example.com.evil.example"},
		"any server":                  {allow("allowedServers", "*"), server("https://elsewhere.example"), ""},
		"a CA":                        {allow("allowCABundle", "true"), ownCA, ""},
		"a reissue at once":           {allow("allowReissueOfMembers", "true"), reissue, ""},
		"a user who may":              {allow("exemptUsers", "joe, jane"), clusterWide, ""},
		"a user who may more":         {allow("exemptUsers", "jane"), addresses("10.0.0.0/8"), ""},
		"a user may not everything":   {allow("exemptUsers", "jane"), addresses("localhost"), "names localhost"},
		"a user whose name is longer": {allow("exemptUsers", "jane2"), clusterWide, "allowClusterWide"},
	} {
		t.Run(name, func(t *testing.T) {
			limit(t, w.set)
			try(t, jane, w)
		})
	}
	t.Run("members of system:masters may", func(t *testing.T) {
		try(t, as(t, "master", "system:masters"), limitCase{ask: clusterWide})
	})
	t.Run("members of a group may", func(t *testing.T) {
		limit(t, allow("exemptGroups", "owners"))
		try(t, as(t, "anna", "owners"), limitCase{ask: clusterWide})
		try(t, as(t, "master", "system:masters"), limitCase{ask: clusterWide, refusedFor: "allowClusterWide"})
	})
}

// try creates a NodeBootstrap in a dry run. The message must name the key and must not repeat a CA.
func try(t *testing.T, c client.Client, w limitCase) {
	t.Helper()
	nb := limited()
	w.ask(nb)
	create := func() error { return c.Create(t.Context(), nb.DeepCopy()) }
	if w.refusedFor == "" {
		allowed(t, create)
		return
	}
	refused(t, limits, create)
	if err := create(); !strings.Contains(err.Error(), w.refusedFor) || strings.Contains(err.Error(), "BEGIN") {
		t.Errorf("the message is %v, want %s in it", err, w.refusedFor)
	}
}

// An update is checked against the limits only where it changes something, and a reissue only for nodes that are not members.
func TestLimitsOfUpdates(t *testing.T) {
	jane := as(t, owner)
	nb := limited()
	for _, ask := range []func(*v1alpha1.NodeBootstrap){clusterWide, ttl(8760 * time.Hour), addresses("10.0.0.0/8"), server("https://elsewhere.example"), ownCA} {
		ask(nb)
	}
	cluster.Create(t, nb)
	change := func(edit func(*v1alpha1.NodeBootstrap)) func() error {
		return func() error {
			var now v1alpha1.NodeBootstrap
			cluster.Get(t, "", nb.Name, &now)
			edit(&now)
			return jane.Update(t.Context(), &now)
		}
	}
	allowed(t, change(func(nb *v1alpha1.NodeBootstrap) { nb.Labels = map[string]string{"a": "b"} }))
	allowed(t, change(addresses("10.0.0.0/8", "192.0.2.7")))
	allowed(t, change(ttl(time.Hour)))
	for name, edit := range map[string]func(*v1alpha1.NodeBootstrap){
		"an address": addresses("10.0.0.0/8", "11.0.0.0/8"),
		"a ttl":      ttl(8000 * time.Hour),
		"a server":   server("https://evil.example"),
		"a CA":       func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Cluster.CABundle += "\n" },
	} {
		t.Run(name, func(t *testing.T) { refused(t, limits, change(edit)) })
	}
	t.Run("status", func(t *testing.T) { // the operator's, whatever is in the spec
		allowed(t, func() error {
			var now v1alpha1.NodeBootstrap
			cluster.Get(t, "", nb.Name, &now)
			return asOperator.Status().Update(t.Context(), &now)
		})
	})
}

func TestLimitOfReissues(t *testing.T) {
	jane := as(t, owner)
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "limited-reissue"}}
	cluster.Create(t, nb)
	ask := func() error {
		var now v1alpha1.NodeBootstrap
		cluster.Get(t, "", nb.Name, &now)
		reissue(&now)
		return jane.Update(t.Context(), &now)
	}
	joined := func(status metav1.ConditionStatus) { // as an operator that is not running has left it
		env.Eventually(t, "the condition", func() error {
			var now v1alpha1.NodeBootstrap
			cluster.Get(t, "", nb.Name, &now)
			now.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionJoined, Status: status, Reason: "Test", LastTransitionTime: metav1.Now()}}
			return cluster.Client.Status().Update(t.Context(), &now)
		})
	}
	withoutManager(t)
	joined(metav1.ConditionFalse)
	allowed(t, ask)
	joined(metav1.ConditionTrue)
	refused(t, limits, ask)
	joined(metav1.ConditionUnknown)
	refused(t, limits, ask)
	t.Run("allowed", func(t *testing.T) {
		limit(t, map[string]string{"allowReissueOfMembers": "true"})
		joined(metav1.ConditionTrue)
		allowed(t, ask)
	})
}

// Without its parameters the policy admits nothing.
func TestLimitsWithoutParameters(t *testing.T) {
	jane := as(t, owner)
	parameters := &corev1.ConfigMap{}
	cluster.Get(t, operator.Namespace, limits, parameters)
	cluster.Delete(t, parameters)
	t.Cleanup(func() {
		again := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: parameters.Namespace, Name: parameters.Name, Labels: parameters.Labels}, Data: parameters.Data}
		env.Check(t, cluster.Client.Create(context.Background(), again))
		env.Eventually(t, "the parameters", func() error {
			return client.NewDryRunClient(cluster.Client).Create(context.Background(), limited())
		})
	})
	refused(t, limits, func() error { return jane.Create(t.Context(), limited()) })
}
