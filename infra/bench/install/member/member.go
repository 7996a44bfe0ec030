// Package member is the measured half of the install benchmark: it installs one
// release as an agent does, and links no more than one.
package member

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"time"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/registry/web"
)

// Job is what the fetch program is told: a release, and where its objects are.
type Job struct {
	Key, Base fleet.Digest // the release, and the one it may be a difference to
	Manifest  oms.Manifest
	Size      int64
	URLs      map[string]string
	Expires   time.Time
	LowMemory bool
}

// Report is what the fetch program says: bytes by the kind of source they came
// from, and bytes that were sent for them.
type Report struct {
	From map[string]int64
	Wire int64
}

// Fetch installs what the job file says into the store, and writes the report.
func Fetch(ctx context.Context, jobPath, storeDir string, out io.Writer) error {
	b, err := os.ReadFile(jobPath)
	if err != nil {
		return err
	}
	var job Job
	if err := json.Unmarshal(b, &job); err != nil {
		return err
	}
	src, err := web.Open(web.Options{Sign: func(_ context.Context, keys []string) ([]string, time.Time, error) {
		urls := make([]string, len(keys))
		for i, k := range keys {
			urls[i] = job.URLs[k]
		}
		return urls, job.Expires, nil
	}})
	if err != nil {
		return err
	}
	store, err := cas.Open(storeDir)
	if err != nil {
		return err
	}
	f, err := delivery.New(delivery.Options{Store: store, Source: src, LowMemory: job.LowMemory})
	if err != nil {
		return err
	}
	res, err := f.Install(ctx, delivery.Want{Key: job.Key, Manifest: job.Manifest, Size: job.Size,
		Bases: []fleet.Digest{job.Base}}, nil)
	if err != nil {
		return err
	}
	report := Report{From: map[string]int64{}, Wire: res.Progress.Wire}
	for kind, n := range res.Progress.From {
		report.From[kind.String()] = n
	}
	return json.NewEncoder(out).Encode(report)
}
