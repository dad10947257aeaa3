// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// long is a text of a MiB.
var long = strings.Repeat("x", 1<<20)

// bloat fills each field of an object's metadata with a MiB or more.
func bloat(o client.Object) {
	labels, annotations := o.GetLabels(), o.GetAnnotations()
	if labels == nil {
		labels = map[string]string{}
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	var finalizers []string
	owners := o.GetOwnerReferences()
	for i := range 5500 {
		labels[fmt.Sprintf("example.com/%d", i)] = strings.Repeat("v", 200)
		annotations[fmt.Sprintf("example.com/%d", i)] = strings.Repeat("v", 200)
		finalizers = append(finalizers, fmt.Sprintf("example.com/%d-%s", i, strings.Repeat("f", 180)))
		owners = append(owners, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: strings.Repeat("n", 180), UID: types.UID(fmt.Sprint(i))})
	}
	o.SetLabels(labels)
	o.SetAnnotations(annotations)
	o.SetFinalizers(finalizers)
	o.SetOwnerReferences(owners)
	o.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: long, FieldsV1: metav1.NewFieldsV1(`{"f:x":"` + long + `"}`)}})
}

func manyConditions() (out []certificatesv1.CertificateSigningRequestCondition) {
	for i := range 1000 {
		out = append(out, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.RequestConditionType(fmt.Sprint(i)), Status: corev1.ConditionTrue, Reason: strings.Repeat("r", 1000), Message: strings.Repeat("m", 1000)})
	}
	return append(out, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "r", Message: long})
}

func hostileRequest(username string, groups ...string) *certificatesv1.CertificateSigningRequest {
	r := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "csr-1", UID: "u", ResourceVersion: "1"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: []byte(long), SignerName: certificatesv1.KubeletServingSignerName, Username: username, UID: long,
			Groups: groups, Extra: map[string]certificatesv1.ExtraValue{},
		},
		Status: certificatesv1.CertificateSigningRequestStatus{Certificate: []byte(long), Conditions: manyConditions()},
	}
	for i := range 1000 {
		r.Spec.Groups = append(r.Spec.Groups, fmt.Sprintf("%d-%s", i, strings.Repeat("g", 1000)))
		r.Spec.Extra[fmt.Sprint(i)] = certificatesv1.ExtraValue{strings.Repeat("e", 1000)}
		r.Spec.Usages = append(r.Spec.Usages, certificatesv1.KeyUsage(strings.Repeat("u", 1000)))
	}
	return r
}

// hostileRenewal is what a node sends that renews its client certificate, with a certificate of some size.
func hostileRenewal(size int) *certificatesv1.CertificateSigningRequest {
	r := hostileRequest("system:node:worker-1")
	r.Spec.SignerName, r.Status.Certificate = certificatesv1.KubeAPIServerClientKubeletSignerName, []byte(long)[:size]
	return r
}

func hostileNodeBootstrap() *v1alpha1.NodeBootstrap {
	nb := wanted("worker-1")
	nb.Annotations[v1alpha1.ReissueRequestedAtAnnotation] = long
	nb.Spec.Cluster.CABundle = long[:kubeconfig.MaxCABytes] // the schema's limit
	nb.Status = v1alpha1.NodeBootstrapStatus{
		LastTokenID: long, LastHandledReissueAt: long, Server: long, CAFingerprint: long, NodeUID: types.UID(long), APIServerHosts: []string{long},
		Token: &v1alpha1.TokenStatus{ID: long}, KubeconfigSecretRef: &v1alpha1.SecretReference{Namespace: long, Name: long},
		Tokens:      []v1alpha1.LiveToken{{ID: long, CSRs: []v1alpha1.DecidedCSR{{Name: long, UID: types.UID(long), KeyFingerprint: long, Reason: long}}}},
		Keys:        []v1alpha1.SentKey{{TokenID: long, KeyFingerprint: long, Name: long}},
		ReplacedKey: &v1alpha1.SentKey{TokenID: long, KeyFingerprint: long, Name: long}, KeyFingerprints: []string{long},
		UnrevokedCertificates: []v1alpha1.UnrevokedCertificate{{Name: long, UID: types.UID(long), KeyFingerprint: long, Reason: long}},
	}
	for i := range 1000 {
		nb.Status.Conditions = append(nb.Status.Conditions, metav1.Condition{Type: fmt.Sprint(i), Reason: strings.Repeat("r", 1000), Message: strings.Repeat("m", 32<<10)})
	}
	for range 16 {
		nb.Status.Certificates = append(nb.Status.Certificates, v1alpha1.CertificateDecision{
			Name: long, UID: types.UID(long), SignerName: long, TokenID: long, KeyFingerprint: long, Reason: long})
	}
	return nb
}

func hostileData(keys ...string) map[string][]byte {
	out := map[string][]byte{}
	for i := range 1000 {
		out[fmt.Sprint(i)] = bytes.Repeat([]byte("d"), 1000)
	}
	for _, key := range keys {
		out[key] = []byte(strings.Repeat("abcdef.0123456789abcdef\n", 40_000))
	}
	return out
}

// hostileObjects returns an object of a MiB or more of each watched kind, with its transform and the maximum of bytes to keep.
func hostileObjects(t *testing.T) map[string]hostileObject {
	nb := wanted("worker-1")
	secret := token.NewSecret(nb, "abcdef", "0123456789abcdef", time.Unix(1, 0))
	secret.Data = hostileData(tokenKeys...)
	text := kubeconfigSecret(t, nb)
	text.Data = hostileData(kubeconfig.Key)
	foreign := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "a", Annotations: map[string]string{owned.NodeNameAnnotation: long}}, Data: hostileData("a"), Type: corev1.SecretType(long)}
	foreign.OwnerReferences = []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String() + long, Kind: "NodeBootstrap", Name: long, UID: types.UID(long), Controller: new(true)}}
	foreignToken := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: token.Namespace, Name: "bootstrap-token-foreign"}, Type: bootstrapapi.SecretTypeBootstrapToken,
		Data: map[string][]byte{bootstrapapi.BootstrapTokenExtraGroupsKey: []byte(strings.Repeat(token.Group+",x,", 30_000)), bootstrapapi.BootstrapTokenSecretKey: []byte(long)},
	}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "a"}, RoleRef: rbacv1.RoleRef{Name: long}}
	ours := rbac.Binding(rbac.BindingCreateCSRs)
	ours.RoleRef.Name = long
	for i := range 10_000 {
		user := rbacv1.Subject{Kind: rbacv1.UserKind, Name: fmt.Sprintf("system:bootstrap:%06d", i), Namespace: strings.Repeat("n", 200)}
		binding.Subjects, ours.Subjects = append(binding.Subjects, user), append(ours.Subjects, user)
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: kubeconfig.APIServerService}, Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.0.0.1"}, Selector: map[string]string{"a": long}}}
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: kubeconfig.APIServerService}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, Zone: new(long)}}}
	configMap := func(name, key string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{key: long, "other": long}, BinaryData: hostileData()}
	}
	all := map[string]hostileObject{
		"a token's request":          {cutRequest, hostileRequest("system:bootstrap:abcdef", token.Group), 32 << 10},
		"a node's request":           {cutRequest, hostileRequest("system:node:" + long), 32 << 10},
		"a renewal":                  {cutRequest, hostileRenewal(maxCertificateBytes), 24 << 10},
		"a renewal with a long one":  {cutRequest, hostileRenewal(maxCertificateBytes + 1), 512},
		"a node's pending request":   {cutRequest, hostileRenewal(0), 512},
		"an outsider's request":      {cutRequest, hostileRequest(long), 512},
		"a NodeBootstrap":            {transformNodeBootstrap, hostileNodeBootstrap(), 400 << 10},
		"a token":                    {transformSecret, secret, 8 << 10},
		"a kubeconfig":               {transformSecret, text, 2 << 10},
		"a foreign Secret":           {transformSecret, foreign, 2 << 10},
		"a foreign token":            {transformSecret, foreignToken, 2 << 10},
		"a foreign binding":          {stripBinding, binding, 512},
		"a binding of ours":          {stripBinding, ours, 8 << 10},
		"a Node":                     {stripNode, &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, 512},
		"the ConfigMap cluster-info": {stripConfigMap, configMap(bootstrapapi.ConfigMapClusterInfo, bootstrapapi.KubeConfigKey), 257 << 10},
		"the ConfigMap with the CA":  {stripConfigMap, configMap(RootCAConfigMap, RootCAKey), 65 << 10},
		"the Service kubernetes":     {stripService, service, 512},
		"its EndpointSlice":          {stripEndpointSlice, slice, 512},
	}
	for _, h := range all {
		bloat(h.object)
	}
	return all
}

type hostileObject struct {
	transform toolscache.TransformFunc
	object    client.Object
	most      int
}

// Whatever a client puts into an object of any watched kind, a bounded number of bytes is kept. A second transform, which
// client-go applies to listed objects, changes nothing.
func TestHostileObjectsAreKeptSmall(t *testing.T) {
	for what, h := range hostileObjects(t) {
		if n := encodedSize(t, h.object); n < 1<<20 {
			t.Errorf("%s has only %d bytes to begin with", what, n)
		}
		once := transformed(t, h.transform, h.object)
		if n := encodedSize(t, once); n > h.most {
			t.Errorf("of %s %d bytes are kept, more than %d", what, n, h.most)
		}
		if n := retained(reflect.ValueOf(once)); n > 4*h.most {
			t.Errorf("%s holds on to %d bytes", what, n)
		}
		if twice := transformed(t, h.transform, once); !reflect.DeepEqual(once, twice) {
			t.Errorf("%s: once gives %.300v, twice gives %.300v", what, once, twice)
		}
	}
}

// Every kind in the cache has a transform that the test above covers.
func TestEveryKindInTheCacheIsKeptSmall(t *testing.T) {
	known := map[reflect.Type]bool{}
	for _, h := range hostileObjects(t) {
		known[reflect.TypeOf(h.object)] = true
	}
	for o, by := range CacheOptions("ns").ByObject {
		if !known[reflect.TypeOf(o)] {
			t.Errorf("no hostile %T is tested", o)
		}
		all := by.Transform != nil
		for _, c := range by.Namespaces {
			all = all || c.Transform != nil
		}
		if !all {
			t.Errorf("a %T is kept as it is", o)
		}
	}
}

func encodedSize(t *testing.T, o any) int {
	t.Helper()
	encoded, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return len(encoded)
}

// retained returns approximately how many bytes a value keeps in memory, by the capacities of its slices.
func retained(v reflect.Value) int {
	n := 0
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			n += retained(v.Elem())
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return 0
		}
		for i := range v.NumField() {
			n += retained(v.Field(i))
		}
	case reflect.String:
		n += v.Len()
	case reflect.Slice:
		n += v.Cap() * int(v.Type().Elem().Size())
		for i := range v.Len() {
			n += retained(v.Index(i))
		}
	case reflect.Map:
		for entries := v.MapRange(); entries.Next(); {
			n += 64 + retained(entries.Key()) + retained(entries.Value())
		}
	default:
	}
	return n
}

// A stripped Secret of ours still shows that it was edited, and that the rest must be read before it is restored.
func TestEditedSecretsDifferWhenStripped(t *testing.T) {
	nb := wanted("worker-1")
	want := token.NewSecret(nb, "abcdef", "0123456789abcdef", time.Unix(1, 0))
	for what, tt := range map[string]struct {
		edit     func(*corev1.Secret)
		repaired bool
		partial  bool
	}{
		"as it was":            {func(*corev1.Secret) {}, false, false},
		"another key":          {func(s *corev1.Secret) { s.Data["x"] = []byte("y") }, true, false},
		"a longer value":       {func(s *corev1.Secret) { s.Data[bootstrapapi.BootstrapTokenDescriptionKey] = []byte(long[:1000]) }, true, false},
		"a usage more":         {func(s *corev1.Secret) { s.Data[bootstrapapi.BootstrapTokenUsageSigningKey] = []byte("true") }, true, false},
		"a foreign label":      {func(s *corev1.Secret) { s.Labels["x"] = "y" }, false, true},
		"a foreign annotation": {func(s *corev1.Secret) { s.Annotations["x"] = "y" }, false, true},
		"a finalizer":          {func(s *corev1.Secret) { s.Finalizers = []string{"x/y"} }, false, true},
		"another owner": {func(s *corev1.Secret) {
			s.OwnerReferences = append(s.OwnerReferences, metav1.OwnerReference{Name: "x"})
		}, true, true},
		"no label": {func(s *corev1.Secret) { s.Labels = nil }, true, false},
	} {
		s := want.DeepCopy()
		tt.edit(s)
		s = transformed(t, transformSecret, s)
		if got := owned.Restored(s, want) != nil; got != tt.repaired {
			t.Errorf("%s: repaired is %t", what, got)
		}
		if got := IsPartial(s); got != tt.partial {
			t.Errorf("%s: partial is %t", what, got)
		}
	}
}

// A name that is too long for a node never makes a Secret ours, however it is cut.
func TestLongNamesMakeNoSecretOurs(t *testing.T) {
	name := strings.Repeat("n", 300)
	orphan := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{owned.ManagedByLabel: owned.ManagedBy}, Annotations: map[string]string{owned.NodeNameAnnotation: name + "a"}},
		Data:       map[string][]byte{"key": []byte("value")},
	}
	ours := orphan.DeepCopy()
	ours.OwnerReferences = []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodeBootstrap", Name: name + "b", Controller: new(true)}}
	for what, s := range map[string]*corev1.Secret{"an orphan": orphan, "of another node": ours} {
		once := transformed(t, transformSecret, s)
		if twice := transformed(t, transformSecret, once); once.Data != nil || !reflect.DeepEqual(once, twice) {
			t.Errorf("%s counts as ours: %+v, then %+v", what, once, twice)
		}
	}
}

// Of a token that someone else created, our groups are kept.
func TestForeignTokensShowTheirGroups(t *testing.T) {
	for groups, want := range map[string]string{
		token.Group: token.Group,
		strings.Repeat("system:bootstrappers:x,", 1000) + token.Group:                               token.Group,
		strings.Repeat(token.ClusterWideGroup+","+token.Group+",", 1000) + "system:bootstrappers:x": token.ClusterWideGroup + "," + token.Group,
		strings.Repeat("system:bootstrappers:x,", 1000):                                             "",
	} {
		s := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: token.Namespace, Name: "bootstrap-token-abcdef"}, Type: bootstrapapi.SecretTypeBootstrapToken,
			Data: map[string][]byte{bootstrapapi.BootstrapTokenExtraGroupsKey: []byte(groups), bootstrapapi.BootstrapTokenSecretKey: []byte("secret")},
		}
		got := transformed(t, transformSecret, s)
		if string(got.Data[bootstrapapi.BootstrapTokenExtraGroupsKey]) != want || len(got.Data) != 1 {
			t.Errorf("kept of %.100q: %q", groups, got.Data)
		}
	}
}

// A binding that names too many tokens counts as naming each: a user that is not kept must not count as absent.
func TestBindingOfVeryManyTokensNamesAll(t *testing.T) {
	for n, want := range map[int]int{1: 1, maxTokenUsers: maxTokenUsers, maxTokenUsers + 1: 1} {
		b := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
		for i := range n {
			b.Subjects = append(b.Subjects, rbacv1.Subject{Kind: rbacv1.UserKind, Name: fmt.Sprintf("system:bootstrap:%06d", i)})
		}
		got := transformed(t, stripBinding, b)
		if all := tokenUser(got.Subjects[0]) == EveryToken; len(got.Subjects) != want || all != (n > maxTokenUsers) {
			t.Errorf("of %d users %d are kept, and for all stands: %t", n, len(got.Subjects), all)
		}
	}
}

// A CSR keeps the fields that a verdict depends on, and the data of others is read again before a verdict is stored.
func TestRequestsShowWhatMatters(t *testing.T) {
	r := hostileRequest("system:bootstrap:abcdef", token.Group)
	bloat(r)
	r.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	got := transformed(t, cutRequest, r)
	if len(got.Finalizers) == 0 || len(got.OwnerReferences) == 0 || got.DeletionTimestamp == nil || !IsPartial(got) {
		t.Errorf("this is kept: %+v", got.ObjectMeta)
	}
	if len(got.Status.Certificate) == 0 || len(got.Status.Conditions) != 1 || got.Status.Conditions[0].Type != certificatesv1.CertificateApproved {
		t.Errorf("this is kept: %+v", got.Status)
	}
	plain := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "csr-1", ManagedFields: []metav1.ManagedFieldsEntry{{}}},
		Spec:       certificatesv1.CertificateSigningRequestSpec{Groups: []string{token.Group}},
		Status: certificatesv1.CertificateSigningRequestStatus{Certificate: make([]byte, maxCertificateBytes),
			Conditions: []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Message: "m"}}},
	}
	if got := transformed(t, cutRequest, plain); IsPartial(got) || len(got.Status.Certificate) != maxCertificateBytes {
		t.Errorf("an ordinary request would be read again: %+v", got.ObjectMeta)
	}
	plain.Status.Conditions[0].Message = long
	if got := transformed(t, cutRequest, plain); !IsPartial(got) {
		t.Error("a cut message would be stored")
	}
}
