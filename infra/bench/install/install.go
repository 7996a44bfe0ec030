// Package install measures what installing a large model costs: verified,
// durable and whole, from S3 on loopback and through links of 1 Gbit/s and
// 100 Mbit/s, as a first release and as a fine-tune of the one that is there,
// against s5cmd copying the same bytes, which neither verifies nor syncs.
//
// Both run as processes of their own, one after the other, round by round, so
// that a busy machine is as unfair to the one as to the other. The installer
// reads by presigned URLs, as a device does, and chooses among the plain, the
// packed and the delta object by what it measures.
package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/modelfleet/modelfleet/infra/bench/figure"
	"github.com/modelfleet/modelfleet/infra/bench/install/member"
	"github.com/modelfleet/modelfleet/infra/bench/process"
	"github.com/modelfleet/modelfleet/infra/devs3"
	"github.com/modelfleet/modelfleet/pkg/artifact"
)

// s5cmdVersion is the anchor.
const s5cmdVersion = "v2.3.0"

// link is a way to the server.
type link struct {
	name        string
	mbit        int64 // 0: as fast as the machine
	rounds      int
	cases       []string
	endpoint    string
	job, jobLow string // paths of the job files
}

// The cases: what is run in each round.
const (
	copied    = "s5cmd"
	equal     = "s5cmd + sync + sha256sum"
	first     = "install"
	firstLow  = "install, low-memory"
	update    = "update"
	updateLow = "update, low-memory"
)

func links(quick bool) []link {
	ls := []link{
		{name: "", rounds: 5, cases: []string{copied, first, firstLow, equal, update, updateLow}},
		{name: " at 1 Gbit/s", mbit: 1000, rounds: 3, cases: []string{copied, first, firstLow, update, updateLow}},
		{name: " at 100 Mbit/s", mbit: 100, rounds: 1, cases: []string{copied, first, update, updateLow}},
	}
	if quick {
		ls[0].rounds, ls[1].rounds = 3, 2
		ls[2].cases = []string{copied, update}
	}
	return ls
}

// bench is one benchmark under way.
type bench struct {
	o          figure.Options
	server     *devs3.Process
	fetch, s5  string // programs; s5 is "" when it cannot be had
	base, next release
	mib        int
}

// Run measures and returns the figures. When s5cmd cannot be had it says so and
// gives our own values without a ratio.
func Run(ctx context.Context, o figure.Options) (figures []figure.Figure, err error) {
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	b := &bench{o: o, mib: 1024}
	if o.Quick {
		b.mib = 256
	}
	if b.o.Work, err = filepath.Abs(o.Work); err != nil {
		return nil, err
	}
	defer func() {
		if b.server != nil {
			err = errors.Join(err, b.server.Stop())
		}
	}()
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	for _, l := range links(o.Quick) {
		runs, wire, err := b.measureLink(ctx, l)
		if err != nil {
			return nil, err
		}
		figures = append(figures, b.figures(l, runs, wire)...)
	}
	return figures, nil
}

// measureLink runs every case of a link, round by round.
func (b *bench) measureLink(ctx context.Context, l link) (runs map[string][]process.Run, wire float64, err error) {
	closed, err := b.connect(ctx, &l)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, closed()) }()
	runs = map[string][]process.Run{}
	for round := range l.rounds {
		for _, name := range l.cases {
			var r process.Run
			var report member.Report
			switch name {
			case copied, equal:
				if b.s5 == "" {
					continue
				}
				r, err = b.copyAnchor(ctx, l, name == equal)
			case first, update:
				r, report, err = b.fetchOnce(ctx, l.job, name == update)
			case firstLow, updateLow:
				r, report, err = b.fetchOnce(ctx, l.jobLow, name == updateLow)
			}
			if err != nil {
				return nil, 0, fmt.Errorf("%s%s: %w", name, l.name, err)
			}
			if name == update {
				wire = float64(report.Wire)
			}
			runs[name] = append(runs[name], r)
			b.o.Logf("round %d of %d%s: %s %.2f s, CPU %.2f s, %.0f MiB %v", round+1, l.rounds, l.name, name, r.Wall, r.CPU, r.RSS, report.From)
		}
	}
	return runs, wire, nil
}

// figures are those of one link.
func (b *bench) figures(l link, runs map[string][]process.Run, wire float64) []figure.Figure {
	anchor := "s5cmd " + s5cmdVersion + " cp"
	wall := func(r process.Run) float64 { return r.Wall }
	cpu := func(r process.Run) float64 { return r.CPU }
	name := func(what, value string) string { return fmt.Sprintf("%s %d MiB%s: %s", what, b.mib, l.name, value) }
	var out []figure.Figure
	for _, what := range []string{first, firstLow, update, updateLow} {
		ours := runs[what]
		if len(ours) == 0 {
			continue
		}
		out = append(out, process.Compare(name(what, "wall"), ours, runs[copied], anchor, wall))
		if eq := runs[equal]; what == first && len(eq) > 0 {
			out = append(out, process.Compare(name(what, "wall, equal guarantees"), ours, eq, anchor+" && sync -d && sha256sum", wall))
		}
		out = append(out, process.Compare(name(what, "CPU"), ours, runs[copied], anchor, cpu), process.Peak(name(what, "peak RSS"), ours))
	}
	return append(out, figure.Figure{Name: name(update, "bytes taken, of the file"), Value: 100 * wire / float64(b.next.man.Size()), Unit: "%"})
}

// fetchOnce installs the new version, into an empty store or into one that has
// the base.
func (b *bench) fetchOnce(ctx context.Context, job string, overBase bool) (process.Run, member.Report, error) {
	store := filepath.Join(b.o.Work, "store")
	if err := os.RemoveAll(store); err != nil {
		return process.Run{}, member.Report{}, err
	}
	if overBase {
		if err := linkTree(filepath.Join(b.o.Work, "base"), store); err != nil {
			return process.Run{}, member.Report{}, err
		}
	}
	return b.install(ctx, job, "store")
}

// install runs the installer.
func (b *bench) install(ctx context.Context, job, store string) (r process.Run, report member.Report, err error) {
	r, out, err := measure(exec.CommandContext(ctx, b.fetch, job, filepath.Join(b.o.Work, store)))
	if err != nil {
		return r, report, err
	}
	return r, report, json.Unmarshal(out, &report)
}

// copyAnchor runs s5cmd, and with equal does what it leaves undone.
func (b *bench) copyAnchor(ctx context.Context, l link, equal bool) (process.Run, error) {
	out := filepath.Join(b.o.Work, "copy.bin")
	if err := os.RemoveAll(out); err != nil {
		return process.Run{}, err
	}
	script := `"$0" --log error --endpoint-url "$1" cp "$2" "$3"`
	if equal {
		script += ` && sync -d "$3" && sha256sum "$3" >/dev/null`
	} else {
		script = "exec " + script
	}
	raw := "s3://" + b.server.Bucket + "/" + artifact.RawKey(b.next.files[0].Digest)
	cmd := exec.CommandContext(ctx, "sh", "-c", script, b.s5, l.endpoint, raw, out)
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+b.server.AccessKey,
		"AWS_SECRET_ACCESS_KEY="+b.server.SecretKey, "AWS_REGION="+b.server.Region)
	r, _, err := measure(cmd)
	return r, err
}

// measure runs a command when the disk has settled.
func measure(cmd *exec.Cmd) (process.Run, []byte, error) {
	syscall.Sync() // what the run before left in the page cache is not this one's to write
	return process.Measure(cmd)
}
