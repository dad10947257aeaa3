// SPDX-License-Identifier: Apache-2.0

package adversarial

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
