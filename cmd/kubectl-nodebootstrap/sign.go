// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/steps"
)

const (
	// signManager is the field manager of a pinned key.
	signManager = client.FieldOwner("kubectl-nodebootstrap-sign")
	// certificateInterval is the time between two reads of a CSR.
	certificateInterval = 500 * time.Millisecond

	outputCertificate = "certificate"
	outputKubeconfig  = "kubeconfig"
)

// tokenConnector connects with a bootstrap token to the API server that the flags name.
type tokenConnector func(token string) (client.Client, error)

type signOptions struct {
	genericiooptions.IOStreams
	request    string
	output     string
	outputFile string
	overwrite  bool
	keyPath    string
	wait       time.Duration
	// waitForPin reports whether --wait was given: a commit takes longer than the default.
	waitForPin bool
}

func newSignCommand(streams genericiooptions.IOStreams, connect connector, connectWithToken tokenConnector) *cobra.Command {
	o := signOptions{IOStreams: streams}
	cmd := &cobra.Command{
		Use:   "sign NAME --request FILE",
		Short: "Get the node's certificate for a key that stays on the machine",
		Long: `Get the node's certificate for a key that stays on the machine. The machine needs no bootstrap token, and nothing that is
sent to it is secret.

The request is a CSR in PEM, made with openssl on the machine: see the examples. The command checks it with the operator's
own rules, pins its key in spec.clientCertificate.keyFingerprint, sends the request with the node's bootstrap token, and
prints the certificate. From then on no other key gets a certificate with that token. If another key is pinned, or another
tool owns the field, the command changes nothing and prints what to commit.

With --output kubeconfig it prints a kubeconfig with the certificate in it and the path of the key: the file for kubelet's
--bootstrap-kubeconfig. The kubelet uses it once, for a certificate with a key of its own, which it renews from then on.

Needs the permission to get, watch and patch the NodeBootstrap, and to get the Secret that its status.kubeconfigSecretRef
names.`,
		Example: `  # On the machine: a key and a request. Without the configuration openssl encodes the name as a kubelet never does
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out /var/lib/kubelet/pki/node.key
  printf '[req]\nstring_mask=default\ndistinguished_name=req\n' | openssl req -new -config /dev/stdin \
    -key /var/lib/kubelet/pki/node.key -subj /O=system:nodes/CN=system:node:worker-1 -out node.csr

  # The file for kubelet's --bootstrap-kubeconfig, which holds no secret
  kubectl nodebootstrap sign worker-1 --request node.csr --output kubeconfig > bootstrap-kubeconfig

  # Only the certificate, for a request from standard input
  ssh root@worker-1 cat node.csr | kubectl nodebootstrap sign worker-1 --request - > node.crt`,
		Args:              oneName,
		ValidArgsFunction: completeNames(connect, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.waitForPin = cmd.Flags().Changed("wait")
			if err := o.validate(); err != nil {
				return usageError(cmd, err)
			}
			request, err := o.read(args[0])
			if err != nil {
				return err
			}
			c, err := connect()
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), c, connectWithToken, args[0], request)
		},
	}
	cmd.Flags().StringVar(&o.request, "request", "", "The file with the request in PEM, or - for standard input.")
	cmd.Flags().StringVarP(&o.output, "output", "o", outputCertificate, "What to print: certificate or kubeconfig.")
	complete(cmd, "output", outputCertificate, outputKubeconfig)
	cmd.Flags().StringVar(&o.outputFile, "output-file", "", "Write to this file, which only you can read, instead of standard output.")
	cmd.Flags().BoolVar(&o.overwrite, "overwrite", false, "Replace the output file if there is one.")
	cmd.Flags().StringVar(&o.keyPath, "key-path", "/var/lib/kubelet/pki/node.key", "Where the key is on the machine, for --output kubeconfig.")
	cmd.Flags().DurationVar(&o.wait, "wait", 2*time.Minute,
		"Wait so long for the kubeconfig, the approval and the certificate. If it is given, also for a commit that pins the key.")
	return cmd
}

func (o *signOptions) validate() error {
	if o.outputFile == "-" { // standard output, as in kubectl
		o.outputFile = ""
	}
	switch {
	case o.request == "":
		return errors.New("--request is missing: the file with the request, or - for standard input")
	case o.output != outputCertificate && o.output != outputKubeconfig:
		return fmt.Errorf("--output is certificate or kubeconfig, not %q", o.output)
	case o.output == outputKubeconfig && o.keyPath == "":
		return errors.New("--key-path is empty")
	case o.overwrite && o.outputFile == "":
		return errors.New("--overwrite goes with --output-file")
	case o.wait <= 0:
		return fmt.Errorf("--wait takes a time like 2m, not %s", o.wait)
	}
	return nil
}

// signRequest is a certificate request that has no defect.
type signRequest struct {
	spec        certificatesv1.CertificateSigningRequestSpec
	fingerprint string
}

// read reads and checks the request before anything is sent: the operator would deny a bad one and could revoke the token.
func (o *signOptions) read(node string) (*signRequest, error) {
	from := o.In
	if o.request != "-" {
		file, err := os.Open(o.request)
		if err != nil {
			return nil, fmt.Errorf("reading the request: %w", err)
		}
		defer file.Close()
		from = file
	}
	content, err := io.ReadAll(io.LimitReader(from, csr.MaxRequestBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading the request: %w", err)
	}
	return parseRequest(content, node)
}

// parseRequest checks a request in PEM.
func parseRequest(content []byte, node string) (*signRequest, error) {
	result := csr.EvaluateContent(content, node)
	if result.Verdict != csr.Approve {
		return nil, fmt.Errorf("nothing was sent, since the operator would deny this request: %s: %s", result.Reason, result.Message)
	}
	spec, err := csr.ClientSpec(content)
	if err != nil {
		return nil, err
	}
	return &signRequest{spec, result.KeyFingerprint}, nil
}

func (o *signOptions) run(ctx context.Context, c client.WithWatch, connectWithToken tokenConnector, name string, request *signRequest) error {
	if o.outputFile != "" && !o.overwrite { // before the command changes anything
		if err := checkAbsent(o.outputFile); err != nil {
			return err
		}
	}
	config, certificate, err := o.issue(ctx, c, connectWithToken, name, request)
	if err != nil {
		return err
	}
	if o.output == outputCertificate {
		return o.write(certificate, "Wrote the certificate to "+o.outputFile)
	}
	content, err := signedKubeconfig(config, certificate, o.keyPath)
	if err != nil {
		return err
	}
	return o.write(content, fmt.Sprintf("Wrote %s: give it to the kubelet of %s as --bootstrap-kubeconfig. The key must be at %s there",
		o.outputFile, name, o.keyPath))
}

// issue pins the key of a request and gets its certificate. The kubeconfig that it returns is the published one, with the token in it.
func (o *signOptions) issue(ctx context.Context, c client.WithWatch, connectWithToken tokenConnector, name string,
	request *signRequest) (*clientcmdapi.Config, []byte, error) {
	deadline := time.Now().Add(o.wait)
	nb, err := o.prepare(ctx, c, name, request.fingerprint)
	if err != nil {
		return nil, nil, err
	}
	published, err := readKubeconfig(ctx, c, nb.Status.KubeconfigSecretRef)
	if err != nil {
		return nil, nil, err
	}
	config, user, err := decodeKubeconfig(published)
	if err != nil {
		return nil, nil, err
	}
	holder, err := connectWithToken(user.Token)
	if err != nil {
		return nil, nil, err
	}
	r, err := o.submit(ctx, holder, nb, request)
	if err != nil {
		return nil, nil, err
	}
	if err := o.awaitCertificate(ctx, holder, nb, r, deadline); err != nil {
		return nil, nil, err
	}
	return config, r.Status.Certificate, nil
}

// signedKubeconfig replaces the token in a published kubeconfig by a certificate, and the path of its key on the machine.
func signedKubeconfig(config *clientcmdapi.Config, certificate []byte, keyPath string) ([]byte, error) {
	*config.AuthInfos[config.Contexts[config.CurrentContext].AuthInfo] = clientcmdapi.AuthInfo{ClientCertificateData: certificate, ClientKey: keyPath}
	content, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("encoding the kubeconfig: %w", err)
	}
	return content, nil
}

// prepare pins the key and returns the NodeBootstrap when its kubeconfig is published.
func (o *signOptions) prepare(ctx context.Context, c client.WithWatch, name, fingerprint string) (*v1alpha1.NodeBootstrap, error) {
	nb, err := get(ctx, c, name)
	if err != nil {
		return nil, err
	}
	if err := checkSignable(nb); err != nil {
		return nil, err
	}
	if err := o.pin(ctx, c, nb, fingerprint); err != nil {
		return nil, err
	}
	check := func(nb *v1alpha1.NodeBootstrap) error {
		if err := checkSignable(nb); err != nil {
			return err
		}
		if nb.Spec.PinnedKey() != fingerprint {
			return notReady(nb, "the key of this request is not pinned yet")
		}
		return checkPublished(nb)
	}
	err = check(nb)
	if _, early := errors.AsType[*notReadyError](err); !early {
		return nb, err
	}
	return await(ctx, c, name, o.wait, check, func(why string) { fmt.Fprintf(o.ErrOut, "Waiting: %s\n", why) })
}

// checkSignable returns why no certificate can be requested with the node's token, now or later.
func checkSignable(nb *v1alpha1.NodeBootstrap) error {
	switch {
	case nb.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide:
		return fmt.Errorf("NodeBootstrap %s has approval ClusterWide, with which no key can be pinned: anyone who has its token can get a certificate", nb.Name)
	case steps.IsMember(nb):
		return fmt.Errorf("the node %[1]s has joined already. If its machine needs a new certificate, for example after a reinstallation, "+
			"request a reissue and run this command again:\n\nkubectl nodebootstrap reissue %[1]s", nb.Name)
	}
	return nil
}

// pin pins a key, and updates nb. It never replaces a key: that is up to whoever has pinned it.
func (o *signOptions) pin(ctx context.Context, c client.Client, nb *v1alpha1.NodeBootstrap, fingerprint string) error {
	pinned := nb.Spec.PinnedKey()
	if pinned == fingerprint {
		return nil
	}
	why := fmt.Errorf("NodeBootstrap %s pins another key, %s", nb.Name, pinned)
	if pinned == "" {
		switch err := applyPin(ctx, c, nb, fingerprint); {
		case err == nil:
			fmt.Fprintf(o.ErrOut, "Pinned the key %s in NodeBootstrap %s.\n", fingerprint, nb.Name)
			return nil
		case !apierrors.IsConflict(err):
			return describeError(err, "patch", nb.Name)
		default:
			why = fmt.Errorf("another tool owns the field keyFingerprint of NodeBootstrap %s: %w", nb.Name, err)
		}
	}
	fmt.Fprintf(o.ErrOut, `The key of this request is not pinned. Commit these lines to the NodeBootstrap %[1]s:

spec:
  clientCertificate:
    keyFingerprint: %[2]s

Or, if it is not in Git:

kubectl patch nodebootstrap %[1]s --type=merge -p '{"spec":{"clientCertificate":{"keyFingerprint":"%[2]s"}}}'

`, nb.Name, fingerprint)
	if o.waitForPin {
		return nil
	}
	return fmt.Errorf("%w. Pin the key of this request as shown above, and run the command again; with --wait 10m it waits for that", why)
}

// applyPin applies only the fingerprint. The uid keeps it from creating a NodeBootstrap that was deleted.
func applyPin(ctx context.Context, c client.Client, nb *v1alpha1.NodeBootstrap, fingerprint string) error {
	patch, err := json.Marshal(map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(),
		"kind":       "NodeBootstrap",
		"metadata":   map[string]any{"name": nb.Name, "uid": nb.UID},
		"spec":       map[string]any{"clientCertificate": map[string]any{"keyFingerprint": fingerprint}},
	})
	if err != nil {
		return err
	}
	return c.Patch(ctx, nb, client.RawPatch(types.ApplyPatchType, patch), signManager)
}

func (o *signOptions) write(content []byte, done string) error {
	if o.outputFile == "" {
		_, err := o.Out.Write(content)
		return err
	}
	if err := writeFile(o.outputFile, content, o.overwrite); err != nil {
		return err
	}
	fmt.Fprintf(o.ErrOut, "%s.\n", done)
	return nil
}
