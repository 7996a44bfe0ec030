package cli

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// capabilitiesCommand is `capabilities`: what the benchmarks of the public OMS
// conformance suite may ask of `sign-model` and its like.
func (d *desk) capabilitiesCommand() *cobra.Command {
	return &cobra.Command{
		Use: "capabilities", Short: "Print the capabilities of sign-model, for the OMS conformance suite", Args: cobra.NoArgs, Hidden: true,
		Example: "  modelfleet capabilities",
		RunE: run(func(context.Context, []string) error {
			hashes := []string{"sha256"}
			for _, h := range hashTypes() {
				hashes = append(hashes, h.Name)
			}
			return d.line(map[string]any{
				"flags": []string{"--hash-algorithm", "--shard-size", "--max-workers"}, "hash_algorithms": hashes,
				"benchmark_model": true, "client_version": d.version,
			})
		}),
	}
}

// line prints JSON that a program reads, whatever -o says.
func (d *desk) line(v any) error {
	raw, err := json.Marshal(v)
	if err == nil {
		d.Print("%s", raw)
	}
	return err
}

// benchmarkModel is `benchmark-model`: it takes the flags of both commands.
type benchmarkModel struct {
	signModel
	verify    verifyModel
	operation string
	repeat    int
}

func (d *desk) benchmarkModelCommand() *cobra.Command {
	o := &benchmarkModel{signModel: signModel{model: model{desk: d}}}
	cmd := &cobra.Command{
		Use: "benchmark-model", Short: "Time sign-model or verify-model, excluding program start", Args: cobra.NoArgs,
		Example: `  modelfleet benchmark-model --operation verify --method key --model-path ./detector --bundle detector.sig --public-key key.pub --repeat 5`,
		RunE:    run(func(ctx context.Context, _ []string) error { return o.run(ctx) }),
	}
	o.declare(cmd)
	f := cmd.Flags()
	o.signModel.flags(f)
	o.verify.flags(f)
	f.StringVar(&o.operation, "operation", "", "`operation` to time: sign or verify")
	f.IntVar(&o.repeat, "repeat", 1, "`number` of times")
	return cmd
}

func (o *benchmarkModel) run(ctx context.Context) error {
	const op = "benchmark model"
	o.verify.model = o.model
	work := map[string]func(context.Context) (oms.Manifest, error){"sign": o.write, "verify": o.verify.check}[o.operation]
	switch {
	case work == nil:
		return fault.Newf(fault.Invalid, op, "--operation "+o.operation, "there is no such operation").WithHint("say --operation sign or --operation verify")
	case o.repeat < 1:
		return fault.Newf(fault.Invalid, op, "--repeat", "it is %d, must be 1 at least", o.repeat)
	}
	if o.operation == "sign" && o.out == "" { // nobody wants the bundle
		dir, err := os.MkdirTemp("", "modelfleet")
		if err != nil {
			return cas.Classify(op, "", err)
		}
		defer os.RemoveAll(dir)
		o.out = filepath.Join(dir, "model.sig")
	}
	times := make([]float64, o.repeat)
	for i := range times {
		begin := time.Now()
		if _, err := work(ctx); err != nil {
			return err
		}
		times[i] = float64(time.Since(begin).Microseconds()) / 1000
	}
	return o.line(map[string]any{"times_ms": times})
}
