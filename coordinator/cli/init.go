package cli

import (
	"context"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/ceremony"
	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer/keyref"
)

// fleetInit is `init`.
type fleetInit struct {
	*desk
	dir                        string
	fleet                      api.FleetFile
	teams, root, policy        []string
	threshold, policyThreshold int
	coordinator, authority     string
	stamps                     []string
}

func (d *desk) initCommand() *cobra.Command {
	o := &fleetInit{desk: d}
	cmd := &cobra.Command{
		Use: "init", Short: "Make a fleet: its keys, its root of trust, its place in a bucket", Args: cobra.NoArgs,
		Long: `Make a fleet: keys in DIR/keys, the root of trust and the policy in the bucket, and
DIR/fleet.json, which the coordinator and "publish" begin with.

Root and policy are signed by people. With --root-key each of them has a key of
their own, made where they are with "modelfleet key create", and only the public
halves come here: init writes one file that is passed from one to the next, each
signs it with "modelfleet key sign", and "modelfleet key publish" (or init again)
finishes once enough have. Without --root-key one key is made here: enough to begin
with, not for a fleet that matters.

A KEY is a file, or awskms:///alias/NAME for one that never leaves AWS KMS.

It makes nothing twice: run it again to finish what was cut short. What is needed
and not given is asked for on a terminal. Credentials for the bucket are found as
the AWS SDK finds them (environment, shared files, role).`,
		Example: `  modelfleet init --dir orchard --name orchard --team vision --bucket orchard-models --region eu-west-1
  modelfleet init --dir lab --name lab --team vision --bucket models --s3-endpoint http://127.0.0.1:9000
  modelfleet init --dir orchard --name orchard --bucket orchard-models --threshold 2 \
    --root-key root-ana.pub --root-key root-ben.pub --root-key root-cy.pub \
    --team vision=2:vic.pub,val.pub --coordinator-key awskms:///alias/modelfleet/orchard/coordinator`,
		RunE: run(func(ctx context.Context, _ []string) error { return o.run(ctx) }),
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", ".", "the fleet's `folder`")
	f.StringVar(&o.fleet.Name, "name", "", "the fleet's `name`")
	f.StringArrayVar(&o.teams, "team", nil, "a `team` that publishes, with a key made here; or TEAM=KEY,KEY with its own, or TEAM=2:KEY,KEY when two must sign; may be repeated")
	f.StringVar(&o.fleet.Bucket, "bucket", "", "the S3 `bucket`, or dir:PATH for a folder that is carried by hand")
	f.StringVar(&o.fleet.Endpoint, "s3-endpoint", "", "`URL` of another S3 server than AWS")
	f.StringVar(&o.fleet.Region, "region", "", "the bucket's `region`")
	f.StringVar(&o.fleet.Prefix, "prefix", "", "put before every key in the bucket")
	f.StringArrayVar(&o.root, "root-key", nil, "public `KEY` of a custodian of root; NAME=KEY says whose it is, else the file's name does; may be repeated")
	f.IntVar(&o.threshold, "threshold", 0, "how many custodians must sign; by default more than half")
	f.StringArrayVar(&o.policy, "policy-key", nil, "public `KEY` of a keeper of the policy; by default root's; may be repeated")
	f.IntVar(&o.policyThreshold, "policy-threshold", 0, "how many must sign the policy; by default as many as root, or more than half of its own")
	f.StringVar(&o.coordinator, "coordinator-key", "", "`KEY` that directives and snapshots are signed with; by default one is made")
	f.StringArrayVar(&o.stamps, "timestamp-key", nil, "`KEY` that timestamps are signed with; several: the coordinator's first, then public ones of heartbeats; none: only those; by default one is made")
	f.StringVar(&o.authority, "device-ca-key", "", "`KEY` of the members' certificates; by default one is made")
	return cmd
}

func (o *fleetInit) run(ctx context.Context) error {
	if err := o.complete(); err != nil {
		return err
	}
	opts := folder.InitOptions{Dir: o.dir, Fleet: o.fleet, Threshold: o.threshold, PolicyThreshold: o.policyThreshold, Now: o.now()}
	opts.Fleet.Keys = api.KeyRefs{Coordinator: some(o.coordinator), DeviceCA: some(o.authority)}
	var err error
	if opts.Root, err = o.holdings(ctx, o.root); err != nil {
		return err
	}
	if opts.Policy, err = o.holdings(ctx, o.policy); err != nil {
		return err
	}
	if len(o.stamps) > 0 {
		opts.Fleet.Keys.Timestamp = o.stamps[:1]
		if opts.Stamps, err = o.holdings(ctx, o.stamps[1:]); err != nil {
			return err
		}
	}
	for _, text := range o.teams {
		team, err := o.team(ctx, text)
		if err != nil {
			return err
		}
		opts.Teams = append(opts.Teams, team)
	}
	made, err := folder.Init(ctx, opts)
	if err != nil {
		return err
	}
	return o.made(made)
}

func some(ref string) []string {
	if ref == "" {
		return nil
	}
	return []string{ref}
}

// complete asks for what is needed and not given, where there is a person to ask.
func (o *fleetInit) complete() error {
	needed := []struct {
		flag, question string
		value          *string
		usual          string
	}{
		{"name", "What is the fleet's name?", &o.fleet.Name, ""},
		{"bucket", "Which S3 bucket is it in (or dir:PATH)?", &o.fleet.Bucket, ""},
		{"team", "Which team publishes its models?", new(string), ""},
	}
	if len(o.teams) > 0 {
		*needed[2].value = o.teams[0]
	}
	asked := false
	for _, n := range needed {
		if *n.value != "" {
			continue
		}
		if !o.Person {
			return fault.Newf(fault.Invalid, opInit, "", "--%s is not given", n.flag).WithHint("see `modelfleet init --help`, or run it on a terminal: it asks")
		}
		answer, err := o.Ask(n.question, n.usual)
		if err != nil {
			return err
		}
		if *n.value, asked = answer, true; answer == "" {
			return fault.Newf(fault.Invalid, opInit, "", "without a %s there is no fleet", n.flag)
		}
	}
	if len(o.teams) == 0 {
		o.teams = []string{*needed[2].value}
	}
	if !asked || len(o.root) > 0 {
		return nil
	}
	answer, err := o.Ask("Public keys of root's custodians, with spaces between (none: one key is made here)?", "none")
	if err != nil || answer == "none" {
		return err
	}
	o.root = strings.Fields(answer)
	if o.threshold > 0 {
		return nil
	}
	if answer, err = o.Ask("How many of them must sign?", strconv.Itoa(len(o.root)/2+1)); err != nil {
		return err
	}
	if o.threshold, err = strconv.Atoi(answer); err != nil {
		return fault.Newf(fault.Invalid, opInit, "", "%q is not a number", answer)
	}
	return nil
}

const opInit = "make fleet"

// passphrase asks for that of a sealed key file, or takes it from the environment.
func (d *desk) passphrase(path string) ([]byte, error) {
	if p := d.env(passwordVariable); p != "" {
		return []byte(p), nil
	}
	if !d.Person {
		return nil, fault.Newf(fault.Invalid, "load key", path, "it has a passphrase, and there is no terminal to ask for it on").
			WithHint("run it on a terminal, or set $%s", passwordVariable)
	}
	return d.Secret("Passphrase of " + path + ":")
}

const passwordVariable = "MODELFLEET_KEY_PASSWORD"

func (d *desk) keys() keyref.Options { return keyref.Options{Passphrase: d.passphrase} }

// holdings reads public keys, each as KEY or NAME=KEY.
func (d *desk) holdings(ctx context.Context, texts []string) ([]ceremony.Holding, error) {
	var out []ceremony.Holding
	for _, text := range texts {
		name, ref, named := strings.Cut(text, "=")
		if !named {
			name, ref = keyref.Holder(text), text
		}
		pub, err := keyref.Public(ctx, ref, d.keys())
		if err != nil {
			return nil, err
		}
		out = append(out, ceremony.Holding{Holder: name, Key: pub})
	}
	return out, nil
}

var teamThreshold = regexp.MustCompile(`^([1-9][0-9]*):(.*)$`)

// team reads TEAM, TEAM=KEY,KEY or TEAM=2:KEY,KEY.
func (d *desk) team(ctx context.Context, text string) (folder.Team, error) {
	name, refs, own := strings.Cut(text, "=")
	team, err := fleet.ParseTeam(name)
	if err != nil {
		return folder.Team{}, err
	}
	t := folder.Team{Name: team}
	if !own {
		return t, nil
	}
	if m := teamThreshold.FindStringSubmatch(refs); m != nil {
		refs = m[2]
		if t.Threshold, err = strconv.Atoi(m[1]); err != nil {
			return t, fault.New(fault.Invalid, "read --team", text, err)
		}
	}
	t.Keys, err = d.holdings(ctx, strings.Split(refs, ","))
	return t, err
}

// made says what was made, and what comes next.
func (o *desk) made(made folder.Made) error {
	if o.json() {
		out := map[string]any{"fleet": made.FleetFile, "dir": made.Dir, "keysMade": list(made.Keys), "objectsMade": made.Objects, "complete": made.Ceremony == nil, "signaturesTaken": list(made.Taken)}
		if made.Ceremony != nil {
			out["ceremony"], out["missing"] = made.File, made.Ceremony.Parties()
		}
		return o.JSON(out)
	}
	if len(made.Keys) > 0 {
		o.Say("keys made in %s: %s", filepath.Join(made.Dir, "keys"), strings.Join(made.Keys, ", "))
	}
	for _, taken := range made.Taken {
		o.Say("used too, though in none of the files given: the signature of %s", taken)
	}
	if made.Ceremony != nil {
		o.Say("fleet %s: root and policy wait for signatures; nothing is in the bucket yet", made.Name)
		o.describe(made.Ceremony)
		o.passOn(made.Ceremony, made.File, made.Dir)
		return nil
	}
	if len(made.Keys) == 0 && made.Objects == 0 {
		o.Say("fleet %s is there already, whole; root %s", made.Name, made.Root.Short())
		return nil
	}
	o.Say("fleet %s: root %s, %d objects put into %s", made.Name, made.Root.Short(), made.Objects, made.Bucket)
	if rootHere(made.Folder) {
		o.Say("")
		o.Say("The root key is one key on this machine (1 of 1): whoever has it has the fleet, and if it")
		o.Say("is lost the trust of every member must be made anew. Take %s", made.KeyPath("root"))
		o.Say("offline now, with a copy; nothing below needs it.")
	}
	o.Say("")
	o.Say("Next:")
	o.Say("  modelfleet-coordinator -fleet %s -data DATA", made.Dir)
	o.Say("  modelfleet context use DATA/admin.context.json")
	o.Say("  modelfleet publish FOLDER MODEL@VERSION --dir %s", made.Dir)
	return nil
}
