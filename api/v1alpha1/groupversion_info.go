// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 is the nodebootstrap.io/v1alpha1 API: one NodeBootstrap for each machine that may join the cluster.
//
// +kubebuilder:object:generate=true
// +groupName=nodebootstrap.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of the types in this package.
var GroupVersion = schema.GroupVersion{Group: "nodebootstrap.io", Version: "v1alpha1"}

var schemeBuilder = runtime.NewSchemeBuilder(func(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &NodeBootstrap{}, &NodeBootstrapList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
})

// AddToScheme adds the types of this package to a scheme.
var AddToScheme = schemeBuilder.AddToScheme
