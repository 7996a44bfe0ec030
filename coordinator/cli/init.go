package cli

import (
	"context"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/ceremony"
	"github.com/modelfleet/modelfleet/coordinator/cli/console"
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
		Use: "init", Short: "Create a fleet: keys, root of trust and bucket", Args: cobra.NoArgs,
		Long: `Create a fleet: keys in DIR/keys, the root of trust and the policy in the bucket, and
DIR/fleet.json, which the coordinator and "publish" read.

Root and policy are signed by custodians. With --root-key, each custodian creates a
key on their own machine with "modelfleet key create", and only the public keys are
needed here. init writes a ceremony file; each custodian signs it with "modelfleet
key sign", and "modelfleet key publish" (or init again) completes the fleet once the
threshold is reached. Without --root-key, a single root key is created here: fine for
a trial, not for production.

A KEY is a file, or awskms:///alias/NAME for a key in AWS KMS.

init is idempotent: run it again to finish an interrupted run. On a terminal it
prompts for missing values. Bucket credentials come from the usual AWS sources
(environment, shared files, role).`,
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
	f.StringArrayVar(&o.teams, "team", nil, "publishing `team`, with a new key; or TEAM=KEY,KEY for existing keys, or TEAM=2:KEY,KEY to require two signatures; repeatable")
	f.StringVar(&o.fleet.Bucket, "bucket", "", "S3 `bucket`, or dir:PATH for a folder that is copied by hand")
	f.StringVar(&o.fleet.Endpoint, "s3-endpoint", "", "`URL` of an S3 server other than AWS")
	f.StringVar(&o.fleet.Region, "region", "", "the bucket's `region`")
	f.StringVar(&o.fleet.Prefix, "prefix", "", "prefix of all object keys in the bucket")
	f.StringArrayVar(&o.root, "root-key", nil, "public `KEY` of a root custodian; repeatable; NAME=KEY names the holder, otherwise the file name does")
	f.IntVar(&o.threshold, "threshold", 0, "signatures root needs; default: a majority")
	f.StringArrayVar(&o.policy, "policy-key", nil, "public `KEY` of a policy custodian; repeatable; default: the root custodians")
	f.IntVar(&o.policyThreshold, "policy-threshold", 0, "signatures the policy needs; default: root's threshold, or a majority of the policy keys")
	f.StringVar(&o.coordinator, "coordinator-key", "", "`KEY` that signs directives and snapshots; default: a new key")
	f.StringArrayVar(&o.stamps, "timestamp-key", nil, "`KEY` that signs timestamps; repeatable: the coordinator's first, then public keys of heartbeats; none: heartbeats only; default: a new key")
	f.StringVar(&o.authority, "device-ca-key", "", "`KEY` that signs members' certificates; default: a new key")
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
	o.Say("fleet %s: root %s, %s uploaded to %s", made.Name, made.Root.Short(), console.Count(made.Objects, "object"), made.Bucket)
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
