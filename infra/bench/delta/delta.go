// Package delta measures how few bytes an update of a model takes, and what
// they cost to make and to apply: ours as it is published, next to zstd,
// bsdiff, xdelta3, content-defined chunks, and the exclusive or of weights in
// byte planes. The models are trained (package weights); every update of every
// way is applied again and compared byte for byte.
package delta

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sync/errgroup"

	"github.com/modelfleet/modelfleet/infra/bench/figure"
	"github.com/modelfleet/modelfleet/infra/bench/process"
	"github.com/modelfleet/modelfleet/infra/bench/weights"
)

// cell is one update in one format.
type cell struct {
	dtype      weights.DType
	name       string
	next, base string // files, each alone in its folder
	size       int64  // of the release: for an adapter, with the base that stays

	full, ours object
	delta      bool             // ours is a delta; otherwise it is the full object
	tools      map[string]cost  // by name
	speeds     map[string]speed // of ours: "encode", "decode"
}

// derived reports whether the new weights came of the base's: only then is
// there something to gain from it.
func (c *cell) derived() bool { return c.name != weights.Retrain && c.name != weights.Adapter }

func (c *cell) percent(n int64) float64 { return 100 * float64(n) / float64(c.size) }

// best is the smallest update of the peers.
func (c *cell) best(ts []tool) (name string, size int64) {
	for _, t := range ts {
		if n := c.tools[t.name].Size; t.peer && n > 0 && (size == 0 || n < size) {
			name, size = t.name, n
		}
	}
	return name, size
}

// bench is one benchmark under way.
type bench struct {
	o     figure.Options
	codec string
	tools []tool
	pub   *publisher
	cells []*cell
}

// Run measures and returns the figures.
func Run(ctx context.Context, o figure.Options) ([]figure.Figure, error) {
	b := &bench{o: o, codec: filepath.Join(o.Work, "codec")}
	if err := process.Build(ctx, o.Root, b.codec, "./infra/bench/delta/cmd/codec"); err != nil {
		return nil, err
	}
	b.tools = available(tools(b.codec), o.Logf)
	var err error
	if b.pub, err = newPublisher(filepath.Join(o.Work, "bucket")); err != nil {
		return nil, err
	}
	if err := b.models(ctx); err != nil {
		return nil, err
	}
	for _, c := range b.cells {
		if err := b.publish(ctx, c); err != nil {
			return nil, fmt.Errorf("%s %s: %w", c.dtype, c.name, err)
		}
	}
	o.Logf("published %d updates; now the speeds, then the tools", len(b.cells))
	for _, c := range b.cells {
		if err := b.speeds(ctx, c); err != nil {
			return nil, fmt.Errorf("%s %s: %w", c.dtype, c.name, err)
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for _, c := range b.cells {
		g.Go(func() error { return b.anchors(gctx, c) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	b.table()
	return b.figures(), nil
}

// models writes the base and the cases in every format.
func (b *bench) models(ctx context.Context) error {
	settings, cases := weights.Standard(), weights.Cases()
	if b.o.Quick {
		settings, cases = weights.Quick(), []string{weights.Tune200, weights.Tune200x10, weights.Retrain}
	}
	set, err := weights.Load(ctx, settings, b.o.Logf)
	if err != nil {
		return err
	}
	for _, d := range weights.DTypes() {
		write := func(name string) (path string, size int64, err error) {
			data, err := d.Encode(set.Model(name))
			if err != nil {
				return "", 0, err
			}
			path = filepath.Join(b.o.Work, string(d), name, "model."+d.Ext())
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return "", 0, err
			}
			return path, int64(len(data)), os.WriteFile(path, data, 0o644)
		}
		base, baseSize, err := write(weights.Base)
		if err != nil {
			return err
		}
		for _, name := range cases {
			c := &cell{dtype: d, name: name, base: base, tools: map[string]cost{}, speeds: map[string]speed{}}
			if c.next, c.size, err = write(name); err != nil {
				return err
			}
			if name == weights.Adapter {
				c.size += baseSize
			}
			b.cells = append(b.cells, c)
		}
	}
	return nil
}

// publish puts an update into the bucket. Of an adapter only the adapter is new:
// the base is in the bucket, and on the member, under its digest.
func (b *bench) publish(ctx context.Context, c *cell) error {
	base, _, err := b.pub.full(ctx, c.base)
	if err != nil {
		return err
	}
	next, full, err := b.pub.full(ctx, c.next)
	if err != nil {
		return err
	}
	c.full, c.ours = full, full
	if c.name == weights.Adapter {
		return nil
	}
	o, kept, err := b.pub.delta(ctx, next, base, c.next, c.base)
	if kept {
		c.ours, c.delta = o, true
	}
	return err
}

func (b *bench) speeds(ctx context.Context, c *cell) (err error) {
	for _, verb := range []string{"encode", "decode"} {
		if c.speeds[verb], err = c.ours.measure(ctx, b.codec, verb, c.next, c.base); err != nil {
			return err
		}
	}
	return nil
}

// anchors runs the tools. What an archiver sees of an adapter is a longer file:
// the base with the adapter behind it.
func (b *bench) anchors(ctx context.Context, c *cell) error {
	next := c.next
	base, err := os.ReadFile(c.base)
	if err != nil {
		return err
	}
	if c.name == weights.Adapter {
		data, err := os.ReadFile(c.next)
		if err != nil {
			return err
		}
		next = c.next + ".joined"
		if err := os.WriteFile(next, append(slices.Clip(base), data...), 0o644); err != nil {
			return err
		}
	}
	for i, t := range b.tools {
		f := files{base: c.base, next: next, baseSize: int64(len(base)), width: width(c.dtype),
			dir: filepath.Join(b.o.Work, fmt.Sprintf("tool-%s-%s-%d", c.dtype, c.name, i))}
		if c.tools[t.name], err = t.cost(ctx, f); err != nil {
			return fmt.Errorf("%s %s, %s: %w", c.dtype, c.name, t.name, err)
		}
	}
	b.o.Logf("  %s %s: every way applied and compared", c.dtype, c.name)
	return nil
}

// width is the bytes of an element, which the anchor in planes is told.
func width(d weights.DType) int {
	switch d {
	case weights.F32:
		return 4
	case weights.BF16, weights.F16:
		return 2
	}
	return 1
}

// table shows every update, then what the ways cost.
func (b *bench) table() {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "update, % of the new release\t")
	for _, t := range b.tools {
		fmt.Fprintf(w, "%s\t", t.name)
	}
	fmt.Fprint(w, "full\tours\tx best\tencode MB/s\tdecode MB/s\tencode MiB\tdecode MiB\t\n")
	for _, c := range b.cells {
		fmt.Fprintf(w, "%s %s\t", c.dtype, c.name)
		for _, t := range b.tools {
			fmt.Fprintf(w, "%.3g\t", c.percent(c.tools[t.name].Size))
		}
		_, best := c.best(b.tools)
		enc, dec := c.speeds["encode"], c.speeds["decode"]
		fmt.Fprintf(w, "%.3g\t%.3g\t%.2f\t%.0f\t%.0f\t%.0f\t%.0f\t\n", c.percent(c.full.size), c.percent(c.ours.size),
			float64(c.ours.size)/float64(max(best, 1)), enc.MBps, dec.MBps, enc.MiB, dec.MiB)
	}
	fmt.Fprint(w, "\nper core, median of all updates\tencode MB/s\tdecode MB/s\tencode MiB\tdecode MiB\t\n")
	row := func(name string, of func(*cell) (enc, dec speed)) {
		var em, dm, er, dr []float64
		for _, c := range b.cells {
			e, d := of(c)
			em, dm, er, dr = append(em, e.MBps), append(dm, d.MBps), append(er, e.MiB), append(dr, d.MiB)
		}
		fmt.Fprintf(w, "%s\t%.3g\t%.3g\t%.0f\t%.0f\t\n", name, figure.Median(em), figure.Median(dm), slices.Max(er), slices.Max(dr))
	}
	for _, t := range b.tools {
		row(t.name, func(c *cell) (speed, speed) { return c.tools[t.name].Encode, c.tools[t.name].Decode })
	}
	row("ours", func(c *cell) (speed, speed) { return c.speeds["encode"], c.speeds["decode"] })
	w.Flush()
	b.o.Logf("%s", text.String())
}

// figures gives each update, and per format the worst of what there are goals for.
func (b *bench) figures() []figure.Figure {
	var out []figure.Figure
	for _, d := range weights.DTypes() {
		light := figure.Figure{Name: "worst at lr<=1e-5", Unit: "%"}
		derived := figure.Figure{Name: "worst derived of the base", Unit: "%"}
		full := figure.Figure{Name: "worst against full", Unit: "%", Anchor: "our full object"}
		decode := figure.Figure{Name: "decode per core, slowest", Unit: "MB/s"}
		encode := figure.Figure{Name: "encode per core, slowest", Unit: "MB/s"}
		alone := figure.Figure{Name: "full decode per core, slowest", Unit: "MB/s"}
		rss := figure.Figure{Name: "decode peak RSS", Unit: "MiB"}
		for _, c := range b.cells {
			if c.dtype != d {
				continue
			}
			f := figure.Figure{Name: c.name, Value: c.percent(c.ours.size), Unit: "%"}
			if name, best := c.best(b.tools); best > 0 {
				f.Anchor, f.Ratio = name, float64(c.ours.size)/float64(best)
			}
			out = append(out, prefixed(d, f))
			if c.derived() {
				worst(&derived, f)
			}
			if c.name == weights.Tune20 || c.name == weights.Tune200 {
				worst(&light, f)
			}
			worst(&full, figure.Figure{Value: f.Value, Anchor: full.Anchor, Ratio: float64(c.ours.size) / float64(c.full.size)})
			if c.delta {
				lowest(&decode, c.speeds["decode"].MBps)
				lowest(&encode, c.speeds["encode"].MBps)
			} else {
				lowest(&alone, c.speeds["decode"].MBps)
			}
			rss.Value = max(rss.Value, c.speeds["decode"].MiB)
		}
		for _, f := range []figure.Figure{light, derived, full, decode, encode, alone, rss} {
			if f.Value > 0 {
				out = append(out, prefixed(d, f))
			}
		}
	}
	return out
}

func prefixed(d weights.DType, f figure.Figure) figure.Figure {
	f.Name = fmt.Sprintf("update %s %s", d, f.Name)
	return f
}

// worst keeps the figure with the greater ratio.
func worst(f *figure.Figure, g figure.Figure) {
	if g.Ratio > f.Ratio {
		f.Value, f.Anchor, f.Ratio = g.Value, g.Anchor, g.Ratio
	}
}

// lowest keeps the lower speed.
func lowest(f *figure.Figure, mbps float64) {
	if f.Value == 0 || mbps < f.Value {
		f.Value = mbps
	}
}
