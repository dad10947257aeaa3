// SPDX-License-Identifier: Apache-2.0

package adversarial

import (
	"crypto"
	"fmt"
	"math"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const maxSeconds = 366 * 24 * 60 * 60

// clientRequesters are CSRs of another requester, as the API server writes it.
func clientRequesters() []Case {
	return ofRequester(slices.Concat(
		all(leave, notOurs, []Case{
			{Name: "user-other-token", Why: "Another token's request belongs to another NodeBootstrap.", Spoil: username(func(string, string) string { return "system:bootstrap:zzz999" })},
			{Name: "user-longer-token", Why: "A token whose ID has the same beginning is another token.", Spoil: username(func(user, _ string) string { return user + "0" })},
			{Name: "user-shorter-token", Why: "A token whose id is the beginning of the id is another token.", Spoil: username(func(user, _ string) string { return user[:len(user)-1] })},
			{Name: "user-upper-case", Why: "User names are case-sensitive.", Spoil: username(func(user, _ string) string { return strings.ToUpper(user) })},
			{Name: "user-final-space", Why: "A name that is trimmed is another name.", Spoil: username(func(user, _ string) string { return user + " " })},
			{Name: "user-without-prefix", Why: "The ID without a prefix is a user that any authenticator can return.", Spoil: username(func(user, _ string) string { return strings.TrimPrefix(user, "system:bootstrap:") })},
			{Name: "user-prefix-in-prefix", Why: "The user's name must begin with the prefix, not contain it.", Spoil: username(func(user, _ string) string { return "oidc:" + user })},
			{Name: "user-node", Why: "kube-controller-manager approves a node's own renewal.", Spoil: username(func(_, node string) string { return "system:node:" + node })},
			{Name: "user-service-account", Why: "A Pod that can send requests has no node's token.", Spoil: username(func(string, string) string { return "system:serviceaccount:default:default" })},
			{Name: "user-person", Why: "A person's request must be approved by a person.", Spoil: username(func(string, string) string { return "kubernetes-admin" })},
			{Name: "user-anonymous", Why: "Anybody may be anonymous.", Spoil: username(func(string, string) string { return "system:anonymous" })},
			{Name: "user-empty", Why: "A request without a requester was not sent with a token.", Spoil: username(func(string, string) string { return "" })},
		}),
		all(deny, wrongRequester, []Case{
			{Name: "groups-none", Why: "Every token's user is in groups.", Spoil: groups(func([]string) []string { return nil })},
			{Name: "groups-no-bootstrappers", Why: "Every token's user is a bootstrapper.", Spoil: withoutGroup("system:bootstrappers")},
			{Name: "groups-not-ours", Why: "A token that was taken out of the operator's group is not the one that it created.", Spoil: withoutGroup("system:bootstrappers:nodebootstrap")},
			{Name: "groups-not-authenticated", Why: "The holder of a token is authenticated.", Spoil: withoutGroup("system:authenticated")},
			{Name: "groups-masters", Why: "An administrator who impersonates a token is not its machine.", Spoil: withGroup("system:masters")},
			{Name: "groups-nodes", Why: "A bootstrap token is not a node.", Spoil: withGroup("system:nodes")},
			{Name: "groups-unauthenticated", Why: "Nobody is authenticated and not.", Spoil: withGroup("system:unauthenticated")},
			{Name: "groups-kubeadm", Why: "Other tools approve requests from their own group.", Spoil: withGroup("system:bootstrappers:kubeadm:default-node-token")},
			{Name: "groups-longer", Why: "A group with the same beginning is another group.", Spoil: withGroup("system:bootstrappers:nodebootstrap:x")},
			{Name: "groups-empty-name", Why: "An empty group is a group.", Spoil: withGroup("")},
			{Name: "groups-upper-case", Why: "Group names are case-sensitive.", Spoil: groups(func(have []string) []string {
				return append(slices.DeleteFunc(have, func(g string) bool { return g == "system:bootstrappers:nodebootstrap" }), "system:bootstrappers:NodeBootstrap")
			})},
			{Name: "requester-uid", Why: "A bootstrap token's user has no uid: this is someone else.", Spoil: func(spec *spec, _ string, _ crypto.Signer) { spec.UID = "6f6cd8a0-58cd-4a4c-8d9f-1d7a2c9b4e11" }},
			{Name: "requester-extra", Why: "A bootstrap token's user has no extra data: this is someone else.", Spoil: extra("example.com/scope", "x")},
			{Name: "requester-credential-id", Why: "A bootstrap token's user has no certificate.", Spoil: extra("authentication.kubernetes.io/credential-id", "X509SHA256="+strings.Repeat("0", 64))},
			{Name: "requester-pod", Why: "A bootstrap token's user is not in a Pod.", Spoil: extra("authentication.kubernetes.io/pod-name", "attacker")},
		}),
	))
}

// clientMeta are defects of signerName and expirationSeconds.
func clientMeta() []Case {
	return slices.Concat(
		all(deny, wrongSigner, []Case{
			{Name: "signer-client", Why: "This signer issues client certificates for any name.", Spoil: signer(certificatesv1.KubeAPIServerClientSignerName)},
			{Name: "signer-serving", Why: "A node requests its serving certificate, not a token.", Spoil: signer(certificatesv1.KubeletServingSignerName)},
			{Name: "signer-legacy", Why: "The legacy signer guarantees nothing about its certificates.", Spoil: signer("kubernetes.io/legacy-unknown")},
			{Name: "signer-foreign", Why: "A custom signer gives the certificate a meaning that the operator does not know.", Spoil: signer("example.com/foreign")},
			{Name: "signer-upper-case", Why: "Signer names are case-sensitive.", Spoil: signer("kubernetes.io/Kube-APIServer-Client-Kubelet")},
			{Name: "signer-longer", Why: "A signer whose name has the same beginning is another signer.", Spoil: signer(certificatesv1.KubeAPIServerClientKubeletSignerName + "s")},
			{Name: "signer-other-domain", Why: "A signer of the same name in another domain is another signer.", Spoil: signer("example.com/kube-apiserver-client-kubelet")},
			{Name: "signer-final-space", Why: "A name that is trimmed is another name.", Spoil: signer(certificatesv1.KubeAPIServerClientKubeletSignerName + " ")},
			{Name: "signer-empty", Why: "No signer is requested.", Spoil: signer("")},
		}),
		all(deny, wrongDuration, []Case{
			{Name: "duration-a-second-too-long", Why: "A certificate cannot be revoked: it must not live longer than a year.", Spoil: seconds(maxSeconds + 1)},
			{Name: "duration-ten-years", Why: "A certificate cannot be revoked: it must not live longer than a year.", Spoil: seconds(10 * maxSeconds)},
			{Name: "duration-longest", Why: "Added to a time, the longest duration may overflow.", Spoil: seconds(math.MaxInt32)},
		}),
	)
}

// foreignUsages are the usages that neither kind of CSR has.
var foreignUsages = []certificatesv1.KeyUsage{
	certificatesv1.UsageSigning, certificatesv1.UsageContentCommitment, certificatesv1.UsageKeyAgreement,
	certificatesv1.UsageDataEncipherment, certificatesv1.UsageCertSign, certificatesv1.UsageCRLSign,
	certificatesv1.UsageEncipherOnly, certificatesv1.UsageDecipherOnly, certificatesv1.UsageAny,
	certificatesv1.UsageCodeSigning, certificatesv1.UsageEmailProtection, certificatesv1.UsageSMIME,
	certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser,
	certificatesv1.UsageTimestamping, certificatesv1.UsageOCSPSigning, certificatesv1.UsageMicrosoftSGC,
	certificatesv1.UsageNetscapeSGC,
}

func clientUsages() []Case {
	cases := usages("usage-", certificatesv1.UsageClientAuth, certificatesv1.UsageServerAuth)
	for _, usage := range foreignUsages {
		cases = append(cases, Case{
			Name:  "usage-with-" + strings.NewReplacer(" ", "-", "/", "-").Replace(string(usage)),
			Why:   "A kubelet's client certificate is good for nothing else.",
			Spoil: withUsage(usage),
		})
	}
	return all(deny, wrongUsages, cases)
}

// usages are the defects that both kinds of CSRs share; own is the usage of this kind, others that of the other kind.
func usages(prefix string, own, others certificatesv1.KeyUsage) []Case {
	const signature, encipherment = certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment
	return all(deny, wrongUsages, []Case{
		{Name: prefix + "none", Why: "A certificate without usages is valid for all of them.", Spoil: changeUsages(func([]certificatesv1.KeyUsage) []certificatesv1.KeyUsage { return nil })},
		{Name: prefix + "without-own", Why: "Without its extended usage the certificate is valid for any.", Spoil: withoutUsage(own)},
		{Name: prefix + "without-signature", Why: "A kubelet always requests digital signature.", Spoil: withoutUsage(signature)},
		{Name: prefix + "of-the-other-kind", Why: "A client's certificate must not serve, a server's must not be a client's.", Spoil: changeUsages(func(have []certificatesv1.KeyUsage) []certificatesv1.KeyUsage {
			return append(slices.DeleteFunc(have, func(u certificatesv1.KeyUsage) bool { return u == own }), others)
		})},
		{Name: prefix + "of-both-kinds", Why: "A client's certificate must not serve, a server's must not be a client's.", Spoil: withUsage(others)},
		{Name: prefix + "twice", Why: "A list with a repetition has the length of a longer one.", Spoil: withUsage(own)},
		{Name: prefix + "twice-instead", Why: "A list with a repetition has the length of the right one.", Spoil: changeUsages(func(have []certificatesv1.KeyUsage) []certificatesv1.KeyUsage {
			return append(slices.DeleteFunc(have, func(u certificatesv1.KeyUsage) bool { return u == own }), signature)
		})},
		{Name: prefix + "upper-case", Why: "Usages are case-sensitive.", Spoil: changeUsages(func(have []certificatesv1.KeyUsage) []certificatesv1.KeyUsage {
			return append(slices.DeleteFunc(have, func(u certificatesv1.KeyUsage) bool { return u == own }), certificatesv1.KeyUsage(strings.ToUpper(string(own))))
		})},
		{Name: prefix + "empty-name", Why: "An empty usage is one that nobody knows.", Spoil: withUsage("")},
		{Name: prefix + "encipherment-with-ecdsa", Why: "An ECDSA key enciphers no keys.", Spoil: func(spec *spec, node string, key crypto.Signer) {
			otherKey(p256)(spec, node, key)
			spec.Usages = append(slices.Clone(spec.Usages), encipherment)
		}},
		{Name: prefix + "rsa-without-encipherment", Why: "A kubelet with an RSA key requests key encipherment.", Spoil: func(spec *spec, node string, key crypto.Signer) {
			otherKey(rsa2048)(spec, node, key)
			withoutUsage(encipherment)(spec, node, key)
		}},
	})
}

func username(change func(user, node string) string) spoil {
	return func(spec *spec, node string, _ crypto.Signer) { spec.Username = change(spec.Username, node) }
}

func groups(change func(have []string) []string) spoil {
	return func(spec *spec, _ string, _ crypto.Signer) { spec.Groups = change(slices.Clone(spec.Groups)) }
}

func withGroup(group string) spoil {
	return groups(func(have []string) []string { return append(have, group) })
}

func withoutGroup(group string) spoil {
	return groups(func(have []string) []string {
		return slices.DeleteFunc(have, func(g string) bool { return g == group })
	})
}

// extra adds a field that an authenticator sets on the requester.
func extra(key, value string) spoil {
	return func(spec *spec, _ string, _ crypto.Signer) {
		more := map[string]certificatesv1.ExtraValue{key: {value}}
		for k, v := range spec.Extra {
			more[k] = v
		}
		spec.Extra = more
	}
}

func signer(name string) spoil {
	return func(spec *spec, _ string, _ crypto.Signer) { spec.SignerName = name }
}

func seconds(n int32) spoil {
	return func(spec *spec, _ string, _ crypto.Signer) { spec.ExpirationSeconds = new(n) }
}

func changeUsages(change func(have []certificatesv1.KeyUsage) []certificatesv1.KeyUsage) spoil {
	return func(spec *spec, _ string, _ crypto.Signer) { spec.Usages = change(slices.Clone(spec.Usages)) }
}

func withUsage(usage certificatesv1.KeyUsage) spoil {
	return changeUsages(func(have []certificatesv1.KeyUsage) []certificatesv1.KeyUsage { return append(have, usage) })
}

func withoutUsage(usage certificatesv1.KeyUsage) spoil {
	return changeUsages(func(have []certificatesv1.KeyUsage) []certificatesv1.KeyUsage {
		return slices.DeleteFunc(have, func(u certificatesv1.KeyUsage) bool { return u == usage })
	})
}

// spoilMeta is the type of Case.SpoilMeta. It replaces maps, slices and pointers of the metadata, and never writes into them.
type spoilMeta = func(meta *metav1.ObjectMeta, node string)

// OwnerNode is the Node that owns some of the CSRs.
const OwnerNode = "owner-node"

// objectMeta are CSRs with metadata that no kubelet sends, the same for both kinds of CSRs.
func objectMeta(prefix string) []Case {
	const outlives = "A request that outlives its deletion is signed nevertheless, after its token was revoked."
	const withOwner = "Who may delete the owner may delete the request with it."
	cases := all(deny, unexpectedAttributes, []Case{
		{Name: "finalizer", Why: outlives, SpoilMeta: finalizers("example.com/protect")},
		{Name: "finalizer-kubernetes", Why: "A finalizer with a name of Kubernetes is nobody's either.", SpoilMeta: finalizers("kubernetes.io/pv-protection")},
		{Name: "finalizer-operator", Why: "The operator sets no finalizers: one in its name is someone else's.", SpoilMeta: finalizers("nodebootstrap.io/protect")},
		{Name: "finalizer-foreground", Why: "The garbage collector keeps a request with this one until its dependents are deleted.", SpoilMeta: finalizers(metav1.FinalizerDeleteDependents)},
		{Name: "finalizer-orphan", Why: "The garbage collector takes this one away on deletion, when it works.", SpoilMeta: finalizers(metav1.FinalizerOrphanDependents)},
		{Name: "finalizer-two", Why: "Whoever takes one away has not taken both away.", SpoilMeta: finalizers("example.com/one", "example.com/two")},
		{Name: "finalizer-many", Why: "Thousands of finalizers fill the memory of whoever caches them.", SpoilMeta: finalizers(names(1000)...)},
		{Name: "owner-node", Why: withOwner, SpoilMeta: ownedBy("v1", "Node", OwnerNode)},
		{Name: "owner-config-map", Why: "An object in a namespace cannot own one outside of it: the garbage collector never decides on it.", SpoilMeta: ownedBy("v1", "ConfigMap", "owner")},
		{Name: "owner-node-bootstrap", Why: "A request that looks like the operator's own object: it makes none with owners but Secrets.", SpoilMeta: ownedBy("nodebootstrap.io/v1alpha1", "NodeBootstrap", "")},
		{Name: "owner-blocking", Why: "The owner cannot be deleted in the foreground before the request.", SpoilMeta: changeOwner(func(o *metav1.OwnerReference) { o.BlockOwnerDeletion = new(true) })},
		{Name: "owner-controller", Why: "Controllers adopt and count what says that they control it.", SpoilMeta: changeOwner(func(o *metav1.OwnerReference) { o.Controller = new(true) })},
		{Name: "owner-blocking-controller", Why: "This is what controllers write on objects of their own.", SpoilMeta: changeOwner(func(o *metav1.OwnerReference) {
			o.BlockOwnerDeletion, o.Controller = new(true), new(true)
		})},
		{Name: "owner-and-finalizer", Why: "Whoever fixes one of the two has not fixed the other.", SpoilMeta: func(meta *metav1.ObjectMeta, node string) {
			finalizers("example.com/protect")(meta, node)
			ownedBy("v1", "Node", OwnerNode)(meta, node)
		}},
	})
	for i := range cases {
		cases[i].Name = prefix + cases[i].Name
	}
	return cases
}

// Harmless are CSRs with metadata that admission can add or that other clients send: it must not stop a node. They apply to both
// good CSRs; the reason is that of an approval of the kind.
func Harmless() []Case {
	return all(approve, "", []Case{
		{Name: "label", Why: "Admission policies label what they see.", SpoilMeta: labels(map[string]string{"example.com/team": "storage"})},
		{Name: "label-many", Why: "A node must not be kept out by the number of its labels.", SpoilMeta: labels(labelled(names(3000)))},
		{Name: "label-of-a-finalizer", Why: "A label with a finalizer's name holds nothing back.", SpoilMeta: labels(map[string]string{"finalizers": "protect", "kubernetes.io/pv-protection": ""})},
		{Name: "annotation", Why: "Admission policies annotate what they see.", SpoilMeta: annotations(map[string]string{"example.com/seen": "yes"})},
		{Name: "annotation-large", Why: "A node must not be kept out by the size of an annotation.", SpoilMeta: annotations(map[string]string{"example.com/text": strings.Repeat("x", 200<<10)})},
		{Name: "annotation-of-kubectl", Why: "Who applies a request leaves what was applied in it.", SpoilMeta: annotations(map[string]string{
			"kubectl.kubernetes.io/last-applied-configuration": `{"metadata":{"finalizers":["example.com/protect"]}}`,
		})},
		{Name: "label-and-annotation", Why: "Admission policies do both.", SpoilMeta: func(meta *metav1.ObjectMeta, node string) {
			labels(map[string]string{"example.com/team": "storage"})(meta, node)
			annotations(map[string]string{"example.com/seen": "yes"})(meta, node)
		}},
		{Name: "generate-name", Why: "A kubelet that rotates its certificate has its request named by the API server.", SpoilMeta: func(meta *metav1.ObjectMeta, _ string) {
			meta.Name, meta.GenerateName = "", "csr-"
		}},
	})
}

func finalizers(names ...string) spoilMeta {
	return func(meta *metav1.ObjectMeta, _ string) { meta.Finalizers = names }
}

// ownedBy is an owner of a kind. An owner without a name has the node's. Its UID belongs to no object: a sender must replace it
// before it sends the CSR to an API server, or the garbage collector deletes the CSR before the operator has decided on it.
func ownedBy(apiVersion, kind, name string) spoilMeta {
	return func(meta *metav1.ObjectMeta, node string) {
		owner := metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: name, UID: "6f6cd8a0-58cd-4a4c-8d9f-1d7a2c9b4e11"}
		if name == "" {
			owner.Name = node
		}
		meta.OwnerReferences = []metav1.OwnerReference{owner}
	}
}

// changeOwner changes an owner of the CSR.
func changeOwner(change func(*metav1.OwnerReference)) spoilMeta {
	return func(meta *metav1.ObjectMeta, node string) {
		ownedBy("nodebootstrap.io/v1alpha1", "NodeBootstrap", "")(meta, node)
		change(&meta.OwnerReferences[0])
	}
}

func labels(l map[string]string) spoilMeta {
	return func(meta *metav1.ObjectMeta, _ string) { meta.Labels = l }
}

func annotations(a map[string]string) spoilMeta {
	return func(meta *metav1.ObjectMeta, _ string) { meta.Annotations = a }
}

func names(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("example.com/name-%04d", i))
	}
	return list
}

func labelled(names []string) map[string]string {
	l := map[string]string{}
	for _, name := range names {
		l[name] = "x"
	}
	return l
}
