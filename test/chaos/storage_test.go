// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// change is one write to the storage. Changes of all objects have one order: that of their revisions.
type change struct {
	revision int64
	at       time.Time // when it was observed
	key      string
	value    []byte // nil if the key was deleted
}

// errCompacted means that a part of the history is lost. The API server compacts it every five minutes, and no restart
// takes nearly as long.
var errCompacted = errors.New("etcd has forgotten changes that were not seen yet")

// storage reads the history of etcd without the API server, so that it is complete although both are restarted. It uses
// etcd's JSON gateway, which needs no client library.
type storage struct {
	url  string
	next int64 // revision
}

// follow calls see with each change since the beginning, in their order, until ctx is done. It continues after an outage of etcd.
func (s *storage) follow(ctx context.Context, see func(change)) error {
	s.next = 1
	for {
		err := s.watch(ctx, see)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errCompacted) {
			return err
		}
		wait(ctx, 50*time.Millisecond)
	}
}

// watchResponse is the part of etcdserverpb.WatchResponse that is needed, as the gateway writes it.
type watchResponse struct {
	Error  json.RawMessage
	Result struct {
		Canceled        bool
		CompactRevision int64 `json:"compact_revision,string"`
		Events          []struct {
			Type string // absent for a put
			KV   struct {
				Key         []byte
				Value       []byte
				ModRevision int64 `json:"mod_revision,string"`
			}
		}
	}
}

func (s *storage) watch(ctx context.Context, see func(change)) error {
	body, err := json.Marshal(map[string]any{"create_request": map[string]any{
		"key": []byte("/registry/"), "range_end": []byte("/registry0"), "start_revision": s.next,
	}})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/v3/watch", bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answers := json.NewDecoder(response.Body)
	for {
		var r watchResponse
		if err := answers.Decode(&r); err != nil {
			return err
		}
		switch {
		case r.Result.CompactRevision > 0:
			return errCompacted
		case r.Error != nil || r.Result.Canceled:
			return fmt.Errorf("the watch has ended: %s", r.Error)
		}
		for _, e := range r.Result.Events {
			c := change{revision: e.KV.ModRevision, at: time.Now(), key: string(e.KV.Key), value: e.KV.Value}
			if e.Type == "DELETE" {
				c.value = nil
			}
			see(c)
			s.next = e.KV.ModRevision + 1
		}
	}
}
