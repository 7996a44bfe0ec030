// Package trust decides what a member may believe. A fleet is one TUF
// repository with Uptane's rule expressed as two delegated roles: a release
// runs only if a publisher role lists it AND the fleet role, the coordinator's
// directive, names the same bundle. Both hang from one offline root that each
// member pinned when it joined.
//
//	root ── targets (policy) ─┬─ pub-TEAM   what is a release
//	  │                       └─ fleet      what to run: the directive
//	  ├── snapshot   versions and hashes of all of them
//	  └── timestamp  freshness
//
// Members fetch one object, the trust pack: all of that metadata verbatim. From
// whom it comes does not matter; [Verify] is pure, bytes and state and time in,
// what may be believed out. A failure never changes the state:
//
//	trusted, state, err := trust.Verify(pack, state, facts, now)
//	switch {
//	case err != nil:                        // UNTRUSTED: keep serving, alarm, try another source
//	case trusted.Freshness == trust.Stale:  // keep serving, change nothing, say so
//	default:                                // persist state, act on trusted.Directive
//	}
//
// Package repository, below this one, makes the repository and its packs; this
// one is what members link. The byte formats are in docs/formats/pack.md and
// docs/formats/directive.md.
package trust
