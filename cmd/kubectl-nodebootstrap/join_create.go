// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// createOptions are the fields of a NodeBootstrap that join creates.
type createOptions struct {
	create    bool
	server    string
	addresses []string
	ttl       time.Duration
}

func (o *createOptions) addFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&o.create, "create", false, "Create the NodeBootstrap if it does not exist.")
	flags.StringVar(&o.server, "server-url", "", "With --create: spec.cluster.server, the URL at which the node reaches the API server.")
	flags.StringSliceVar(&o.addresses, "serving-address", nil,
		"With --create: an entry of spec.servingCertificate.addresses, a DNS name, an IP address or a CIDR. Repeatable.")
	flags.DurationVar(&o.ttl, "ttl", 0, "With --create: spec.token.ttl, for example 1h.")
}

func (o *createOptions) validate() error {
	if !o.create && (o.server != "" || len(o.addresses) > 0 || o.ttl != 0) {
		return errors.New("--server-url, --serving-address and --ttl require --create")
	}
	return nil
}

func (o *createOptions) nodeBootstrap(name string) *v1alpha1.NodeBootstrap {
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	nb.Spec.Cluster.Server = o.server
	nb.Spec.ServingCertificate.Addresses = o.addresses
	if o.ttl != 0 {
		nb.Spec.Token.TTL = &metav1.Duration{Duration: o.ttl}
	}
	return nb
}

// getOrCreate returns the NodeBootstrap. It creates a missing one only if the user wants that: a pipeline could delete it again.
func (j *joining) getOrCreate(ctx context.Context) (*v1alpha1.NodeBootstrap, error) {
	var nb v1alpha1.NodeBootstrap
	name := j.target.node
	err := j.client.Get(ctx, client.ObjectKey{Name: name}, &nb)
	switch {
	case err == nil:
		return &nb, nil
	case !apierrors.IsNotFound(err):
		return nil, explain(err, "get", name)
	case !j.create.create:
		return nil, fmt.Errorf("NodeBootstrap %s does not exist. If the name is right, commit these lines and run the command again, or create it now with --create:\n\n%s",
			name, manifest(name, ""))
	case j.dryRun:
		return nil, fmt.Errorf("NodeBootstrap %s does not exist, and --dry-run creates nothing. The checks need its kubeconfig: create it first", name)
	}
	made := j.create.nodeBootstrap(name)
	err = j.client.Create(ctx, made)
	switch {
	case apierrors.IsAlreadyExists(err):
		return get(ctx, j.client, name)
	case err != nil:
		return nil, explain(err, "create", name)
	}
	j.step("created NodeBootstrap " + name + "; where the others are in Git, commit it too")
	return made, nil
}
