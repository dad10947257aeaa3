// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
)

const (
	node      = "worker-1"
	namespace = "nodebootstrap-system"
	// canary is the secret part of the token: only the commands kubeconfig and userdata may print it, without recipients.
	canary         = "c4n4ryc4n4ryc4n4"
	kubeconfigText = "apiVersion: v1\nkind: Config\nusers: [{name: kubelet-bootstrap, user: {token: abcdef." + canary + "}}]\n"
)

// start is in the future, so that a token of a day after it is live.
var start = time.Date(2126, 11, 1, 12, 0, 0, 0, time.UTC)

// cluster is the state of the cluster in a test.
type cluster struct {
	objects []client.Object
	funcs   interceptor.Funcs
	err     error // of connecting
}

func (cl cluster) client(t *testing.T) client.WithWatch {
	t.Helper()
	scheme, err := newScheme()
	if err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(cl.objects...).
		WithStatusSubresource(&v1alpha1.NodeBootstrap{}).WithInterceptorFuncs(cl.funcs).Build()
}

// result is the result of a command line.
type result struct {
	out, errOut string
	err         error
}

// execute runs a command line against a client and fails if the canary is where it must not be.
func execute(t *testing.T, connect connector, args ...string) result {
	t.Helper()
	streams, _, out, errOut := genericiooptions.NewTestIOStreams()
	cmd := newCommand(streams, connect, nil)
	cmd.SetArgs(args)
	r := result{err: cmd.ExecuteContext(t.Context())}
	r.out, r.errOut = out.String(), errOut.String()
	searchCanary(t, r, args)
	return r
}

func searchCanary(t *testing.T, r result, args []string) {
	t.Helper()
	if r.err != nil && strings.Contains(r.err.Error(), canary) {
		t.Errorf("%q: the secret part of the token is in the error: %v", args, r.err)
	}
	if strings.Contains(r.errOut, canary) {
		t.Errorf("%q: the secret part of the token is in the error output: %s", args, r.errOut)
	}
	prints := slices.Contains([]string{"kubeconfig", "userdata"}, args[0]) && !slices.Contains(args, "--recipient")
	if strings.Contains(r.out, canary) && (!prints || r.err != nil) {
		t.Errorf("%q: the secret part of the token is in the output: %s", args, r.out)
	}
}

func (cl cluster) execute(t *testing.T, args ...string) result {
	t.Helper()
	c := cl.client(t)
	return execute(t, func() (client.WithWatch, error) { return c, cl.err }, args...)
}

// succeeds and fails run a command line that must succeed or fail.
func (cl cluster) succeeds(t *testing.T, args ...string) result {
	t.Helper()
	r := cl.execute(t, args...)
	if r.err != nil {
		t.Fatalf("%q failed: %v", args, r.err)
	}
	return r
}

func mention(t *testing.T, where, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s does not mention %q:\n%s", where, part, text)
		}
	}
}

func condition(kind string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(start)}
}

// awaiting returns a NodeBootstrap with a published kubeconfig, with some changes.
func awaiting(changes ...func(*v1alpha1.NodeBootstrap)) *v1alpha1.NodeBootstrap {
	nb := &v1alpha1.NodeBootstrap{
		ObjectMeta: metav1.ObjectMeta{Name: node},
		Status: v1alpha1.NodeBootstrapStatus{
			Conditions: []metav1.Condition{
				condition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode, "give the node the kubeconfig"),
				condition(v1alpha1.ConditionJoined, metav1.ConditionFalse, v1alpha1.ReasonAwaitingNode, "the node has not joined yet"),
			},
			Token:               &v1alpha1.TokenStatus{ID: "abcdef", ExpirationTime: metav1.NewTime(start.Add(24 * time.Hour))},
			KubeconfigSecretRef: &v1alpha1.SecretReference{Namespace: namespace, Name: owned.KubeconfigSecretName(node)},
			Server:              "https://api.example.com:6443",
			AwaitingSince:       &metav1.Time{Time: start},
		},
	}
	for _, change := range changes {
		change(nb)
	}
	return nb
}

func hasJoined(nb *v1alpha1.NodeBootstrap) {
	nb.Status = v1alpha1.NodeBootstrapStatus{Conditions: []metav1.Condition{
		condition(v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonJoined, "the node has joined"),
		condition(v1alpha1.ConditionJoined, metav1.ConditionTrue, v1alpha1.ReasonNodeHasCertificate, "the node uses a certificate of its own"),
	}}
}

func isStalled(nb *v1alpha1.NodeBootstrap) {
	nb.Status = v1alpha1.NodeBootstrapStatus{Conditions: []metav1.Condition{
		condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonServerUnknown, "no API server URL is known"),
		condition(v1alpha1.ConditionStalled, metav1.ConditionTrue, v1alpha1.ReasonServerUnknown, "no API server URL is known"),
	}}
}

func isReconciling(nb *v1alpha1.NodeBootstrap) {
	nb.Status = v1alpha1.NodeBootstrapStatus{Conditions: []metav1.Condition{
		condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonVerifying, "the API server is asked"),
		condition(v1alpha1.ConditionReconciling, metav1.ConditionTrue, v1alpha1.ReasonVerifying, "the API server is asked"),
	}}
}

// isMisused sets the alarm after a key was approved with the token, so that Ready stays True and the kubeconfig is still
// published.
func isMisused(nb *v1alpha1.NodeBootstrap) {
	nb.Status.Conditions = append(nb.Status.Conditions, condition(v1alpha1.ConditionTokenMisused, metav1.ConditionTrue, "SecondKey", "the request csr-b"))
}

func isNew(nb *v1alpha1.NodeBootstrap) { nb.Status = v1alpha1.NodeBootstrapStatus{} }

func isEdited(nb *v1alpha1.NodeBootstrap) { nb.Generation = nb.Status.ObservedGeneration + 1 }

func awaitsReissue(nb *v1alpha1.NodeBootstrap) {
	nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "again"}
}

func secret(data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: owned.KubeconfigSecretName(node)},
		Data:       data,
	}
}

func publishedSecret() *corev1.Secret {
	return secret(map[string][]byte{kubeconfig.Key: []byte(kubeconfigText)})
}

var (
	nodeBootstraps = schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "nodebootstraps"}
	noMatch        = &meta.NoKindMatchError{GroupKind: v1alpha1.GroupVersion.WithKind("NodeBootstrap").GroupKind(), SearchedVersions: []string{"v1alpha1"}}
)

func forbidden(resource schema.GroupResource, name string) error {
	return apierrors.NewForbidden(resource, name, errors.New("no rule allows it"))
}

// failingGet fails reads of one kind of object.
func failingGet[T client.Object](err error) interceptor.Funcs {
	return interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
		if _, ok := o.(T); ok {
			return err
		}
		return c.Get(ctx, key, o, opts...)
	}}
}

func TestUsageErrorsAreShort(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"unknown command":          {[]string{"reisue"}, []string{`has no command "reisue"`, "Did you mean reissue?", "See kubectl nodebootstrap --help"}},
		"command like no other":    {[]string{"frobnicate", node}, []string{`has no command "frobnicate"`, "See kubectl nodebootstrap --help"}},
		"help for no command":      {[]string{"help", "stats"}, []string{`has no command "stats"`, "Did you mean status?"}},
		"unknown global flag":      {[]string{"--all"}, []string{"--all", "See kubectl nodebootstrap --help"}},
		"path on the machine":      {[]string{"userdata", node, "--ca-path", "ca.crt"}, []string{"path of the CA", `"ca.crt"`}},
		"method":                   {[]string{"join", node, "--ssh", "host", "--with", "talos"}, []string{"kubelet or kubeadm", `"talos"`}},
		"no machine":               {[]string{"join", node}, []string{"--ssh USER@HOST"}},
		"create flag alone":        {[]string{"join", node, "--ssh", "host", "--ttl", "1h"}, []string{"--ttl requires --create"}},
		"sign without request":     {[]string{"sign", node}, []string{"--request"}},
		"unknown flag":             {[]string{"status", "--all", node}, []string{"--all", "See kubectl nodebootstrap status --help"}},
		"kubeconfig of none":       {[]string{"kubeconfig"}, []string{"name of one NodeBootstrap", "0 were given", "See kubectl nodebootstrap kubeconfig --help"}},
		"kubeconfig of two":        {[]string{"kubeconfig", "a", "b"}, []string{"2 were given"}},
		"status of two":            {[]string{"status", "a", "b"}, []string{"name of one NodeBootstrap"}},
		"another kind":             {[]string{"status", "node/" + node}, []string{`"node/worker-1" is not a valid name`}},
		"reissue of none":          {[]string{"reissue"}, []string{"at least one"}},
		"no name of a node":        {[]string{"reissue", node, "Worker/2"}, []string{`"Worker/2"`, "lower case"}},
		"overwrite without file":   {[]string{"kubeconfig", node, "--overwrite"}, []string{"--output-file"}},
		"negative wait":            {[]string{"kubeconfig", node, "--wait", "-1m"}, []string{"--wait", "negative"}},
		"wait that is no time":     {[]string{"kubeconfig", node, "--wait", "long"}, []string{"--wait", "long"}},
		"userdata of none":         {[]string{"userdata"}, []string{"name of one NodeBootstrap", "See kubectl nodebootstrap userdata --help"}},
		"no format":                {[]string{"userdata", node, "--format", "cloudinit"}, []string{"script, cloud-init or ignition", `"cloudinit"`}},
		"userdata, overwrite":      {[]string{"userdata", node, "--overwrite"}, []string{"--output-file"}},
		"version with an argument": {[]string{"version", "now"}, []string{"no arguments"}},
	} {
		t.Run(name, func(t *testing.T) {
			never := func() (client.WithWatch, error) {
				t.Error("connected for a command line that is wrong")
				return nil, errors.New("unused")
			}
			r := execute(t, never, tc.args...)
			if r.err == nil {
				t.Fatal("no error")
			}
			mention(t, "the error", r.err.Error(), tc.want...)
			if code := exitCode(r.err); code != 2 {
				t.Errorf("the exit code is %d, want 2", code)
			}
			if r.out != "" || r.errOut != "" {
				t.Errorf("printed more than the error: %q, %q", r.out, r.errOut)
			}
		})
	}
}

// Every command reports the cause of its failure, and what to do about it.
func TestClusterErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		cluster cluster
		want    []string
	}{
		"no connection":     {cluster{err: errors.New("no configuration")}, []string{"no configuration"}},
		"no such name":      {cluster{}, []string{"NodeBootstrap " + node + " does not exist", "kubectl get nodebootstraps"}},
		"not installed":     {cluster{funcs: failing(noMatch)}, []string{"install the operator", "--context"}},
		"not allowed":       {cluster{funcs: failing(forbidden(nodeBootstraps, node))}, []string{"permission to", "nodebootstraps.nodebootstrap.io", "no rule allows it"}},
		"server in trouble": {cluster{funcs: failing(errors.New("connection refused"))}, []string{"NodeBootstrap " + node, "connection refused"}},
	} {
		for _, command := range []string{"kubeconfig", "reissue", "status", "userdata"} {
			t.Run(command+": "+name, func(t *testing.T) {
				r := tc.cluster.execute(t, command, node)
				if r.err == nil {
					t.Fatalf("no error, and printed %q", r.out)
				}
				mention(t, "the error", r.err.Error(), tc.want...)
				if code := exitCode(r.err); code != 1 {
					t.Errorf("the exit code is %d, want 1", code)
				}
				if r.out != "" {
					t.Errorf("printed %q", r.out)
				}
				if strings.Contains(r.err.Error(), "kind: NodeBootstrap") {
					t.Errorf("a mistyped name gets a manifest to paste: %v", r.err)
				}
			})
		}
	}
}

// failing fails every read and patch.
func failing(err error) interceptor.Funcs {
	f := failingGet[client.Object](err)
	f.Patch = func(context.Context, client.WithWatch, client.Object, client.Patch, ...client.PatchOption) error {
		return err
	}
	return f
}

func TestCompletion(t *testing.T) {
	other := awaiting(hasJoined)
	other.Name = "worker-2"
	cl := cluster{objects: []client.Object{awaiting(), other}}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"all":                     {[]string{"status", ""}, "worker-1\tAwaitingNode\nworker-2\tJoined\n:4\n"},
		"by prefix":               {[]string{"kubeconfig", "worker-2"}, "worker-2\tJoined\n:4\n"},
		"no second for one":       {[]string{"kubeconfig", "worker-2", ""}, ":4\n"},
		"a second, given the one": {[]string{"reissue", "worker-2", ""}, "worker-1\tAwaitingNode\n:4\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if r := cl.succeeds(t, append([]string{"__complete"}, tc.args...)...); r.out != tc.want {
				t.Errorf("got %q, want %q", r.out, tc.want)
			}
		})
	}
	t.Run("no cluster", func(t *testing.T) {
		if r := (cluster{err: errors.New("no configuration")}).succeeds(t, "__complete", "status", ""); !strings.HasPrefix(r.out, ":5\n") {
			t.Errorf("got %q, want only the directive for an error", r.out)
		}
	})
}

func TestVersionAndHelp(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"version":         {[]string{"version", "--client"}, "Plugin:    "},
		"no command":      {nil, "Four lines let a machine join"},
		"help":            {[]string{"help", "reissue"}, "With GitOps"},
		"sign help":       {[]string{"sign", "--help"}, "string_mask=default"},
		"userdata help":   {[]string{"userdata", "--help"}, "journalctl -u nodebootstrap-join"},
		"kubeconfig help": {[]string{"kubeconfig", "--help"}, "kubectl nodebootstrap kubeconfig NAME [flags]"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			streams := genericiooptions.IOStreams{Out: &out, ErrOut: &out}
			if err := run(t.Context(), append([]string{}, tc.args...), streams); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(strings.ToLower(out.String()), strings.ToLower(tc.want)) {
				t.Errorf("does not say %q:\n%s", tc.want, out.String())
			}
		})
	}
}

// Without a kubeconfig kubectl tries localhost:8080, which helps nobody.
func TestNoClusterIsConfigured(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	err := run(t.Context(), []string{"status", node}, genericiooptions.NewTestIOStreamsDiscard())
	if err == nil || exitCode(err) != exitFailed {
		t.Fatalf("got %v", err)
	}
	mention(t, "the error", err.Error(), "no cluster is configured", "$KUBECONFIG")
}
