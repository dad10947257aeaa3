// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
)

// createOptions are the fields of a NodeBootstrap that create and join create.
type createOptions struct {
	server         string
	caFile         string
	ttl            time.Duration
	joinDeadline   time.Duration
	approval       string
	approvalDelay  time.Duration
	keyFingerprint string
	addresses      []string

	flags []string // their names
}

// Limits of the CustomResourceDefinition.
const (
	minTokenTTL      = 10 * time.Minute
	maxTokenTTL      = 8760 * time.Hour
	maxApprovalDelay = 10 * time.Minute
)

var (
	approvals   = []string{string(v1alpha1.ApprovalNode), string(v1alpha1.ApprovalManual), string(v1alpha1.ApprovalClusterWide)}
	fingerprint = regexp.MustCompile(`^SHA256:[0-9a-f]{64}$`)
)

// addFlags adds the flags. In join the name of the flag for the server is not that of the connection flag. Each usage has a prefix.
func (o *createOptions) addFlags(cmd *cobra.Command, server, prefix string) {
	flags := cmd.Flags()
	flags.StringVar(&o.server, server, "", prefix+"spec.cluster.server, the URL at which the node reaches the API server.")
	flags.StringVar(&o.caFile, "ca-file", "", prefix+"a file with spec.cluster.caBundle, the CA of that API server.")
	flags.DurationVar(&o.ttl, "ttl", 0, prefix+"spec.token.ttl, the life of one token, for example 1h.")
	flags.DurationVar(&o.joinDeadline, "join-deadline", 0, prefix+"spec.token.joinDeadline, how long tokens are renewed, for example 168h.")
	flags.StringVar(&o.approval, "approval", "", prefix+"spec.clientCertificate.approval: "+strings.Join(approvals, ", ")+".")
	flags.StringSliceVar(&o.addresses, "serving-address", nil,
		prefix+"an entry of spec.servingCertificate.addresses, a DNS name, an IP address or a CIDR. Repeatable.")
	o.flags = []string{server, "ca-file", "ttl", "join-deadline", "approval", "serving-address"}
	complete(cmd, "approval", approvals...)
}

// addKeyFlags adds the flags about keys. join pins the key of the machine itself.
func (o *createOptions) addKeyFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.keyFingerprint, "key-fingerprint", "", "spec.clientCertificate.keyFingerprint, the only key that gets a certificate.")
	cmd.Flags().DurationVar(&o.approvalDelay, "approval-delay", 0, "spec.clientCertificate.approvalDelay, for example 30s.")
}

// complete offers values of a flag.
func complete(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // only without the flag
	}
}

// validate refuses what the API server would refuse, as far as that is known here.
func (o *createOptions) validate() error {
	var errs []error
	refuse := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	if o.server != "" {
		if err := kubeconfig.ValidateServer(o.server); err != nil {
			errs = append(errs, err)
		}
	}
	for _, d := range []struct {
		flag  string
		value time.Duration
	}{{"ttl", o.ttl}, {"join-deadline", o.joinDeadline}} {
		refuse(d.value != 0 && (d.value < minTokenTTL || d.value > maxTokenTTL || d.value%time.Second != 0),
			"--%s is from 10m to 8760h, in whole seconds, not %s: write for example 24h", d.flag, d.value)
	}
	refuse(o.approvalDelay < 0 || o.approvalDelay > maxApprovalDelay || o.approvalDelay%time.Second != 0,
		"--approval-delay is from 0s to 10m, in whole seconds, not %s", o.approvalDelay)
	refuse(o.approval != "" && !slices.Contains(approvals, o.approval), "--approval is one of %s, not %q", strings.Join(approvals, ", "), o.approval)
	refuse(o.keyFingerprint != "" && !fingerprint.MatchString(o.keyFingerprint),
		"--key-fingerprint is SHA256: and 64 lower-case hex digits: openssl pkey -in node.key -pubout -outform DER | sha256sum")
	refuse(o.keyFingerprint != "" && o.approval == string(v1alpha1.ApprovalClusterWide),
		"--key-fingerprint has no effect with --approval ClusterWide, with which every key is approved: leave one of the two out")
	for _, address := range o.addresses {
		refuse(!validAddress(address), "--serving-address is a DNS name in lower case, an IP address or a CIDR, not %q", address)
	}
	return errors.Join(errs...)
}

func validAddress(address string) bool {
	if _, err := netip.ParseAddr(address); err == nil {
		return true
	}
	if _, err := netip.ParsePrefix(address); err == nil {
		return true
	}
	return len(validation.IsDNS1123Subdomain(address)) == 0
}

// nodeBootstrap returns the NodeBootstrap of the options, with nothing in it that was not set.
func (o *createOptions) nodeBootstrap(name string) (*unstructured.Unstructured, error) {
	var spec v1alpha1.NodeBootstrapSpec
	spec.Cluster.Server = o.server
	if o.caFile != "" {
		ca, err := os.ReadFile(o.caFile)
		if err != nil {
			return nil, fmt.Errorf("reading the CA: %w", err)
		}
		spec.Cluster.CABundle = string(ca)
	}
	spec.ClientCertificate.Approval = v1alpha1.Approval(o.approval)
	spec.ClientCertificate.KeyFingerprint = o.keyFingerprint
	spec.ServingCertificate.Addresses = o.addresses
	spec.Token.TTL, spec.Token.JoinDeadline = optional(o.ttl), optional(o.joinDeadline)
	spec.ClientCertificate.ApprovalDelay = optional(o.approvalDelay)
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&spec)
	if err != nil {
		return nil, err
	}
	shorten(content, "token", "ttl")
	shorten(content, "token", "joinDeadline")
	shorten(content, "clientCertificate", "approvalDelay")
	nb := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": name}}}
	nb.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("NodeBootstrap"))
	if len(content) > 0 {
		nb.Object["spec"] = content
	}
	return nb, nil
}

func optional(d time.Duration) *metav1.Duration {
	if d == 0 {
		return nil
	}
	return &metav1.Duration{Duration: d}
}

// shorten writes a duration as people do: 1h, not 1h0m0s.
func shorten(spec map[string]any, path ...string) {
	text, found, _ := unstructured.NestedString(spec, path...)
	if !found {
		return
	}
	for _, zero := range []struct{ long, short string }{{"m0s", "m"}, {"h0m", "h"}} {
		if strings.HasSuffix(text, zero.long) {
			text = strings.TrimSuffix(text, zero.long) + zero.short
		}
	}
	_ = unstructured.SetNestedField(spec, text, path...)
}
