// SPDX-License-Identifier: Apache-2.0

package controllers

// The operator's permissions. controller-gen generates config/rbac/role.yaml from these markers.
//
// The operator writes only the status of a NodeBootstrap.
// +kubebuilder:rbac:groups=nodebootstrap.io,resources=nodebootstraps,verbs=get;list;watch
// +kubebuilder:rbac:groups=nodebootstrap.io,resources=nodebootstraps/status,verbs=update
//
// Tokens are Secrets in kube-system, kubeconfigs are Secrets in the operator's own namespace. It reads no other namespaces.
// +kubebuilder:rbac:groups="",namespace=kube-system,resources=secrets,verbs=get;list;watch;create;update;delete
// +kubebuilder:rbac:groups="",namespace=nodebootstrap-system,resources=secrets,verbs=get;list;watch;create;update;delete
//
// Endpoint and CA are discovered from two ConfigMaps.
// +kubebuilder:rbac:groups="",namespace=kube-public,resources=configmaps,resourceNames=cluster-info,verbs=list;watch
// +kubebuilder:rbac:groups="",namespace=nodebootstrap-system,resources=configmaps,resourceNames=kube-root-ca.crt,verbs=list;watch
//
// A node's Node and Lease show whether it has joined.
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=kube-node-lease,resources=leases,verbs=get
//
// The operator approves or denies CSRs for kubelet client and serving certificates. It deletes CSRs of deleted tokens, and
// those of tokens for other signers. It removes their finalizers with a patch, which can change only metadata.
// +kubebuilder:rbac:groups=certificates.k8s.io,resources=certificatesigningrequests,verbs=list;watch;patch;delete
// +kubebuilder:rbac:groups=certificates.k8s.io,resources=certificatesigningrequests/approval,verbs=update
// +kubebuilder:rbac:groups=certificates.k8s.io,resources=signers,resourceNames=kubernetes.io/kube-apiserver-client-kubelet;kubernetes.io/kubelet-serving,verbs=approve
//
// The addresses of the API server, for which no node may get a serving certificate.
// +kubebuilder:rbac:groups="",namespace=default,resources=services,resourceNames=kubernetes,verbs=list;watch
// +kubebuilder:rbac:groups=discovery.k8s.io,namespace=default,resources=endpointslices,resourceNames=kubernetes,verbs=list;watch
//
// The operator asks the API server whether anything else may approve the CSRs of tokens.
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create
//
// The operator asks the API server whether it accepts a new token.
// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
//
// Three shared bindings, for three of Kubernetes' own ClusterRoles, owned by the CustomResourceDefinition. RBAC cannot restrict
// create to a name; the verb bind restricts the roles.
// +kubebuilder:rbac:groups=rbac.authorization.k8s.io,resources=clusterrolebindings,verbs=list;watch;create
// +kubebuilder:rbac:groups=rbac.authorization.k8s.io,resources=clusterrolebindings,resourceNames=nodebootstrap-create-csrs;nodebootstrap-approve-renewals;nodebootstrap-approve-cluster-wide,verbs=update;delete
// +kubebuilder:rbac:groups=rbac.authorization.k8s.io,resources=clusterroles,resourceNames="system:node-bootstrapper";"system:certificates.k8s.io:certificatesigningrequests:selfnodeclient";"system:certificates.k8s.io:certificatesigningrequests:nodeclient",verbs=bind
// +kubebuilder:rbac:groups=apiextensions.k8s.io,resources=customresourcedefinitions,resourceNames=nodebootstraps.nodebootstrap.io,verbs=get
//
// Events about NodeBootstraps, which are cluster-scoped, go to the namespace default; those of the leader election, which
// still uses the older API, to the operator's own.
// +kubebuilder:rbac:groups=events.k8s.io,namespace=default,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups="",namespace=nodebootstrap-system,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=nodebootstrap-system,resources=leases,verbs=get;create;update
