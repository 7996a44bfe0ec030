package train

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/modelfleet/modelfleet/functions/scorer/mlp"
)

// The files of a release beside those of package mlp.
const (
	CardFile      = "model-card.md"
	BaselineFile  = "baseline.json"
	ReferenceFile = "reference.f32"
)

// referenceWidth is how many numbers a row of the reference has: the channels,
// then place, regime, truth and machine.
const referenceWidth = channels + 4

// write evaluates a draft and writes its folder.
func (w *workshop) write(d draft) (Report, error) {
	p, err := d.pipeline()
	if err != nil {
		return Report{}, err
	}
	r := Report{Version: d.version, Dir: filepath.Join(w.opts.Dir, d.version), Evaluation: Evaluate(p, w.test)}
	m, err := d.net.model(d.mean, d.scale)
	if err != nil {
		return r, err
	}
	r.Parameters = m.Parameters()
	weights, err := m.Encode(map[string]string{"name": "service-needed", "version": d.version})
	if err != nil {
		return r, err
	}
	profile, err := baseline(p, Channels(), d.seen)
	if err != nil {
		return r, err
	}
	if err := os.MkdirAll(r.Dir, 0o755); err != nil {
		return r, err
	}
	files := map[string][]byte{
		mlp.ModelFile: weights,
		CardFile:      card(d, r),
		ReferenceFile: reference(d.seen, w.opts.ReferenceRows),
	}
	for name, v := range map[string]any{
		mlp.ConfigFile: d.config, mlp.GoldenFile: golden(p, w.test), BaselineFile: profile,
	} {
		text, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return r, fmt.Errorf("%s: %w", name, err)
		}
		files[name] = append(text, '\n')
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(r.Dir, name), data, 0o644); err != nil {
			return r, err
		}
	}
	return r, nil
}

const goldenCases = 32

// golden takes usual samples with the scores this very model gives them: it
// tells a broken file or machine, not a bad model.
func golden(p *mlp.Pipeline, samples []Sample) mlp.Golden {
	g := mlp.Golden{Tolerance: 1e-4}
	for i := 0; i < len(samples) && len(g.Cases) < goldenCases; i += 97 {
		if s := samples[i]; s.Regime == Steady && !s.Outdoor {
			if out := try(p, s); !out.crashed && !out.failed {
				g.Cases = append(g.Cases, mlp.GoldenCase{Sample: s.Sample, Score: out.prediction.Score})
			}
		}
	}
	return g
}

// card is the model card: what it is, how good it is and where it is weak.
func card(d draft, r Report) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# service-needed %s\n\n%s\n\n", d.version, d.story)
	fmt.Fprintf(&b, "Says from %d sensor channels whether a machine needs service; a score of %g or more means yes.\n", channels, d.config.Threshold)
	fmt.Fprintf(&b, "Perceptron of %d parameters, trained on %d samples.\n\n", r.Parameters, len(d.seen))
	fmt.Fprintf(&b, "## Evaluation\n\nOn %d samples of machines that no version was trained on.\n\n", r.Evaluation.Overall.Samples)
	b.WriteString("| slice | samples | accuracy | errors |\n|---|---|---|---|\n")
	row := func(name string, f Figures) {
		fmt.Fprintf(&b, "| %s | %d | %.1f%% | %.1f%% |\n", name, f.Samples, 100*f.Accuracy, 100*(f.Errors+f.Crashes))
	}
	row("all", r.Evaluation.Overall)
	for _, name := range slices.Sorted(maps.Keys(r.Evaluation.Slices)) {
		row(name, r.Evaluation.Slices[name])
	}
	return []byte(b.String())
}

// reference is the head of the training set as little-endian float32 rows. It
// goes round when there are fewer samples than rows.
func reference(samples []Sample, rows int) []byte {
	regimes := []string{Idle, Steady, Heavy, Startup, Bypass}
	out := make([]byte, 0, rows*referenceWidth*4)
	for i := range rows {
		s := samples[i%len(samples)]
		var row [referenceWidth]float32
		copy(row[:], s.Values)
		if s.Outdoor {
			row[channels] = 1
		}
		row[channels+1] = float32(slices.Index(regimes, s.Regime))
		row[channels+2], row[channels+3] = float32(label(s)), float32(s.Machine)
		for _, v := range row {
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
		}
	}
	return out
}
