// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// The steps of the story, as they are printed.
const (
	applied        = "resource applied"
	minted         = "token minted"
	published      = "kubeconfig published"
	csrSeen        = "CSR seen"
	approved       = "CSR approved"
	issued         = "certificate issued"
	registered     = "node registered"
	nodeReady      = "node Ready"
	joined         = "NodeBootstrap Joined"
	tokenGone      = "token revoked"
	kubeconfigGone = "kubeconfig removed"
	denied         = "CSR denied"
	alarmed        = "alarm raised"
	waits          = "waiting for a reissue"
	notRevoked     = "nothing revoked"
)

// story prints each step once, when it is observed.
type story struct {
	node  string
	mu    sync.Mutex
	began time.Time
	seen  map[string]chan struct{}
	// tokens are the IDs of the node's tokens.
	tokens map[string]bool
}

// newStory watches everything about a node from now on, until the context ends.
func newStory(ctx context.Context, c client.WithWatch, node string) (*story, error) {
	s := &story{node: node, began: time.Now(), seen: map[string]chan struct{}{}, tokens: map[string]bool{}}
	for _, list := range []client.ObjectList{
		&v1alpha1.NodeBootstrapList{}, &corev1.SecretList{}, &certificatesv1.CertificateSigningRequestList{}, &corev1.NodeList{},
	} {
		w, err := c.Watch(ctx, list)
		if err != nil {
			return nil, fmt.Errorf("watching %T: %w", list, err)
		}
		go func() {
			for event := range w.ResultChan() {
				s.observe(event)
			}
		}()
	}
	return s, nil
}

// step is the channel that is closed when a step has happened.
func (s *story) step(name string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen[name] == nil {
		s.seen[name] = make(chan struct{})
	}
	return s.seen[name]
}

func (s *story) waitFor(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	select {
	case <-s.step(name):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the step %q: %w", name, ctx.Err())
	}
}

// print prints a line with the time since the resource was applied.
func (s *story) print(line string) {
	fmt.Printf("%7.2f s  %s\n", time.Since(s.began).Seconds(), line)
}

// happened prints a step, the first time.
func (s *story) happened(name, detail string) {
	step := s.step(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-step:
	default:
		if name == applied {
			s.began = time.Now()
		}
		s.print(fmt.Sprintf("%-22s %s", name, detail))
		close(step)
	}
}

func (s *story) observe(event watch.Event) {
	switch o := event.Object.(type) {
	case *v1alpha1.NodeBootstrap:
		s.observeNodeBootstrap(o)
	case *corev1.Secret:
		s.observeSecret(o, event.Type == watch.Deleted)
	case *certificatesv1.CertificateSigningRequest:
		s.observeRequest(o)
	case *corev1.Node:
		s.observeNode(o)
	}
}

func (s *story) observeNodeBootstrap(nb *v1alpha1.NodeBootstrap) {
	if nb.Name != s.node {
		return
	}
	s.happened(applied, nb.Name)
	if meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionCredentialsAvailable) {
		ref := nb.Status.KubeconfigSecretRef
		s.happened(published, fmt.Sprintf("Secret %s/%s", ref.Namespace, ref.Name))
	}
	if c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionJoined); c != nil && c.Status == "True" {
		s.happened(joined, c.Message)
	}
	ready := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionReady)
	if c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionTokenMisused); c != nil {
		s.happened(alarmed, fmt.Sprintf("condition %s, reason %s", c.Type, c.Reason))
		if c.Reason == csr.ReasonKeyNotPinned && ready != nil && ready.Status == "True" && nb.Status.Token != nil {
			s.happened(notRevoked, "the NodeBootstrap is still Ready, and the token "+nb.Status.Token.ID+" valid")
		}
	}
	if ready != nil && ready.Reason == v1alpha1.ReasonTokenMisused {
		s.happened(waits, ready.Message)
	}
}

func (s *story) observeSecret(secret *corev1.Secret, gone bool) {
	if owned.NodeOf(secret) != s.node {
		return
	}
	name := "Secret " + secret.Namespace + "/" + secret.Name
	switch isToken := secret.Namespace == token.Namespace; {
	case isToken && gone:
		s.happened(tokenGone, name+" is deleted")
	case isToken:
		if t, ok := token.Parse(secret); ok {
			s.mu.Lock()
			s.tokens[t.ID] = true
			s.mu.Unlock()
		}
		s.happened(minted, name)
	case gone:
		s.happened(kubeconfigGone, name+" is deleted")
	}
}

func (s *story) observeRequest(request *certificatesv1.CertificateSigningRequest) {
	if !slices.Contains(request.Spec.Groups, token.Group) || !s.sentWithTokenOfNode(request) {
		return
	}
	s.happened(csrSeen, shorten(request.Name)+" from "+request.Spec.Username)
	for _, c := range request.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateApproved:
			s.happened(approved, c.Message)
		case certificatesv1.CertificateDenied:
			s.happened(denied, c.Reason+": "+shortenKeys(firstSentence(c.Message)))
		case certificatesv1.CertificateFailed:
		}
	}
	if len(request.Status.Certificate) > 0 {
		s.happened(issued, "by kube-controller-manager")
	}
}

func (s *story) observeNode(node *corev1.Node) {
	if node.Name != s.node {
		return
	}
	s.happened(registered, node.Name+", kubelet "+node.Status.NodeInfo.KubeletVersion)
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			s.happened(nodeReady, c.Message)
		}
	}
}

// sentWithTokenOfNode reports whether a request was sent with one of the tokens that the node has had so far.
func (s *story) sentWithTokenOfNode(request *certificatesv1.CertificateSigningRequest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tokens[token.IDOfUser(request.Spec.Username)]
}

// firstSentence leaves out what the message advises.
func firstSentence(message string) string {
	first, _, _ := strings.Cut(message, ". ")
	return first
}

// shorten leaves out most of the hash in a kubelet's name for its request.
func shorten(name string) string {
	const most = 20
	if len(name) <= most {
		return name
	}
	return strings.TrimSpace(name[:most]) + "..."
}

var fingerprints = regexp.MustCompile(`(SHA256:[0-9a-f]{8})[0-9a-f]+`)

// shortenKeys leaves out most of each key's fingerprint.
func shortenKeys(message string) string { return fingerprints.ReplaceAllString(message, "$1...") }
