// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// A sender sends one CSR, as one client of the API server.
type sender struct {
	header http.Header
	body   []byte
}

// newSender is one that names its user in a header.
func newSender(who http.Header, request *certificatesv1.CertificateSigningRequest) (sender, error) {
	body, err := json.Marshal(request)
	who.Set("Content-Type", "application/json")
	return sender{who, body}, err
}

// send sends CSRs from many clients over the same connections, because the measurement must not include 2,000 TLS handshakes.
func (s *site) send(ctx context.Context, c *http.Client, from sender) (*certificatesv1.CertificateSigningRequest, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Server()+"/apis/certificates.k8s.io/v1/certificatesigningrequests", bytes.NewReader(from.body))
	if err != nil {
		return nil, err
	}
	request.Header = from.header.Clone()
	response, err := c.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusCreated {
		return nil, fmt.Errorf("sending a request: %s: %s", response.Status, content)
	}
	out := &certificatesv1.CertificateSigningRequest{}
	return out, json.Unmarshal(content, out)
}

// anonymous is a client that names its user in a header.
func (s *site) anonymous() (*http.Client, error) {
	cfg := &rest.Config{Host: s.Server(), TLSClientConfig: rest.TLSClientConfig{CAData: s.ServerCA()}}
	return rest.HTTPClientFor(cfg)
}

// tokenSenders are senders with the credentials of nodes.
func tokenSenders(tokens []corev1.Secret) ([]sender, error) {
	var out []sender
	for i := range tokens {
		t, ok := token.Parse(&tokens[i])
		if !ok {
			return nil, fmt.Errorf("the Secret %s is no token", tokens[i].Name)
		}
		request, err := env.KubeletRequest(owned.NodeOf(&tokens[i]))
		if err != nil {
			return nil, err
		}
		from, err := newSender(http.Header{"Authorization": {"Bearer " + t.ID + "." + t.Secret.Reveal()}}, request)
		if err != nil {
			return nil, err
		}
		out = append(out, from)
	}
	return out, nil
}

// nodes are senders that request serving certificates in the name of nodes. The administrator impersonates them:
// 2,000 certificates of their own would be 2,000 connections.
func (s *site) nodes(n int) ([]sender, error) {
	var out []sender
	for i := range n {
		request, err := servingRequest(nodeName(i))
		if err != nil {
			return nil, err
		}
		from, err := newSender(http.Header{
			"Impersonate-User": {"system:node:" + nodeName(i)}, "Impersonate-Group": {"system:nodes", "system:authenticated"},
		}, request)
		if err != nil {
			return nil, err
		}
		out = append(out, from)
	}
	return out, nil
}

// servingRequest is a kubelet's CSR to serve under the node's name.
func servingRequest(node string) (*certificatesv1.CertificateSigningRequest, error) {
	return env.NewRequest(node, certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth, node)
}
