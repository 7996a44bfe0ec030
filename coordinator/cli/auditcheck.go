package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/auditor"
	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

// tiles is where an audit log is read from without a coordinator.
type tiles struct {
	*desk
	dir, bucket, root, key string
}

func (t *tiles) declare(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&t.dir, "dir", t.env("MODELFLEET_DIR"), "the fleet's `folder`, which names the bucket and pins the root; $MODELFLEET_DIR")
	f.StringVar(&t.bucket, "bucket", "", "read the tiles from another `bucket`, or from a copy: dir:PATH")
	f.StringVar(&t.root, "root", "", "SHA-256 of root.json in `hex`, instead of the folder's")
	f.StringVar(&t.key, "key", "", "`file` with the audit log's public key, instead of the policy's")
}

// offline reports whether somebody said where the tiles are.
func (t *tiles) offline() bool { return t.dir != "" || t.bucket != "" }

// source opens the log, with the key that is trusted.
func (t *tiles) source(ctx context.Context) (auditor.Source, error) {
	var none auditor.Source
	var file api.FleetFile
	if t.dir != "" {
		home, err := folder.Open(t.dir)
		if err != nil {
			return none, err
		}
		file = home.FleetFile
	}
	file.Bucket = cmp.Or(t.bucket, file.Bucket)
	if t.root != "" {
		var err error
		if file.Root, err = fleet.ParseDigest(t.root); err != nil {
			return none, err
		}
	}
	store, err := folder.OpenBucket(ctx, file)
	if err != nil {
		return none, err
	}
	if t.key != "" {
		public, err := os.ReadFile(t.key)
		if err != nil {
			return none, fault.New(fault.NotFound, "read audit key", t.key, err)
		}
		return auditor.With(folder.Get(store), string(public))
	}
	if file.Root.IsZero() {
		return none, fault.Newf(fault.Invalid, "verify audit log", file.Bucket, "nothing says which key the log is signed with").
			WithHint("name the fleet's folder (--dir), the digest of its root (--root), or its audit key (--key)")
	}
	root, err := pinnedRoot(ctx, store, file.Root)
	if err != nil {
		return none, err
	}
	return auditor.Open(ctx, folder.Get(store), root)
}

// pinnedRoot looks in the bucket for the root that is pinned.
func pinnedRoot(ctx context.Context, store registry.Reader, pin fleet.Digest) ([]byte, error) {
	for v := int64(1); ; v++ {
		b, _, err := store.Get(ctx, trust.MetadataKey("root", v), "")
		if fault.Is(err, fault.NotFound) {
			return nil, fault.Newf(fault.Untrusted, "verify audit log", "root", "no root there has the digest %s that is pinned", pin.Short()).
				WithHint("is it the fleet's bucket, or a copy of its tuf/ folder too? With the audit key at hand: --key")
		}
		if err != nil {
			return nil, err
		}
		if fleet.DigestOf(b) == pin {
			return b, nil
		}
	}
}

// auditVerify is `audit verify`.
type auditVerify struct {
	tiles
	since string
}

func (d *desk) auditVerify() *cobra.Command {
	o := &auditVerify{tiles: tiles{desk: d}}
	cmd := &cobra.Command{
		Use: "verify", Short: "Verify the integrity of the audit log", Args: cobra.NoArgs,
		Long: `Recompute the audit log's Merkle tree and compare it with the signed checkpoint.

With --dir or --bucket it reads the tiles from the bucket, or from a copy of its
audit/ and tuf/ folders, without the coordinator. The checkpoint must be signed by
the audit key in the policy, which is verified from the pinned root, and every
verdict is recomputed from its recorded evidence. Without these flags it reads the
log from the coordinator and trusts the audit key the coordinator names.

With --since it also proves that the log extends an earlier checkpoint, even if the
audit key was rotated in between: the log records its keys.`,
		Example: `  modelfleet audit verify --dir orchard
  modelfleet audit verify --dir orchard --since checkpoint-2026-11
  modelfleet audit verify --dir orchard --bucket dir:/media/usb     # a copy of audit/ and tuf/
  modelfleet audit verify --bucket dir:./copy --key audit.vkey       # the tiles alone
  modelfleet audit verify                                            # what the coordinator shows`,
		RunE: run(func(ctx context.Context, _ []string) error { return o.run(ctx) }),
	}
	o.declare(cmd)
	cmd.Flags().StringVar(&o.since, "since", "", "checkpoint `file` saved earlier from \"audit checkpoint\"")
	return cmd
}

func (o *auditVerify) run(ctx context.Context) error {
	since := ""
	if o.since != "" {
		b, err := os.ReadFile(o.since)
		if err != nil {
			return fault.New(fault.NotFound, "read checkpoint", o.since, err)
		}
		since = string(b)
	}
	if !o.offline() {
		return o.ask(ctx, since)
	}
	src, err := o.source(ctx)
	if err != nil {
		return err
	}
	r, err := src.Verify(ctx, since)
	if err != nil {
		return err
	}
	if o.json() {
		return o.JSON(r)
	}
	o.Print("%s intact: the tree matches the checkpoint, which the fleet's audit key signed", console.Count(int(r.Entries), "entry"))
	o.Print("%s, %s recomputed from evidence, %s intact", console.Count(r.Directives, "directive"), console.Count(r.Verdicts, "verdict"), console.Count(r.Details, "long detail"))
	if since != "" {
		o.Print("extends the checkpoint of %s", console.Count(int(r.Since), "entry"))
	}
	o.Print("root hash %s", r.Root)
	return nil
}

// ask verifies what the coordinator shows.
func (o *auditVerify) ask(ctx context.Context, since string) error {
	client, err := o.client()
	if err != nil {
		return err
	}
	r, err := client.VerifyAudit(ctx, since)
	if err != nil {
		return err
	}
	if o.json() {
		return o.JSON(r)
	}
	o.Print("%s intact; the latest checkpoint covers %d", console.Count(int(r.Entries), "entry"), r.Signed)
	if since != "" {
		o.Print("extends the checkpoint of %s", console.Count(int(r.Since), "entry"))
	}
	o.Print("root hash %s", r.Root)
	o.Say("this is the coordinator's own view; --dir FLEET reads the bucket and trusts only the pinned root")
	return nil
}

func (d *desk) auditCheckpoint() *cobra.Command {
	o := &tiles{desk: d}
	cmd := &cobra.Command{
		Use: "checkpoint", Short: "Print the latest signed checkpoint", Args: cobra.NoArgs,
		Long: `Print the latest signed checkpoint of the audit log: its size and root hash. Store it
where the coordinator cannot reach it; "audit verify --since" can later prove that
no earlier entry was changed.`,
		Example: `  modelfleet audit checkpoint > checkpoint-2026-11
  modelfleet audit checkpoint --dir orchard > checkpoint-2026-11   # from the bucket, its signature checked`,
		RunE: run(func(ctx context.Context, _ []string) error { return o.checkpoint(ctx) }),
	}
	o.declare(cmd)
	return cmd
}

func (t *tiles) checkpoint(ctx context.Context) error {
	var signed string
	if t.offline() {
		src, err := t.source(ctx)
		if err != nil {
			return err
		}
		if _, signed, err = src.Checkpoint(ctx); err != nil {
			return err
		}
	} else {
		client, err := t.client()
		if err != nil {
			return err
		}
		head, err := client.AuditCheckpoint(ctx)
		if err != nil {
			return err
		}
		signed = head.Note
	}
	if t.json() {
		return t.JSON(map[string]string{"note": signed})
	}
	_, err := t.Out.Write([]byte(signed))
	return err
}

func (d *desk) auditShow() *cobra.Command {
	o := &tiles{desk: d}
	cmd := &cobra.Command{
		Use: "show NUMBER", Short: "Print an entry with its evidence and verify it", Args: cobra.ExactArgs(1),
		Long: `Print one entry of the audit log in full: the decision, who made it, its evidence, and
proof that the entry is in the log. A verdict is recomputed from its evidence.`,
		Example: `  modelfleet audit show 214
  modelfleet audit show 214 --dir orchard   # from the bucket, without the coordinator`,
		RunE: run(func(ctx context.Context, args []string) error { return o.show(ctx, args[0]) }),
	}
	o.declare(cmd)
	return cmd
}

func (t *tiles) show(ctx context.Context, text string) error {
	n, err := strconv.ParseUint(text, 10, 62)
	if err != nil || n == 0 {
		return fault.Newf(fault.Invalid, "show entry", text, "it is no number of an entry").WithHint("entries are numbered from 1; see modelfleet audit log")
	}
	p, e, err := t.proof(ctx, n)
	if err != nil {
		return err
	}
	again := ""
	if e.Action == auditor.Verdict {
		if again = "yes"; auditor.Replay(n-1, e) != nil {
			again = "NO: " + auditor.Replay(n-1, e).Error()
		}
	}
	if t.json() {
		return t.JSON(map[string]any{"entry": api.AuditEntry{Index: n, Entry: e}, "proof": p, "reachedAgain": again})
	}
	cp, err := ledger.Peek(p.Checkpoint)
	if err != nil {
		return fault.New(fault.Untrusted, "show entry", text, err)
	}
	if err := t.Pairs("entry", text, "at", e.At.Format("2006-01-02 15:04:05.000Z"), "actor", e.Actor, "action", e.Action, "subject", e.Subject,
		"reason", e.Reason, "in the log", "yes, of "+strconv.FormatUint(cp.Size, 10)+" entries with root hash "+cp.Root.String(), "reached again", again); err != nil {
		return err
	}
	if len(e.Detail) == 0 {
		return nil
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, e.Detail, "", "  "); err != nil {
		return fault.New(fault.Untrusted, "show entry", text, err)
	}
	t.Print("%s", pretty.String()) // JSON has no control characters
	return nil
}

// proof is an entry with the checked proof that it is in the log.
func (t *tiles) proof(ctx context.Context, n uint64) (ledger.Proof, ledger.Entry, error) {
	if t.offline() {
		src, err := t.source(ctx)
		if err != nil {
			return ledger.Proof{}, ledger.Entry{}, err
		}
		return src.Entry(ctx, n-1)
	}
	client, err := t.client()
	if err != nil {
		return ledger.Proof{}, ledger.Entry{}, err
	}
	return client.AuditEntry(ctx, n)
}

func (d *desk) auditSplits() *cobra.Command {
	return &cobra.Command{
		Use: "splits", Short: "List evidence of a forked audit log", Args: cobra.NoArgs,
		Long: `List evidence that a member was shown a different audit log from the coordinator's:
two inconsistent checkpoints signed by the same key, or a member's signed report of
one. -o json prints the evidence in full.`,
		Example: `  modelfleet audit splits
  modelfleet audit splits -o json > evidence.json`,
		RunE: run(func(ctx context.Context, _ []string) error { return d.splits(ctx) }),
	}
}

func (d *desk) splits(ctx context.Context) error {
	client, err := d.client()
	if err != nil {
		return err
	}
	found, err := client.AuditSplits(ctx)
	if err != nil {
		return err
	}
	if d.json() {
		return d.JSON(list(found))
	}
	if len(found) == 0 {
		d.Print("none: nobody was seen with another log")
		return nil
	}
	rows := make([][]string, len(found))
	for i, s := range found {
		theirs := s.Claim
		if c, err := ledger.Peek(s.Theirs); err == nil {
			theirs = c.String()
		}
		rows[i] = []string{s.Found.Format("2006-01-02 15:04:05"), string(s.Member), console.Clean(theirs), console.Clean(s.Why)}
	}
	return d.Table("FOUND\tMEMBER\tTHEIRS\tWHY", rows)
}
