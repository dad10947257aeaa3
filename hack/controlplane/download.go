// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodebootstrap/nodebootstrap/hack/progress"
)

// downloader downloads programs. HTTPS_PROXY and NO_PROXY are respected.
type downloader struct {
	client *http.Client
	show   *progress.Display

	// patience is how long all checksums together can take: they decide between downloading and building.
	patience time.Duration
	// A transfer that brings less than minimum bytes within a window has stalled.
	window  time.Duration
	minimum int64
	// attempts is how often in a row a transfer can break off without minimum bytes, after a pause each.
	attempts int
	pause    time.Duration
}

func newDownloader(show *progress.Display) *downloader {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true // sizes and ranges are those of the files
	return &downloader{
		client: &http.Client{Transport: transport}, show: show,
		patience: 2 * time.Second, window: 15 * time.Second, minimum: 64 << 10, attempts: 3, pause: time.Second,
	}
}

// download is a program and the published checksum of its download.
type download struct {
	program
	sum string
}

// decide asks for the checksums of all programs at once. Those whose checksum arrives in time are downloaded, all others are
// built; why is the first reason.
func (d *downloader) decide(ctx context.Context, programs []program) (downloads []download, build []program, why error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.patience, fmt.Errorf("no answer within %s", d.patience))
	defer cancel()
	sums, errs := make([]string, len(programs)), make([]error, len(programs))
	var wg sync.WaitGroup
	for i, p := range programs {
		if p.url != "" {
			wg.Go(func() { sums[i], errs[i] = d.checksum(ctx, p) })
		}
	}
	wg.Wait()
	for i, p := range programs {
		if sums[i] != "" {
			downloads = append(downloads, download{p, sums[i]})
			continue
		}
		build = append(build, p)
		if why == nil {
			why = errs[i]
		}
	}
	if why == nil {
		why = errors.New("official builds of all programs exist only for Linux")
	}
	return downloads, build, why
}

var sha256Sum = regexp.MustCompile(`^[0-9a-f]{64}$`)

// checksum is the published SHA-256 of what is at a program's URL: a file with nothing else, or lines of sha256sum.
func (d *downloader) checksum(ctx context.Context, p program) (string, error) {
	response, err := d.get(ctx, p.checksums, 0)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answers %s", p.checksums, response.Status)
	}
	lines := bufio.NewScanner(io.LimitReader(response.Body, 1<<20))
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) == 0 || !sha256Sum.MatchString(words[0]) {
			continue
		}
		if len(words) == 1 || strings.TrimPrefix(words[1], "*") == path.Base(p.url) {
			return words[0], nil
		}
	}
	return "", fmt.Errorf("%s has no SHA-256 of %s", p.checksums, path.Base(p.url))
}

func (d *downloader) get(ctx context.Context, url string, offset int64) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if offset > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	response, err := d.client.Do(request)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("%s: %w", url, context.Cause(ctx))
	}
	return response, err
}

// all downloads programs at once. It returns those whose transfer failed. An error is one that building would not help
// against, or should not hide.
func (d *downloader) all(ctx context.Context, downloads []download, dir string) (failed []program, err error) {
	m := newMeter(len(downloads))
	stop := d.show.Every(m.String)
	errs := make([]error, len(downloads))
	var wg sync.WaitGroup
	for i, one := range downloads {
		wg.Go(func() { errs[i] = d.one(ctx, one, dir, m) })
	}
	wg.Wait()
	stop()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	for i, e := range errs {
		var broken *transferError
		switch {
		case errors.As(e, &broken):
			d.show.Line("%s: %v. It is built from source instead.", downloads[i].name, e)
			failed = append(failed, downloads[i].program)
		case e != nil:
			err = errors.Join(err, fmt.Errorf("%s: %w", downloads[i].name, e))
		}
	}
	if len(failed) < len(downloads) && err == nil {
		d.show.Line("Downloaded %s; the checksums are as published.", m.total())
	}
	return failed, err
}

// one downloads a program and puts it into a directory, if its checksum is right: at the latest the second time, since a
// file can have been damaged on the way. Nothing else is left behind.
func (d *downloader) one(ctx context.Context, p download, dir string, m *meter) error {
	for attempt := 1; ; attempt++ {
		sum, err := d.try(ctx, p, dir, m)
		if err != nil || sum == p.sum {
			return err
		}
		if attempt == 2 {
			return fmt.Errorf("%s has the SHA-256 %s, twice, and %s says %s; it was deleted. Something on the way changes it: ask whoever runs your proxy or mirror, or build from source with SOURCE=1",
				p.url, sum, p.checksums, p.sum)
		}
	}
}

// try downloads a program once, and installs it if the checksum is right. It returns the checksum.
func (d *downloader) try(ctx context.Context, p download, dir string, m *meter) (sum string, err error) {
	file, err := os.CreateTemp(dir, "."+p.name+".download-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	sum, err = d.fetch(ctx, p.url, file, m)
	if err != nil || sum != p.sum {
		return sum, err
	}
	if p.member == "" {
		return sum, errors.Join(file.Close(), install(file.Name(), dir, p.program, p.downloaded))
	}
	program, err := extract(file, p.member, dir)
	if err != nil {
		return sum, fmt.Errorf("extracting %s of %s: %w", p.member, p.url, err)
	}
	defer os.Remove(program)
	return sum, install(program, dir, p.program, p.downloaded)
}

// transferError is a download that did not arrive.
type transferError struct{ err error }

func (e *transferError) Error() string { return e.err.Error() }
func (e *transferError) Unwrap() error { return e.err }

// fetch writes what is at a URL to w, and returns its SHA-256. What breaks off is resumed.
func (d *downloader) fetch(ctx context.Context, url string, w io.Writer, m *meter) (string, error) {
	hash := sha256.New()
	var have int64
	for failures := 0; ; {
		n, err := d.transfer(ctx, url, have, io.MultiWriter(w, hash), m)
		have += n
		if err == nil {
			return hex.EncodeToString(hash.Sum(nil)), nil
		}
		var broken *transferError
		if !errors.As(err, &broken) || ctx.Err() != nil {
			return "", err
		}
		if failures++; n >= d.minimum {
			failures = 0
		}
		if failures == d.attempts {
			return "", err
		}
		select {
		case <-ctx.Done():
		case <-time.After(d.pause):
		}
	}
}

// transfer writes what is at a URL from an offset on to w, and returns how much that was.
func (d *downloader) transfer(ctx context.Context, url string, offset int64, w io.Writer, m *meter) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	received := &counter{meter: m}
	go d.cancelStalled(ctx, cancel, received)

	response, err := d.get(ctx, url, offset)
	if err != nil {
		return 0, &transferError{err}
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusOK:
		// Servers can ignore ranges.
		if _, err := io.CopyN(received.discard(), response.Body, offset); err != nil {
			return 0, &transferError{fmt.Errorf("%s: %w", url, err)}
		}
		m.expect(url, response.ContentLength)
	case response.StatusCode == http.StatusPartialContent && strings.HasPrefix(response.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)):
	default:
		return 0, &transferError{fmt.Errorf("%s answers %s", url, response.Status)}
	}
	target := &sink{w: w}
	n, err := io.Copy(io.MultiWriter(target, received), response.Body)
	switch {
	case target.err != nil:
		return n, fmt.Errorf("%w: free some space, about 600 MB in all, and run it again", target.err)
	case err != nil && ctx.Err() != nil:
		return n, &transferError{fmt.Errorf("%s: %w", url, context.Cause(ctx))}
	case err != nil:
		return n, &transferError{fmt.Errorf("%s: %w", url, err)}
	}
	return n, nil
}

// cancelStalled cancels a transfer that brings too little.
func (d *downloader) cancelStalled(ctx context.Context, cancel context.CancelCauseFunc, received *counter) {
	ticker := time.NewTicker(d.window)
	defer ticker.Stop()
	for last := int64(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			now := received.n.Load()
			if now-last < d.minimum {
				cancel(fmt.Errorf("the download has stalled: %d bytes in %s", now-last, d.window))
				return
			}
			last = now
		}
	}
}

// counter counts what a transfer brings, for itself and for the meter.
type counter struct {
	n     atomic.Int64
	meter *meter
}

func (c *counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	c.meter.received.Add(int64(len(b)))
	return len(b), nil
}

// discard counts only for the counter itself, what the meter has counted before.
func (c *counter) discard() io.Writer { return (*discarded)(c) }

type discarded counter

func (c *discarded) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}

// sink remembers that writing failed, and not reading.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	s.err = err
	return n, err
}

// extract writes a member of a .tar.gz to a new file in a directory.
func extract(archive io.ReadSeeker, member, dir string) (name string, err error) {
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	unzipped, err := gzip.NewReader(archive)
	if err != nil {
		return "", err
	}
	for files := tar.NewReader(unzipped); ; {
		header, err := files.Next()
		if err != nil {
			return "", err
		}
		if path.Clean(header.Name) != member || header.Typeflag != tar.TypeReg {
			continue
		}
		file, err := os.CreateTemp(dir, "."+path.Base(member)+".download-*")
		if err != nil {
			return "", err
		}
		_, err = io.CopyN(file, files, header.Size)
		if err := errors.Join(err, file.Close()); err != nil {
			return "", errors.Join(err, os.Remove(file.Name()))
		}
		return file.Name(), nil
	}
}
