// Package local is the device's API for the applications that run models: HTTP
// and JSON on a unix socket (docs/formats/local.md), and a [Client] for
// applications in Go.
//
//	c := local.NewClient(local.ClientOptions{Socket: "/run/modelfleet/agent.sock", App: "scorer"})
//	err := c.Follow(ctx, "detector", func(r local.Loaded) error {
//		m, err := open(r.Path) // verified files of r.Ref; they do not change
//		if err != nil {
//			return err // the agent hears that the release does not load here
//		}
//		swap(m)
//		return nil
//	})
//
// An application is given only releases that were verified and self-tested, by
// a path that stays valid until it unloads. What it observes it reports with the
// root digest of the release it used, so that a switch in between mixes nothing.
// An application that goes away without unloading, while a release is watched,
// counts toward that release's crash loop.
//
// An application that uses none of this opens MODEL/current, a link that is
// switched in one atomic step.
package local
