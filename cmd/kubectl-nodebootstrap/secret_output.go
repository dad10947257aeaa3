// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"filippo.io/age"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// secretOptions are those of a command that prints the published kubeconfig, or something with its token in it.
type secretOptions struct {
	genericiooptions.IOStreams
	outputFile string
	overwrite  bool
	wait       time.Duration
	recipient  []string
	recipients []age.Recipient // after validate
}

func (o *secretOptions) add(flags *pflag.FlagSet) {
	flags.StringVar(&o.outputFile, "output-file", "", "Write to this file, which only you can read, instead of standard output.")
	flags.BoolVar(&o.overwrite, "overwrite", false, "Replace the output file if it exists.")
	flags.DurationVar(&o.wait, "wait", 0, "How long to wait until the kubeconfig is published, for example 1m. By default the command does not wait.")
	flags.StringArrayVar(&o.recipient, "recipient", nil,
		"Encrypt the output for this public `key`: age1..., ssh-ed25519 ... or ssh-rsa .... Can be repeated, or have several keys, one per line. "+
			"To decrypt it, run age -d -i with the private key.")
}

func (o *secretOptions) validate() (err error) {
	if o.outputFile == "-" { // standard output, as in kubectl
		o.outputFile = ""
	}
	switch {
	case o.overwrite && o.outputFile == "":
		return errors.New("--overwrite requires --output-file")
	case o.wait < 0:
		return fmt.Errorf("--wait must not be negative, but is %s: write for example 1m", o.wait)
	}
	o.recipients, err = parseRecipients(o.recipient)
	return err
}

// read returns the NodeBootstrap and its kubeconfig when that is published.
func (o *secretOptions) read(ctx context.Context, c client.WithWatch, name string,
	check func(*v1alpha1.NodeBootstrap) error) (*v1alpha1.NodeBootstrap, []byte, error) {
	if o.outputFile != "" && !o.overwrite { // before the command asks the cluster or waits
		if err := checkAbsent(o.outputFile); err != nil {
			return nil, nil, err
		}
	}
	nb, err := o.find(ctx, c, name, check)
	if err != nil {
		return nil, nil, err
	}
	kubeconfig, err := readKubeconfig(ctx, c, nb.Status.KubeconfigSecretRef)
	if err != nil {
		return nil, nil, err
	}
	return nb, kubeconfig, nil
}

// find returns the NodeBootstrap when a check passes.
func (o *secretOptions) find(ctx context.Context, c client.WithWatch, name string,
	check func(*v1alpha1.NodeBootstrap) error) (*v1alpha1.NodeBootstrap, error) {
	nb, err := get(ctx, c, name)
	if err != nil {
		return nil, err
	}
	err = check(nb)
	if _, early := errors.AsType[*notReadyError](err); !early {
		return nb, err
	}
	if o.wait == 0 {
		return nil, fmt.Errorf("%w\nTo wait for it, add --wait 1m", err)
	}
	return await(ctx, c, name, o.wait, check, func(why string) { fmt.Fprintf(o.ErrOut, "Waiting: %s\n", why) })
}

// warnExpired only warns, since the local clock may be wrong.
func (o *secretOptions) warnExpired(token *v1alpha1.TokenStatus, now time.Time) {
	if token != nil && token.ExpirationTime.Time.Before(now) {
		fmt.Fprintf(o.ErrOut, "Warning: by the local clock, the token %s expired %s: is the operator running?\n",
			token.ID, stamp(token.ExpirationTime, now))
	}
}

// write writes the output, encrypted if there are recipients. todo is what to do with the file.
func (o *secretOptions) write(content []byte, todo string) error {
	if len(o.recipients) > 0 {
		var err error
		if content, err = encrypt(content, o.recipients); err != nil {
			return err
		}
		todo = "decrypt it with age -d -i KEY " + o.outputFile
	}
	if o.outputFile == "" {
		_, err := o.Out.Write(content)
		return err
	}
	if err := writeFile(o.outputFile, content, o.overwrite); err != nil {
		return err
	}
	fmt.Fprintf(o.ErrOut, "Wrote %s: %s.\n", o.outputFile, todo)
	return nil
}
