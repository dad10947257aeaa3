// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// maxFileBytes bounds what is read of a file: the API server's limit for an object is an eighth of it.
const maxFileBytes = 16 << 20

// notInFile is why a fact is unknown without a cluster.
const notInFile = "the file does not have it"

// readSituation reads a CSR and its facts from a file. The name selects one of several CSRs.
func readSituation(streams genericiooptions.IOStreams, path, name string) (*situation, error) {
	content, err := readLimited(streams, path)
	if err != nil {
		return nil, err
	}
	var found objectsOfFile
	if err := found.read(content); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r, err := found.request(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s := newSituation(r, time.Now())
	s.all, s.offline = found.nodeBootstraps, true
	for _, o := range found.requests {
		if o != r {
			s.others = append(s.others, o)
		}
	}
	s.gatherFile()
	return s, nil
}

func readLimited(streams genericiooptions.IOStreams, path string) ([]byte, error) {
	in := streams.In
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	content, err := io.ReadAll(io.LimitReader(in, maxFileBytes+1))
	if err == nil && len(content) > maxFileBytes {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFileBytes)
	}
	return content, err
}

// objectsOfFile are the objects of a file that explain uses.
type objectsOfFile struct {
	requests       []*certificatesv1.CertificateSigningRequest
	nodeBootstraps []v1alpha1.NodeBootstrap
}

func (o *objectsOfFile) read(content []byte) error {
	if block := bytes.TrimSpace(content); bytes.HasPrefix(block, []byte("-----BEGIN")) {
		return errors.New("this is PEM, and not a Kubernetes object. For a bare certificate request see kubectl nodebootstrap sign --help")
	}
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		var document runtime.RawExtension
		err := decoder.Decode(&document)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("it is neither YAML nor JSON: %w", err)
		}
		if err := o.add(document.Raw); err != nil {
			return err
		}
	}
}

// add adds an object, or those of a List. Other kinds are left out.
func (o *objectsOfFile) add(raw []byte) error {
	var object struct {
		metav1.TypeMeta `json:",inline"`
		Items           []runtime.RawExtension `json:"items"`
	}
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return nil
	}
	if err := json.Unmarshal(raw, &object); err != nil {
		return fmt.Errorf("it is not a Kubernetes object: %w", err)
	}
	switch object.Kind {
	case "CertificateSigningRequest":
		if object.APIVersion != certificatesv1.SchemeGroupVersion.String() {
			return fmt.Errorf("the CertificateSigningRequest has the apiVersion %q; write %s", clean(object.APIVersion), certificatesv1.SchemeGroupVersion)
		}
		r := &certificatesv1.CertificateSigningRequest{}
		if err := json.Unmarshal(raw, r); err != nil {
			return fmt.Errorf("reading a CertificateSigningRequest: %w", err)
		}
		r.UID = cmp.Or(r.UID, types.UID(fmt.Sprintf("number %d of the file", len(o.requests))))
		o.requests = append(o.requests, r)
	case "NodeBootstrap":
		var nb v1alpha1.NodeBootstrap
		if err := json.Unmarshal(raw, &nb); err != nil {
			return fmt.Errorf("reading a NodeBootstrap: %w", err)
		}
		o.nodeBootstraps = append(o.nodeBootstraps, nb)
	default:
		for _, item := range object.Items {
			if err := o.add(item.Raw); err != nil {
				return err
			}
		}
	}
	return nil
}

func (o *objectsOfFile) request(name string) (*certificatesv1.CertificateSigningRequest, error) {
	var found []*certificatesv1.CertificateSigningRequest
	for _, r := range o.requests {
		if name == "" || r.Name == name {
			found = append(found, r)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0 && name != "":
		return nil, fmt.Errorf("no CertificateSigningRequest has the name %s", name)
	case len(found) == 0:
		return nil, errors.New("no CertificateSigningRequest found: kubectl get csr NAME -o yaml writes one")
	default:
		return nil, fmt.Errorf("%d CertificateSigningRequests found: name one, as in kubectl nodebootstrap explain NAME --filename FILE", len(found))
	}
}

// gatherFile makes the facts from what the file has.
func (s *situation) gatherFile() {
	for _, f := range []fact{factTokenCreated, factRequests, factOthers, factNode, factReserved} {
		s.unknown[f] = notInFile
	}
	if s.request.Spec.Username == "" { // not sent yet
		s.pretend()
	}
	id, serving := token.IDOfUser(s.request.Spec.Username), lifecycle.ServingNode(s.request)
	nb := s.ownerOf(id)
	if serving != "" {
		nb = s.named(serving)
	}
	if id != "" && nb == nil && len(s.all) == 1 && s.all[0].Status.LastTokenID == "" && s.all[0].Status.Token == nil { // a NodeBootstrap without its status
		nb = &s.all[0]
		s.unknown[factRequester] = "the NodeBootstrap in the file has no status, which names its token"
	}
	switch {
	case nb != nil && serving != "" && len(nb.Spec.ServingCertificate.Addresses) == 0:
	case nb != nil:
		s.use(nb)
	case serving != "" || id != "" && slices.Contains(s.request.Spec.Groups, token.Group):
		s.unknown[factNodeBootstrap] = notInFile
		s.assume()
	}
}

// pretend gives a CSR that was not sent yet the requester that it would have.
func (s *situation) pretend() {
	s.unknown[factRequester] = "the API server sets it when the CSR is created"
	r := s.request.DeepCopy()
	s.request = r
	node := csr.RequestedNode(r)
	if len(s.all) == 1 {
		node = s.all[0].Name
	}
	if r.Spec.SignerName == certificatesv1.KubeletServingSignerName {
		r.Spec.Username, r.Spec.Groups = nodeUser+node, []string{nodesGroup, "system:authenticated"}
		return
	}
	id := token.NextID("", "")
	if len(s.all) == 1 && s.all[0].Status.Token != nil {
		id = s.all[0].Status.Token.ID
	}
	r.Spec.Username = bootstrapapi.BootstrapUserPrefix + id
	r.Spec.Groups = []string{bootstrapapi.BootstrapDefaultGroup, token.Group, "system:authenticated"}
	if r.CreationTimestamp.IsZero() {
		r.CreationTimestamp = metav1.NewTime(s.now)
	}
}

// use makes facts of a NodeBootstrap, with a live token.
func (s *situation) use(nb *v1alpha1.NodeBootstrap) {
	s.facts = &lifecycle.Facts{Name: nb.Name, NodeBootstrap: nb.DeepCopy()}
	nb = s.facts.NodeBootstrap
	nb.UID = cmp.Or(nb.UID, "the file's")
	s.addReported()
	id := token.IDOfUser(s.request.Spec.Username)
	if id != "" && !namesToken(&nb.Status, id) && nb.Status.LastTokenID == "" {
		nb.Status.Token = &v1alpha1.TokenStatus{ID: id, ExpirationTime: metav1.NewTime(s.now.Add(nb.Spec.TokenTTL()))}
		s.unknown[factTokenExpires] = notInFile
	}
	if id != "" && namesToken(&nb.Status, id) {
		s.facts.TokenSecrets = append(s.facts.TokenSecrets, s.tokenSecret(id, nil))
	}
	s.facts.UpgradeStatus()
	s.addRequests()
}

// assume makes facts of a NodeBootstrap that is not known: one that is for the node, and for the names, that the CSR requests.
func (s *situation) assume() {
	nb := &v1alpha1.NodeBootstrap{}
	nb.Name = cmp.Or(lifecycle.ServingNode(s.request), csr.RequestedNode(s.request), "unknown")
	for _, a := range csr.RequestedAddresses(s.request) {
		nb.Spec.ServingCertificate.Addresses = append(nb.Spec.ServingCertificate.Addresses, a.Key())
	}
	if lifecycle.ServingNode(s.request) != "" && len(nb.Spec.ServingCertificate.Addresses) == 0 {
		nb.Spec.ServingCertificate.Addresses = []string{nb.Name}
	}
	s.unknown[factTokenExpires] = cmp.Or(s.unknown[factTokenExpires], s.unknown[factNodeBootstrap])
	s.unknown[factTokenCreated] = cmp.Or(s.unknown[factTokenCreated], s.unknown[factNodeBootstrap])
	s.use(nb)
}
