package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/ceremony"
	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/coordinator/health"
)

// keyStatus is `key status`.
func (d *desk) keyStatus() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "status", Short: "List roles, key holders, thresholds and expiries", Args: cobra.NoArgs,
		Long: `List the fleet's roles: key holders, signature thresholds, current versions and
expiries, followed by recommended actions.`,
		Example: "  modelfleet key status --dir orchard",
		RunE:    run(func(ctx context.Context, _ []string) error { return d.status(ctx, dir) }),
	}
	d.folderFlag(cmd, &dir)
	return cmd
}

// roleStatus is a role in `key status -o json`.
type roleStatus struct {
	Role      string         `json:"role"`
	Keys      []ceremony.Key `json:"keys"`
	Threshold int            `json:"threshold"`
	Version   int64          `json:"version"`
	Expires   time.Time      `json:"expires,omitzero"`
	Days      int            `json:"days"`
}

func (d *desk) status(ctx context.Context, dir string) error {
	home, err := folder.Open(dir)
	if err != nil {
		return err
	}
	store, err := folder.OpenBucket(ctx, home.FleetFile)
	if err != nil {
		return err
	}
	repo, err := home.Repository(ctx, store)
	if err != nil {
		return err
	}
	policy, _ := repo.Policy()
	holders, err := ceremony.Metadata{Root: repo.Root(), Policy: policy}.Holders()
	if err != nil {
		return err
	}
	now := d.now()
	var out []roleStatus
	for _, s := range repo.Standings() {
		r := roleStatus{Role: roleWord(s.Role), Threshold: s.Threshold, Version: s.Version, Expires: s.Expires}
		if !s.Expires.IsZero() {
			r.Days = int(s.Expires.Sub(now).Hours() / 24)
		}
		for _, id := range s.Keys {
			r.Keys = append(r.Keys, ceremony.Key{ID: id, Holder: holders[id]})
		}
		slices.SortFunc(r.Keys, func(a, b ceremony.Key) int { return cmp.Or(cmp.Compare(a.Holder, b.Holder), cmp.Compare(a.ID, b.ID)) })
		out = append(out, r)
	}
	rank := func(r roleStatus) int { return slices.Index([]string{ceremony.RolePolicy, ceremony.RoleRoot}, r.Role) }
	slices.SortStableFunc(out, func(a, b roleStatus) int { return rank(b) - rank(a) }) // root, policy, the others
	facts, err := health.Of(repo)
	if err != nil {
		return err
	}
	findings := health.Findings(facts, now)
	if d.json() {
		return d.JSON(map[string]any{"fleet": home.Name, "roles": out, "findings": list(findings)})
	}
	var rows [][]string
	for _, r := range out {
		var keys []string
		for _, k := range r.Keys {
			keys = append(keys, k.String())
		}
		version, until := "none yet", ""
		if r.Version > 0 {
			version, until = fmt.Sprint(r.Version), fmt.Sprintf("%s (%s)", r.Expires.Format(time.DateOnly), days(r.Expires.Sub(now)))
		}
		rows = append(rows, []string{r.Role, fmt.Sprintf("%d of %d", r.Threshold, len(r.Keys)), version, until, strings.Join(keys, ", ")})
	}
	if err := d.Table("ROLE SIGN VERSION UNTIL KEYS", rows); err != nil {
		return err
	}
	for _, f := range findings {
		d.Say("%s: %s %s; %s", f.Severity, f.Subject, f.What, f.Remedy)
	}
	return nil
}

// roleWord is what people call a TUF role.
func roleWord(role string) string {
	switch role {
	case "targets":
		return ceremony.RolePolicy
	case "fleet":
		return "coordinator"
	}
	return role
}
