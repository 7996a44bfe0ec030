// Command fetch installs one release as an agent would: fetch JOB STORE. It is
// the measured half of the install benchmark.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/modelfleet/modelfleet/infra/bench/install"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry/web"
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "fetch:", err)
		os.Exit(1)
	}
}

func run(jobPath, storeDir string) error {
	b, err := os.ReadFile(jobPath)
	if err != nil {
		return err
	}
	var job install.Job
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
	res, err := f.Install(context.Background(), delivery.Want{Key: job.Key, Manifest: job.Manifest, Size: job.Size,
		Bases: []fleet.Digest{job.Base}}, nil)
	if err != nil {
		return err
	}
	report := install.Report{From: map[string]int64{}, Wire: res.Progress.Wire}
	for kind, n := range res.Progress.From {
		report.From[kind.String()] = n
	}
	return json.NewEncoder(os.Stdout).Encode(report)
}
